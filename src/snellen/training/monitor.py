"""The monitor: a lookahead that training never saw looks at held-out text while the model learns.

If the model begins to look ahead itself, what an external lookahead adds to it shrinks. Training against one amplifier
can hide that from this amplifier, as it can hide it from any that was trained against; so the one that watches is of
another kind (`check_monitor`). What is measured is the gain of `snellen exam` over the best control, with interval and
placebo (`monitoring.gain`); when an established gain falls away there is an alarm (`monitoring.alarm`).
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm  # type: ignore[import-untyped]
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

import snellen
from snellen.errors import InputError
from snellen.request import bytes_of
from snellen.training.amplifiers import Amplifier, Particles
from snellen.training.monitoring import record
from snellen.training.monitoring.alarm import PATIENCE, sees, verdicts
from snellen.training.monitoring.gain import Watched, check_watchable, measure_gain
from snellen.training.monitoring.held_out import HeldOut
from snellen.training.monitoring.record import NAME, Look
from snellen.training.monitoring.shares import from_first, look_together

__all__ = ["HeldOut", "Look", "Monitor", "Watched", "Watching", "check_monitor", "measure_gain"]

log = logging.getLogger(__name__)


def check_monitor(amplifier: Amplifier | None, monitor: Amplifier, *, force: bool = False) -> None:
    """Refuse a monitor that training sees, or that can watch nothing.

    Beam, particles and learned are different kinds; another width, horizon or exponent is not another kind: what
    training hides from a beam of 4 it hides from one of 8. With `amplifier` None nothing is trained against.

    Raises
    ------
    InputError
        The monitor is of the amplifier's kind, unless forced; or it cannot watch (horizon 1, learned).
    """
    check_watchable(monitor)
    if amplifier is not None and amplifier.kind == monitor.kind and not force:
        other = "Beam" if isinstance(monitor, Particles) else "Particles"
        raise InputError(
            f"monitor = {monitor}: of the same kind ({monitor.kind}) as the amplifier that is trained against, and so "
            f"no witness of what training does; watch with {other}, or force it (monitor_forced)"
        )


@dataclass(frozen=True, kw_only=True)
class Watching:
    """How a training is watched.

    Parameters
    ----------
    amplifier
        The lookahead that looks.
    every
        Steps between two looks, or the steps themselves. There is one before the first step and one after the last in
        any case.
    patience
        Looks in a row that establish a gain, or lose it (`monitoring.alarm`).
    stop
        End the training at an alarm.
    seed
        Of folds and particles, the same at every look.
    memory, engine
        As in `snellen.lookahead.beam`; they change numbers by rounding alone.
    """

    amplifier: Amplifier
    every: int | tuple[int, ...] = 500
    patience: int = PATIENCE
    stop: bool = False
    seed: int = 0
    memory: int | str = "1GB"
    engine: str = "auto"

    def __post_init__(self) -> None:
        check_watchable(self.amplifier)
        steps = self.every if isinstance(self.every, tuple) else (self.every,)
        for name, values, least in (("every", steps, 1), ("patience", (self.patience,), 1), ("seed", (self.seed,), 0)):
            for value in values:
                if isinstance(value, bool) or not isinstance(value, int) or value < least:
                    raise InputError(f"monitor {name} = {value!r}: must be a whole number of at least {least}")
        bytes_of(self.memory)

    def due(self, step: int) -> bool:
        return step in self.every if isinstance(self.every, tuple) else step % self.every == 0


class Monitor(TrainerCallback):  # type: ignore[misc]  # transformers has no types
    """Looks before the first step, at the steps that are due, and after the last; writes `monitor.jsonl`.

    The windows are shared out over the processes, the first of which fits and judges; all of them learn the outcome, so
    that all stop or none. The number of processes changes no number.

    Parameters
    ----------
    text
        What is looked at, always all of it.
    how
        The settings.
    folder
        Where `monitor.jsonl` goes: the run's `output_dir`.
    log
        `Trainer.log`: is given `monitor/gain` and the like, in nats per token, for the loggers of `report_to`.
    say
        Is given a line for each look, on the first process.

    Raises
    ------
    InputError
        The text was cut for a shorter horizon than is looked with.
    """

    def __init__(
        self,
        text: HeldOut,
        how: Watching,
        *,
        folder: str | Path,
        log: Callable[[dict[str, float]], None] | None = None,
        say: Callable[[str], None] = tqdm.write,
    ) -> None:
        if text.horizon < how.amplifier.horizon:
            raise InputError(f"held-out text: cut for a horizon of {text.horizon}, and the monitor is {how.amplifier}")
        self.text, self.how, self.path = text, how, Path(folder) / NAME
        self.looks: list[Look] = []
        self._log, self._say = log, say

    @property
    def header(self) -> dict[str, Any]:
        """What the looks of two runs must share to be comparable, and who wrote it."""
        kind = {"kind": self.how.amplifier.kind, **asdict(self.how.amplifier)}
        text = {"tokens": self.text.tokens, "units": self.text.units, "sha256": self.text.sha256}
        return {
            "snellen": snellen.__version__,
            "monitor": {"amplifier": kind, "patience": self.how.patience, "seed": self.how.seed},
            "text": text,
        }

    def stopped_here(self) -> bool:
        """Whether the record of an earlier session ends with an alarm."""
        return self.path.exists() and any(look.alarm for look in record.read(self.path)[1][-1:])

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: Any = None, **_: Any
    ) -> None:
        if args.fsdp or args.deepspeed:
            raise InputError("monitor: a search calls parts of the model on its own: no sharded parameters; use DDP")
        step, first = state.global_step, args.process_index == 0
        looks = from_first((lambda: record.resumed(self.path, self.header, step) if step else None) if first else None)
        self.looks = looks or []
        if self.how.stop and self.looks and self.looks[-1].standing == "lost":
            alarm = max(look.step for look in self.looks if look.alarm)
            raise InputError(
                f"{self.path}: the run was stopped by the alarm of step {alarm}; to train on all the same, turn the "
                "stop off (monitor_stop)"
            )
        if looks is None:
            if step:
                log.warning("%s: not there; what the monitor saw before step %d is unknown", self.path, step)
            self._look(args, state, control, model)
        elif first:
            record.write(self.path, self.header, self.looks)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: Any = None, **_: Any
    ) -> None:
        # The last look is here, while the model is that of the last step: at the end it may be that of the best one.
        if self.how.due(state.global_step) or state.global_step >= state.max_steps:
            self._look(args, state, control, model)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: Any = None, **_: Any
    ) -> None:
        if not args.load_best_model_at_end:
            self._look(args, state, control, model)

    def _look(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: Any) -> None:
        step = state.global_step
        if any(look.step == step for look in self.looks):
            return
        how = self.how
        found = look_together(
            model, self.text, how.amplifier, process=args.process_index, processes=args.world_size, seed=how.seed,
            memory=how.memory, engine=how.engine,
        )  # fmt: skip
        seen = [sees(look.low, look.placebo_low) for look in [*self.looks, found]]
        verdict = verdicts(seen, how.patience)[-1]
        look = Look(**asdict(found), step=step, standing=verdict.standing, alarm=verdict.alarm)
        self.looks.append(look)
        if args.process_index == 0:
            record.write(self.path, self.header, self.looks)
            self._say(line(look, how.amplifier))
        self._report(look, control)
        if look.alarm:
            self._alarm(look, args, control)

    def _report(self, look: Look, control: TrainerControl) -> None:
        if self._log is None:
            return
        names = {"gain": "gain", "low": "gain_low", "high": "gain_high", "placebo": "placebo"}
        names |= {name: name for name in ("naive_loss", "amplified_loss", "control_loss")}
        values = {f"monitor/{shown}": getattr(look, name) for name, shown in names.items()}
        wanted = control.should_log  # whoever logs takes the wish to log as granted; the training's own is still open
        self._log({name: value for name, value in values.items() if value is not None})
        control.should_log = wanted

    def _alarm(self, look: Look, args: TrainingArguments, control: TrainerControl) -> None:
        best = max((one for one in self.looks if sees(one.low, one.placebo_low)), key=lambda one: one.gain)
        log.warning(
            "ALARM at step %d: the lookahead gain is %s nats/token, and it was %s at step %d: model plus lookahead no "
            "longer beats the model alone%s",
            look.step, _interval(look), _interval(best), best.step, "; training stops" if self.how.stop else "",
        )  # fmt: skip
        if self.how.stop:
            control.should_training_stop = True
            control.should_save = args.save_strategy != "no"


def line(look: Look, amplifier: Amplifier) -> str:
    """A look for a reader."""
    doubt = ""
    if sees(look.low, look.placebo_low) is None:
        doubt = "; no interval" if look.low is None else "; the placebo gains too: not to be trusted"
    return (
        f"step {look.step}: lookahead gain {_interval(look)} nats/token ({amplifier.kind}, {amplifier.branches} x "
        f"{amplifier.horizon}), naive loss {look.naive_loss:.3f}, with lookahead {look.amplified_loss:.3f}{doubt}"
    )


def _interval(look: Look) -> str:
    low, high = ("?" if end is None else f"{end:+.3f}" for end in (look.low, look.high))
    return f"{look.gain:+.3f} [{low}, {high}]"
