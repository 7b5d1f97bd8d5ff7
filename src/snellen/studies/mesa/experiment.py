"""All trainings of all seeds, a few at a time; each is kept, so that the same command goes on where it stopped."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from snellen.errors import InputError, Refused
from snellen.models.bundled import pocket_folder
from snellen.results.files import write_json
from snellen.results.folders import alone
from snellen.studies import pool
from snellen.studies.mesa import keeping, text
from snellen.studies.mesa.judging import as_predictor, held_out, judge, references
from snellen.studies.mesa.keeping import Result
from snellen.studies.mesa.looking import Looking, look_at
from snellen.studies.mesa.tasks import TEXT, setup, setups
from snellen.studies.mesa.training import Plan, Trained, train_on_task
from snellen.studies.mesa.variants import TEXT_VARIANTS, VARIANTS, TextVariant, parameters, variant
from snellen.studies.names import named

SEEDS = 5
TUNING_SEED = 1_000  # learning rates are chosen on this seed; results come from others
REFERENCES = "references"
TASKS = (*(one.name for one in setups()), TEXT)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """judged: how many sequences a model is judged on; looked_into: how many seeds of models are looked into."""

    tasks: Plan = field(default_factory=Plan)
    # Eleven positions instead of fifty, of which one is trained on: cheaper steps, more of them, and gentler ones.
    regression: Plan = field(default_factory=lambda: Plan(steps=800, rates=(3e-4, 1e-3, 3e-3, 1e-2)))
    text: Plan = text.PLAN
    # Of those on which rates that are good for the others do not do.
    harder: Plan = field(default_factory=lambda: Plan(rates=(1e-3, 3e-3, 1e-2, 3e-2), tuning=250))
    judged: int = 2048
    looking: Looking = field(default_factory=Looking)
    looked_into: int = 3

    def plan(self, task: str) -> Plan:
        if task == TEXT:
            return self.text
        one = setup(task)
        return self.regression if one.in_pairs else self.tasks if one.tuned_on == "full" else self.harder


@dataclass(frozen=True, kw_only=True)
class Job:
    """A training and what is measured of it; with `rates` given as one, of the tuning; of references: no training."""

    task: str
    variant: str
    seed: int
    rate: float


@dataclass(frozen=True, kw_only=True)
class Results:
    """trained: one entry a model; references: one a task and seed; tuning: one a learning rate that was tried."""

    trained: Sequence[Result]
    references: Sequence[Result]
    tuning: Sequence[Result]


@alone(ours=keeping.is_ours, what="does not hold results of this study alone")
def experiment(
    folder: Path,
    *,
    seeds: int = SEEDS,
    only: Sequence[str] = (),
    tasks: Sequence[str] = (),
    texts: Path | None = None,
    settings: Settings | None = None,
    processes: int | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Results:
    """The results of all tasks and variants (`tasks`, `only`: of these), those that `folder` has already included.

    The text is trained on where `texts` is given, the folder of the bundled model's corpus.

    Raises
    ------
    InputError
        No seeds, an unknown task or variant, no text, or a folder with the results of another study.
    """
    settings = settings or Settings()
    pairs = _wanted(seeds, only, tasks, texts)
    try:
        for name in ("tuning", "trained", "measured"):
            (folder / name).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"out {str(folder)!r}: {error.strerror}: choose a folder to write to") from error
    identity = text.corpus(texts, folder).identity if any(task == TEXT for task, _ in pairs) else None
    study = _Study(folder=folder, texts=texts, settings=settings, identity=identity)

    tuning = sorted({_tuned(task, name) for task, name in pairs})
    trials = [
        Job(task=task, variant=name, seed=TUNING_SEED, rate=rate)
        for task, name in tuning
        for rate in settings.plan(task).rates
    ]
    on_tasks = [task for task in TASKS if task != TEXT and any(task == one for one, _ in pairs)]
    total = len(trials) + (len(pairs) + len(on_tasks)) * seeds
    processes = pool.at_once(processes, total)
    counting = _Counting(progress, total)
    tried = _all(study.tuned, study.tune, trials, processes, counting)
    rates = {
        (task, name): min(
            (one for one in tried if (one["task"], one["variant"]) == (task, name)),
            key=lambda one: float("inf") if one["loss"] is None else one["loss"],
        )["rate"]
        for task, name in tuning
    }
    jobs = []
    for seed in range(seeds):
        jobs += [Job(task=task, variant=REFERENCES, seed=seed, rate=0.0) for task in on_tasks]
        jobs += [Job(task=task, variant=name, seed=seed, rate=rates[_tuned(task, name)]) for task, name in pairs]
    found = _all(study.measured, study.raise_and_measure, jobs, processes, counting)
    return Results(
        trained=[one for one in found if one["variant"] != REFERENCES],
        references=[one for one in found if one["variant"] == REFERENCES],
        tuning=tried,
    )


def _wanted(seeds: int, only: Sequence[str], tasks: Sequence[str], texts: Path | None) -> list[tuple[str, str]]:
    """Pairs of task and variant."""
    pool.check_seeds(seeds, most=TUNING_SEED)
    known = [one.name for one in (*VARIANTS, *TEXT_VARIANTS)]
    names = named("only", only or known, known, "variant")
    default = [task for task in TASKS if task != TEXT or texts is not None]
    chosen = named("tasks", tasks or default, TASKS, "task")
    pairs = [
        (task, name)
        for task in TASKS
        if task in chosen
        for name in ([one.name for one in TEXT_VARIANTS] if task == TEXT else setup(task).variants)
        if name in names
    ]
    if not pairs:
        on = ", ".join(task for task in TASKS if task in chosen)
        raise InputError(f"only {', '.join(only)}: not trained on {on}; leave one of the two out")
    return pairs


def _tuned(task: str, name: str) -> tuple[str, str]:
    """The task and the variant by which its learning rate is chosen."""
    one = variant(name)
    if isinstance(one, TextVariant):
        return TEXT, name
    return setup(task).tuned_on, one.tuned_as or name


class _Counting:
    def __init__(self, progress: Callable[[int, int], None], total: int) -> None:
        self._progress, self._total, self._done = progress, total, 0

    def add(self, number: int) -> None:
        self._done += number
        self._progress(self._done, self._total)


def _all(
    known: Callable[[Job], Result | None],
    work: Callable[[Job], Result],
    jobs: Sequence[Job],
    processes: int,
    counting: _Counting,
) -> list[Result]:
    """What is kept already, and what `work` makes of the rest; in the order of the jobs."""
    found = {job: known(job) for job in jobs}
    missing = [job for job in jobs if found[job] is None]
    counting.add(len(jobs) - len(missing))
    for job, result in pool.run(partial(_named, work), missing, min(processes, max(1, len(missing)))):
        found[job] = result
        counting.add(1)
    return [result for result in (found[job] for job in jobs) if result is not None]


def _named(work: Callable[[Job], Result], job: Job) -> tuple[Job, Result]:
    return job, work(job)


@dataclass(frozen=True, kw_only=True)
class _Study:
    """What the processes share. identity: of the corpus."""

    folder: Path
    texts: Path | None
    settings: Settings
    identity: str | None

    def tuned(self, job: Job) -> Result | None:
        return keeping.checked(keeping.tuning_file(self.folder, job.task, job.variant, job.rate), self._key(job))

    def tune(self, job: Job) -> Result:
        """Nothing is seen twice, so that the loss of the last steps is one on unseen data."""
        plan = self.settings.plan(job.task)
        trained, refused = self._train(job, replace(plan, steps=plan.tuning or plan.steps))
        content = {
            "schema": keeping.SCHEMA, "key": self._key(job), "task": job.task, "variant": job.variant,
            "rate": job.rate, "loss": None if trained is None else trained.curve[-1], "refused": refused,
            "seconds": None if trained is None else trained.seconds,
        }  # fmt: skip
        write_json(keeping.tuning_file(self.folder, job.task, job.variant, job.rate), content)
        return content

    def measured(self, job: Job) -> Result | None:
        """None where it is to be measured, or measured again."""
        if job.variant != REFERENCES:
            keeping.checked(self._place(job) / "training.json", self._key(job))
        kept = keeping.read(keeping.measured_file(self.folder, job.task, job.variant, job.seed))
        return kept if kept is not None and kept["key"] == self._measuring_key(job) else None

    def raise_and_measure(self, job: Job) -> Result:
        about = {"task": job.task, "variant": job.variant, "seed": job.seed}
        if job.variant == REFERENCES:
            found = references(setup(job.task), self.settings.judged, seed=job.seed)
        else:
            training = self._raised(job)
            about |= {name: training[name] for name in ("rate", "curve", "seconds", "parameters", "refused")}
            found = {} if training["refused"] else self._measure(job)
        content = {"schema": keeping.SCHEMA, "key": self._measuring_key(job), **about, **found}
        write_json(keeping.measured_file(self.folder, job.task, job.variant, job.seed), content)
        return content

    def _raised(self, job: Job) -> Result:
        kept = keeping.checked(self._place(job) / "training.json", self._key(job))
        if kept is not None:
            return kept
        trained, refused = self._train(job, self.settings.plan(job.task))
        about: Mapping[str, Any] = {
            "task": job.task, "variant": job.variant, "seed": job.seed, "rate": job.rate, "refused": refused,
            "curve": None if trained is None else list(trained.curve),
            "seconds": None if trained is None else trained.seconds,
            "parameters": None if trained is None else parameters(trained.model),
        }  # fmt: skip
        return keeping.keep_trained(self._place(job), self._key(job), about, trained)

    def _train(self, job: Job, plan: Plan) -> tuple[Trained | None, str | None]:
        """A training, or why there is none."""
        one = variant(job.variant)
        try:
            if isinstance(one, TextVariant):
                corpus = text.corpus(self.texts, self.folder)
                return text.train_on_text(one, corpus, plan, rate=job.rate, seed=job.seed), None
            return train_on_task(one, setup(job.task), plan, rate=job.rate, seed=job.seed), None
        except Refused as refused:
            return None, str(refused)

    def _measure(self, job: Job) -> dict[str, Any]:
        model, one = keeping.load_trained(self._place(job), job.task), variant(job.variant)
        if isinstance(one, TextVariant):
            nats, count = text.losses(model, text.held_out(AutoTokenizer.from_pretrained(pocket_folder())))
            return {"nats": nats, "count": count}
        task = setup(job.task)
        judged = held_out(task, self.settings.judged, seed=job.seed)
        found = judge(as_predictor(model, task, one), judged)
        if job.seed < self.settings.looked_into:
            found["look"] = look_at(model, task, one, seed=job.seed, looking=self.settings.looking)
        return found

    def _looking(self, job: Job) -> Any:
        return asdict(self.settings.looking) if job.seed < self.settings.looked_into else None

    def _place(self, job: Job) -> Path:
        return keeping.trained_folder(self.folder, job.task, job.variant, job.seed)

    def _key(self, job: Job) -> str:
        return keeping.training_key(
            job.task, job.variant, self.settings.plan(job.task), job.rate, job.seed, self.identity
        )

    def _measuring_key(self, job: Job) -> str:
        if job.variant == REFERENCES:
            return keeping.measuring_key(f"{setup(job.task)!r}", self.settings.judged, job.seed)
        return keeping.measuring_key(self._key(job), self.settings.judged, self._looking(job))
