"""From a settings file to a trainer that is ready to run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel, set_seed

from snellen.errors import InputError
from snellen.models.changes import change_config, check_changed
from snellen.models.checks import check_config, check_layers, check_sizes
from snellen.models.load import load_model, read_config, read_tokenizer
from snellen.models.quiet import quiet
from snellen.models.sources import check_files, resolve
from snellen.texts.read import Document, read_documents
from snellen.training.claim import check_folder
from snellen.training.config import StuntingConfig
from snellen.training.foreign import asked_for
from snellen.training.settings import ModelSettings, TrainingSettings
from snellen.training.trainer import StuntingTrainer


def trainer_for(
    settings: TrainingSettings, *, say: Callable[[str], None] | None = None, **overrides: Any
) -> StuntingTrainer:
    """The trainer that the settings describe; `overrides` are further arguments of `StuntingConfig`.

    say: as of `StuntingTrainer`.

    Raises
    ------
    InputError
        Settings, files or model are wrong, or do not fit each other.
    Refused
        The model fails the preflight.
    """
    config = StuntingConfig(**{**settings.config, **overrides})
    check_folder(Path(config.output_dir), settings.model.source)
    if not settings.data.train:
        raise InputError("data.train: name the texts to train on")
    train = _texts(settings.data.train, settings.data.field)
    held_out = _texts(settings.data.held_out, settings.data.field) if settings.data.held_out else None
    model, tokenizer = _model(settings.model, seed=config.seed)
    return StuntingTrainer(model, config, train, held_out, tokenizer, say=say)


def _texts(paths: Any, field: str) -> list[Document]:
    return read_documents([Path(path) for path in paths], field=field)


def _model(settings: ModelSettings, *, seed: int) -> tuple[PreTrainedModel, Any]:
    """In float32 and trainable; on the CPU, from which the trainer takes it to its device."""
    options: dict[str, Any] = {"revision": settings.revision, "trust_remote_code": settings.trust_remote_code}
    if not settings.from_scratch:
        loaded = load_model(
            settings.source, tokenizer=settings.tokenizer, device="cpu", config_changes=settings.config, **options
        )
        return loaded.model.requires_grad_(True), loaded.tokenizer
    place = resolve(settings.source, revision=settings.revision)
    check_files(place)
    config, place = read_config(place, settings.trust_remote_code)
    check_config(config, place.source)
    change_config(config, settings.config)
    check_layers(config, place.source)
    tokenizer = read_tokenizer(settings.tokenizer or place, settings.trust_remote_code)
    set_seed(seed)
    try:
        with quiet(), asked_for(f"model {settings.source!r} from scratch"):
            model = AutoModelForCausalLM.from_config(
                config, dtype=torch.float32, trust_remote_code=settings.trust_remote_code
            )
    except ArithmeticError as error:  # no heads at all, say
        raise InputError(f"model {settings.source!r} from scratch: its configuration has no model ({error})") from error
    check_changed(model.config, settings.config)
    check_sizes(model, settings.source)
    return model, tokenizer
