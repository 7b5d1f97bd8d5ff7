"""Settings of a stunted training: what transformers' `TrainingArguments` hold, and what this trainer adds."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from transformers import TrainingArguments

from snellen.attention.myopic.making import MODES
from snellen.errors import InputError
from snellen.lookahead.preflight import ENGINES
from snellen.request import bytes_of
from snellen.training.amplifiers import Amplifier, Beam, Learned, Particles
from snellen.training.foreign import asked_for, blamed, check_loggers
from snellen.training.monitor import check_monitor
from snellen.training.monitoring.alarm import PATIENCE
from snellen.training.objectives import METHODS as STUNTING
from snellen.training.objectives import objective_for
from snellen.training.ranges import check_values

# What is trained with no objective of ours: the ordinary loss, through ordinary or through myopic attention.
PLAIN = ("ordinary", "myopic")
METHODS = (*PLAIN, *STUNTING)
FORMS = ("tokens", "gradient", "step")

# Fields of TrainingArguments that a training here does not read.
_UNREAD = {
    "resume_from_checkpoint": "the same run goes on by itself; another's checkpoint is given to train() in Python",
    "do_train": "every run trains; leave it out",
    "do_predict": "nothing is predicted here; leave it out",
    "ignore_data_skip": "a resumed training would read other rows than one that was not killed; leave it out",
    "label_names": "the targets are the labels, always; leave it out",
    "remove_unused_columns": "rows have no columns that could be removed; leave it out",
}

_WANTS: dict[str, tuple[type[Amplifier], ...]] = {
    "skip": (Beam, Particles),
    "penalty": (Beam, Particles),
    "balance": (Beam,),
    "particle": (Particles,),
    "adversarial": (Learned,),
}


@dataclass
class StuntingConfig(TrainingArguments):  # type: ignore[misc]  # transformers has no types
    """`TrainingArguments` with controlled foresight; every field of those is one here, with its default.

    Other defaults than there: `logging_nan_inf_filter` is off (a NaN stops the run instead of being left out of the
    mean), `save_total_limit` is 2, `restore_callback_states_from_checkpoint` is on (early stopping goes on counting),
    `remove_unused_columns` is off, and memory is pinned only where there is CUDA.

    Parameters
    ----------
    method
        "skip", "penalty", "balance", "particle", "adversarial"; or "ordinary" and "myopic", which are not stunted.
    amplifier
        The lookahead that is trained against: `Beam`, for "particle" `Particles`, for "adversarial" `Learned`. None:
        its defaults; none for "ordinary" and "myopic".
    monitor
        The lookahead that watches, of another kind; measured on the evaluation data. None: nobody watches.
    monitor_every, monitor_tokens, monitor_stop, monitor_patience
        Steps between two looks; tokens of held-out text looked at; stop at an alarm; looks in a row that establish a
        gain or lose it.
    monitor_forced
        Admit a monitor of the amplifier's own kind.
    strength
        λ of the penalty.
    against
        What the amplified prediction is held against: "horizon 1", so that lookahead alone is stunted, or, as first
        proposed, "naive", which stunts sharpening as well.
    balance_form
        "tokens": weights of the tokens balance the movement; "gradient": the parameters' gradient is projected;
        "step": the step that the optimiser made is, which holds most (docs/stunting.md).
    myopic_mode, myopic_beta
        See `snellen.attention.make_myopic`.
    max_length
        Tokens of a row of training text; None: as many as the model has places for, but 1,024 at most.
    lookahead_memory
        What a search may hold at a time; changes numbers by rounding alone (docs/runs.md).
    lookahead_engine
        "auto", "columns" or "plain"; see `snellen.lookahead.beam`.

    Raises
    ------
    InputError
        An unknown method, or settings that contradict each other.
    """

    method: str = field(default="balance")
    amplifier: Amplifier | None = field(default=None)
    monitor: Amplifier | None = field(default=None)
    monitor_every: int = field(default=500)
    monitor_tokens: int = field(default=4096)
    monitor_stop: bool = field(default=False)
    monitor_patience: int = field(default=PATIENCE)
    monitor_forced: bool = field(default=False)
    strength: float = field(default=1.0)
    against: str = field(default="horizon 1")
    balance_form: str = field(default="tokens")
    myopic_mode: str = field(default="hidden")
    myopic_beta: float = field(default=1.0)
    max_length: int | None = field(default=None)
    lookahead_memory: str = field(default="1GB")
    lookahead_engine: str = field(default="auto")

    logging_nan_inf_filter: bool = field(default=False)
    save_total_limit: int | None = field(default=2)
    restore_callback_states_from_checkpoint: bool = field(default=True)
    remove_unused_columns: bool = field(default=False)
    dataloader_pin_memory: bool = field(default_factory=torch.cuda.is_available)

    def __post_init__(self) -> None:
        check_values(self)
        if self.method not in METHODS:
            raise InputError(f"method = {self.method!r}: must be one of {', '.join(METHODS)}")
        if self.amplifier is None and self.method not in PLAIN:
            self.amplifier = _WANTS[self.method][0]()
        self._check_amplifier()
        if self.monitor is not None:
            check_monitor(self.amplifier, self.monitor, force=self.monitor_forced)
        for name, known in (("balance_form", FORMS), ("myopic_mode", MODES), ("lookahead_engine", ENGINES)):
            if getattr(self, name) not in known:
                raise InputError(f"{name} = {getattr(self, name)!r}: must be one of {', '.join(known)}")
        bytes_of(self.lookahead_memory)
        self._check_unused()
        check_loggers(self.report_to)
        inherited = TrainingArguments.__dataclass_fields__.values()
        given = {one.name: getattr(self, one.name) for one in inherited if one.init}
        given = {name: value for name, value in given.items() if value != type(self).__dataclass_fields__[name].default}
        with asked_for(lambda error: blamed(given, error)):
            super().__post_init__()
        if self.stunting:
            self._check_engine()
            objective_for(self.method, **self.objective())

    @property
    def stunting(self) -> bool:
        """Whether an objective of ours shapes the updates."""
        return self.method not in PLAIN

    def _check_amplifier(self) -> None:
        if self.method in PLAIN:
            if self.amplifier is not None:
                raise InputError(
                    f"amplifier = {self.amplifier}: method {self.method!r} trains against none; leave it out"
                )
            return
        wanted = _WANTS[self.method]
        if not isinstance(self.amplifier, wanted):
            names = " or ".join(one.__name__ for one in wanted)
            more = '; method "particle" takes Particles' if self.method == "balance" else ""
            raise InputError(f"amplifier = {self.amplifier!r}: method {self.method!r} takes {names}{more}")

    def _check_unused(self) -> None:
        """A setting that another method reads is not silently ignored."""
        for name, methods in (
            ("strength", ("penalty",)), ("against", STUNTING),
            ("balance_form", ("balance",)), ("myopic_mode", ("myopic",)), ("myopic_beta", ("myopic",)),
        ):  # fmt: skip
            default = type(self).__dataclass_fields__[name].default
            if self.method not in methods and getattr(self, name) != default:
                these = " or ".join(map(repr, methods))
                raise InputError(f"{name} = {getattr(self, name)!r}: belongs to method {these}, not {self.method!r}")
        for name in ("monitor_stop", "monitor_forced", "monitor_every", "monitor_tokens", "monitor_patience"):
            default = type(self).__dataclass_fields__[name].default
            if self.monitor is None and getattr(self, name) != default:
                raise InputError(f"{name} = {getattr(self, name)!r}: there is no monitor; set one, or leave it out")
        for name, why in _UNREAD.items():
            value = getattr(self, name, None)
            if value and not (name == "label_names" and list(value) == ["labels"]):
                raise InputError(f"{name} = {value!r}: {why}")
        if self.eval_steps is not None and str(getattr(self.eval_strategy, "value", self.eval_strategy)) == "no":
            raise InputError(f'eval_steps = {self.eval_steps!r}: nothing is evaluated; set eval_strategy = "steps"')

    def _check_engine(self) -> None:
        for name, why in (
            ("torch_compile", "a search changes the model's attention at every step"),
            ("label_smoothing_factor", "the objectives weigh the plain cross-entropy"),
            ("neftune_noise_alpha", "noise in the embeddings would be searched with"),
            ("deepspeed", "use DDP (torchrun)"),
            ("use_liger_kernel", "it leaves out the logits that the objectives read"),
        ):
            if getattr(self, name):
                raise InputError(f"{name} = {getattr(self, name)!r}: not with method {self.method!r}: {why}")
        if not self.average_tokens_across_devices:
            raise InputError(
                f"average_tokens_across_devices = False: not with method {self.method!r}: the objectives weigh all "
                "tokens of a step alike, whatever process holds them"
            )
        if self.fsdp:
            raise InputError(
                f"fsdp = {self.fsdp!r}: not with method {self.method!r}: a search calls parts of the model on its own, "
                "which sharded parameters do not allow; use DDP (torchrun), or method ordinary or myopic"
            )
        if self.fp16 and self.balance_form != "tokens":
            raise InputError(f"fp16 with balance_form {self.balance_form!r}: gradients there are scaled; use bf16")

    def objective(self) -> dict[str, Any]:
        """The settings of the objective, by its own names."""
        read: dict[str, dict[str, Any]] = {
            "skip": {"against": self.against},
            "penalty": {"against": self.against, "strength": self.strength},
            "balance": {"against": self.against, "form": "tokens" if self.balance_form == "tokens" else "gradient"},
            "particle": {"against": self.against},
            "adversarial": {"against": self.against, "amplifier": self.amplifier, "seed": self.seed},
        }
        return read.get(self.method, {})

    def own(self) -> dict[str, Any]:
        """The settings that this class adds, as JSON has them."""
        inherited = TrainingArguments.__dataclass_fields__
        own = {name: getattr(self, name) for name in type(self).__dataclass_fields__ if name not in inherited}
        for name in ("amplifier", "monitor"):
            one = own[name]
            own[name] = None if one is None else {"kind": one.kind, **asdict(one)}
        return own

    def to_dict(self) -> dict[str, Any]:
        """As transformers' own, for loggers and model cards."""
        return {**super().to_dict(), **self.own()}
