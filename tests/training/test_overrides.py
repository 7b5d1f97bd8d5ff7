"""What transformers calls of ours has a name and arguments that the installed release still calls it by."""

import inspect
from typing import Any

import pytest
from transformers import Trainer, TrainerCallback
from transformers.cache_utils import Cache, CacheLayerMixin, LinearAttentionCacheLayerMixin

from snellen.architectures.mesa.cache import StateCache
from snellen.studies.stunting import raising
from snellen.training import StuntingTrainer, monitor, projection, sums
from snellen.training.resuming import ResumingTrainer

# called by us alone
OURS = (
    "_as_it_ended", "_read", "_broken", "_loss_of", "_preflight", "_as_rows", "_trained", "close", "save_amplified",
    "_found", "_going_on", "_keeping_all", "figures_so_far", "take_figures",
)  # fmt: skip


def parameters(function: Any) -> list[inspect.Parameter]:
    return list(inspect.signature(function).parameters.values())


def fits(ours: Any, theirs: Any) -> bool:
    """Whether ours takes everything by the names and in the order in which theirs is called."""
    mine, names = parameters(ours), [p.name for p in parameters(theirs) if p.kind is not p.VAR_KEYWORD]
    open_ended = {p.kind for p in mine} & {inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL}
    given = [p.name for p in mine if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    return all(name in given for name in names) or (bool(open_ended) and names[: len(given)] == given)


@pytest.mark.parametrize(
    "name",
    [
        n
        for kind in (StuntingTrainer, ResumingTrainer)
        for n, f in vars(kind).items()
        if inspect.isfunction(f) and n not in (*OURS, "__init__")
    ],
)
def test_the_trainer_overrides_what_there_is(name: str) -> None:
    assert hasattr(Trainer, name), f"Trainer.{name} is gone: what stands in its place would never be called"
    assert fits(getattr(StuntingTrainer, name), getattr(Trainer, name))


def test_callbacks_listen_to_events_that_there_are() -> None:
    found = 0
    for module in (monitor, projection, raising, sums):
        for one in vars(module).values():
            if inspect.isclass(one) and issubclass(one, TrainerCallback) and one.__module__ == module.__name__:
                for name in vars(one):
                    if name.startswith("on_"):
                        assert hasattr(TrainerCallback, name), f"{one.__name__}.{name}"
                        found += 1
    assert found >= 4


def test_a_recurrent_cache_layer_answers_to_every_name_of_the_interface() -> None:
    for base in (CacheLayerMixin, LinearAttentionCacheLayerMixin):
        for name in base.__abstractmethods__:
            assert name in dir(StateCache)
    for name in ("reset", "reorder_cache", "crop", "batch_select_indices", "batch_repeat_interleave"):
        assert hasattr(Cache, name)
        assert name in vars(StateCache)
