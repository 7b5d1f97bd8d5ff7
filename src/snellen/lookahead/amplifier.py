"""A model together with its lookahead: the amplified next-token distribution."""

from __future__ import annotations

import os
from dataclasses import asdict
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedModel

from snellen.errors import InputError
from snellen.kinds import checked
from snellen.lookahead.amplification import Amplification, mixed
from snellen.lookahead.beam_search import beam
from snellen.lookahead.decoding import Generated, generate
from snellen.lookahead.deployed import NAME, read
from snellen.lookahead.plans import refuse_padding
from snellen.models.body import device_of
from snellen.models.load import load_model


class Lookahead:
    """Wraps a model: its own prediction p mixed with the power lookahead q_{α,D}, (1 − weight) p + weight q by default.

    Parameters
    ----------
    model
        A causal language model in eval mode.
    width, horizon, alpha, weight, mix
        W and D of the beam search, the exponent α, the weight of q, and how it is mixed (see `Amplification`).
    """

    @checked
    def __init__(
        self,
        model: PreTrainedModel,
        *,
        width: int = 4,
        horizon: int = 4,
        alpha: float = 2.0,
        weight: float = 0.2,
        mix: str = "linear",
    ) -> None:
        self.model = model
        self.settings = Amplification(width=width, horizon=horizon, alpha=alpha, weight=weight, mix=mix)

    @classmethod
    @checked
    def from_folder(cls, folder: str | os.PathLike[str], *, dtype: str = "float32", device: str = "auto") -> Lookahead:
        """A model and the lookahead that was saved with it (`save_amplified`).

        Raises
        ------
        InputError
            No model there, or no `lookahead.json` that could be used.
        """
        found = read(folder)
        if found is None:
            raise InputError(
                f"{os.fspath(folder)}: no {NAME} there; write it with save_amplified, or use Lookahead(model)"
            )
        return cls(load_model(folder, dtype=dtype, device=device).model, **asdict(found.settings))

    @checked
    @torch.no_grad()
    def next_token(
        self, input_ids: Int[Tensor, "batch pos"], *, memory: int | str = "1GB"
    ) -> Float[Tensor, "batch vocab"]:
        """The amplified distribution of the token after the last one: probabilities, [batch, vocab].

        Raises
        ------
        InputError
            Rows that are padded: ask for texts of other lengths one by one.
        """
        refuse_padding(self.model, input_ids)
        s, last = self.settings, input_ids.shape[1] - 1
        rollouts = beam(self.model, input_ids, s.width, s.horizon, memory=memory, positions=(last, last + 1))
        ids, q = (x[:, 0].to(device_of(self.model)) for x in rollouts.next_token(alpha=s.alpha))
        logits = self.model(input_ids=input_ids.to(device_of(self.model)), use_cache=False).logits[:, -1].float()
        rows = [
            mixed(row, {int(i): float(x) for i, x in zip(own, log_q, strict=True) if i >= 0}, s)
            for row, own, log_q in zip(logits, ids, q.log(), strict=True)
        ]
        return torch.stack(rows).exp()

    def generate(self, input_ids: Int[Tensor, "batch pos"], **options: Any) -> Int[Tensor, "batch longer"] | Generated:
        """Continue each prompt with tokens of the amplified distribution; `options` as in `decoding.generate`."""
        return generate(self.model, input_ids, **asdict(self.settings), **options)
