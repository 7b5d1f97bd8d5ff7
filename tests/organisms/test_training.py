import numpy as np
import pytest
import torch

from snellen.errors import InputError, Refused
from snellen.organisms.catalogue import ORGANISMS, organism
from snellen.organisms.training import Gate, Stage, Training, log_probs, train
from tests.organisms.tiny import ARMS


def training(*stages: Stage, **settings) -> Training:
    small = {
        "width": 16,
        "heads": 2,
        "batch": 64,
        "check_every": 10,
        "held_out": 512,
        "warmup": 10,
        "learning_rate": 1e-2,
    }
    return Training(stages=stages, **{**small, "warmup": 10, "most_steps": 400, **settings})


EARLY = Stage(name="early", gates=(Gate(region="states", below=1.2), Gate(region="states", above=0.2)))
LATE = Stage(
    name="late", gates=(Gate(region="states", below=1.0), Gate(region="decision", below=0.3, counted_from="the author"))
)


def test_models_are_caught_at_the_first_check_that_passes_the_gates():
    seen = {}
    found = train(ARMS, training(EARLY, LATE), seed=1, watch=lambda step, losses: seen.update({step: losses}))
    assert [moment.stage for moment in found] == ["early", "late"]
    first = None
    for moment, stage in zip(found, (EARLY, LATE), strict=True):
        passed = [s for s, losses in seen.items() if all(gate.passes(losses, moment.author) for gate in stage.gates)]
        first = min(s for s in passed if first is None or s >= first)
        assert moment.step == first
        assert moment.losses == seen[first]
    early, late = found
    assert early.step < late.step
    assert late.losses["states"] < 1.0 < early.losses["states"] < 1.2
    # What is given is the model of that moment, not of the end.
    held_out = ARMS.sample(2000, seed=9)
    for moment in found:
        again = ARMS.losses(log_probs(moment.model, held_out))
        assert again["states"] == pytest.approx(moment.losses["states"], abs=0.08)
    assert late.author["decision"] == pytest.approx(np.log(3))


def test_the_same_seed_gives_the_same_weights_and_torch_is_left_alone():
    torch.manual_seed(5)
    state = torch.get_rng_state()
    one, again, other = (train(ARMS, training(EARLY), seed=seed)[0] for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state)
    weights = [m.model.state_dict()["transformer.wte.weight"] for m in (one, again, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_a_state_that_is_not_reached_is_refused_and_named():
    never = Stage(name="clairvoyant", gates=(Gate(region="decision", below=0.5),))
    said = []
    with pytest.raises(Refused, match=r"after 2 attempts.*'clairvoyant' not reached in 20 steps: decision < 0.5 \(the"):
        train(ARMS, training(never, most_steps=20, attempts=2), seed=0, tell=said.append)
    assert len(said) == 2
    assert said[0].startswith("attempt 1 of 2 failed")


def test_a_window_that_is_missed_is_refused():
    missed = Stage(name="window", gates=(Gate(region="states", below=0.3), Gate(region="decision", above=1.2)))
    with pytest.raises(Refused, match="'window' not reached"):
        train(ARMS, training(missed, most_steps=20, attempts=1), seed=0)


def test_what_is_wrong_is_named_before_any_work():
    with pytest.raises(InputError, match="gate on 'rhyme'; the language has decision, states, verdict"):
        train(ARMS, training(Stage(name="s", gates=(Gate(region="rhyme", below=1.0),))), seed=0)
    for wrong in ({}, {"below": 1.0, "above": 0.5}):
        with pytest.raises(InputError, match="one of below and above"):
            Gate(region="states", **wrong)
    for settings in ({"heads": 3}, {"batch": 0}, {"attempts": 0}, {"warmup": -1}):
        with pytest.raises(InputError, match=next(iter(settings))):
            training(EARLY, **settings)
    with pytest.raises(InputError, match="stages"):
        training(EARLY, EARLY)
    with pytest.raises(InputError, match="organism 'unicorn': known are planless"):
        organism("unicorn")


@pytest.mark.parametrize("one", ORGANISMS, ids=lambda one: one.name)
def test_the_gates_of_every_organism_can_be_passed_and_mean_something(one):
    """A model as good as the author passes all gates but those that forbid it to be that good; a blind one fails."""
    language = one.language_at(0)
    author = language.losses(language.log_probs(language.sample(2000, seed=0)))
    blind = dict.fromkeys(author, float(np.log(language.vocabulary)))
    for stage in one.training.stages:
        for gate in stage.gates:
            assert gate.region in language.regions
            assert gate.passes(author, author) == (gate.below is not None)
        assert not all(gate.passes(blind, author) for gate in stage.gates)
    assert language.rules == 0
    assert one.language_at(2).rules == 2
