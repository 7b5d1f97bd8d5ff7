"""log p(x_t | x_∖t) of a masked model, in batches: what fitness, energy and proposals are made of.

Rows of one length share a batch and nothing is ever padded, so what a text scores depends on no other text.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedModel

from snellen.errors import Refused
from snellen.lookahead.evolution.frame import GAP, Body, Frame
from snellen.models.body import device_of, hidden_size
from snellen.models.masked import MaskedModel
from snellen.request import bytes_of

_KEPT = 100_000  # texts whose scores are remembered; the oldest go first
_ROOM = {"cpu": 4096}  # tokens beyond which a processor gains nothing from a larger batch
_COPIES = 48  # hidden states of a token that are alive at once in a layer, roughly: bounds the memory from above


class Conditionals:
    """Runs one masked model on the texts of one frame, and counts what that costs.

    Attributes
    ----------
    passes
        Rows that the model was run on.
    token_passes
        Tokens in them: the unit of cost that compares models of one size.
    """

    def __init__(
        self,
        model: MaskedModel,
        frame: Frame,
        *,
        memory: int | str = "1GB",
        told: Callable[[int], None] = lambda passes: None,
    ) -> None:
        self.model, self.frame, self._told = model, frame, told
        self.passes = self.token_passes = 0
        self._budget = bytes_of(memory)
        self._known: dict[Body, np.ndarray] = {}
        self._head = _Head(model.model)

    def log_likelihoods(self, bodies: Sequence[Body]) -> list[np.ndarray]:
        """log p(x_t | x_∖t) for each free token of each text, float64 [len(body)]; each text is computed once.

        Raises
        ------
        Refused
            If the model predicts NaN.
        """
        known = {body: self._known[body] for body in bodies if body in self._known}
        new = sorted({body for body in bodies if body not in known}, key=lambda body: (len(body), body))
        rows = [self.frame.row(body) for body in new for _ in body]
        places = [self.frame.start + t for body in new for t in range(len(body))]
        targets = torch.tensor([token for body in new for token in body], device=device_of(self.model.model))
        found = np.empty(len(rows))
        for index, log_probs in self._batches(rows, places):
            picked = log_probs.gather(-1, targets[index, None])[:, 0]
            found[index.cpu().numpy()] = picked.double().cpu().numpy()
        ends = np.cumsum([len(body) for body in new])
        known |= {body: found[end - len(body) : end].copy() for body, end in zip(new, ends, strict=True)}
        for body in new:
            self._known[body] = known[body]
            if len(self._known) > _KEPT:
                del self._known[next(iter(self._known))]
        return [known[body] for body in bodies]

    def at(self, bodies: Sequence[Body], places: Sequence[int]) -> Float[Tensor, "texts vocab"]:
        """log p(· | x_∖t) of each text with the place t = `places` of its body masked (other gaps stay gaps)."""
        result: Tensor | None = None
        rows = [self.frame.row(body) for body in bodies]
        for index, log_probs in self._batches(rows, [self.frame.start + place for place in places]):
            if result is None:
                result = log_probs.new_empty(len(rows), log_probs.shape[-1])
            result[index] = log_probs
        assert result is not None, "no texts"
        return result

    def _batches(self, rows: list[list[int]], places: list[int]) -> Iterator[tuple[Tensor, Tensor]]:
        """(indices into rows, their log-probabilities [n vocab]), each row with its place masked."""
        order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
        device = device_of(self.model.model)
        for length, group in groupby(order, key=lambda i: len(rows[i])):
            members = list(group)
            size = self._rows(length)
            for at in range(0, len(members), size):
                index = torch.tensor(members[at : at + size], device=device)
                ids = torch.tensor([rows[i] for i in members[at : at + size]], device=device)
                where = torch.tensor([places[i] for i in members[at : at + size]], device=device)
                ids[torch.arange(len(ids), device=device), where] = self.frame.mask
                logits = self._head(ids, where)
                self.passes += ids.shape[0]
                self.token_passes += ids.numel()
                self._told(self.passes)
                log_probs = (logits if logits.dtype == torch.float64 else logits.float()).log_softmax(-1)
                if bool(log_probs.isnan().any()):
                    raise Refused(f"{self.model.identity.source!r} predicts NaN: no text can be scored with it")
                yield index, log_probs

    def _rows(self, length: int) -> int:
        hidden = hidden_size(self.model.model)
        most = self._budget // (4 * (_COPIES * hidden * length + self._head.logits(length) * 3))
        room = _ROOM.get(device_of(self.model.model).type)
        return max(1, most if room is None else min(most, room // length))


class _Head:
    """Logits at one place a row. The model's own head is given that place's hidden state alone, where that works.

    Works means: the logits are those of the ordinary forward pass on a probe. Otherwise they are taken from it.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model
        self.narrow = True
        vocabulary = model.get_input_embeddings().weight.shape[0]
        ids = ((torch.arange(12) * 5 + 1) % vocabulary).reshape(2, 6).to(device_of(model))
        places = torch.tensor([1, 4], device=device_of(model))
        plain = self._plain(ids, places)
        self.vocabulary = int(plain.shape[-1])
        try:
            narrow = self._narrow(ids, places)
            scale = float(plain.max() - plain.min())
            tolerance = 1e-5 if plain.dtype in (torch.float32, torch.float64) else 2e-2
            self.narrow = narrow.shape == plain.shape and float((narrow - plain).abs().max()) <= tolerance * scale
        except (RuntimeError, ValueError, TypeError, AttributeError, IndexError, KeyError):
            self.narrow = False

    @torch.inference_mode()
    def __call__(self, ids: Int[Tensor, "rows pos"], places: Int[Tensor, "rows"]) -> Float[Tensor, "rows vocab"]:
        return self._narrow(ids, places) if self.narrow else self._plain(ids, places)

    def logits(self, length: int) -> int:
        """Numbers of a row's logits that are held."""
        return self.vocabulary * (1 if self.narrow else length)

    @torch.inference_mode()
    def _plain(self, ids: Tensor, places: Tensor) -> Tensor:
        logits: Tensor = self.model(input_ids=ids).logits
        return logits[torch.arange(len(ids), device=ids.device), places]

    @torch.inference_mode()
    def _narrow(self, ids: Tensor, places: Tensor) -> Tensor:
        def pick(_: Any, __: Any, output: Any) -> Any:
            hidden = output[0][torch.arange(len(ids), device=ids.device), places][:, None]
            if isinstance(output, tuple):
                return (hidden, *output[1:])
            output.last_hidden_state = hidden
            return output

        handle = self.model.base_model.register_forward_hook(pick)
        try:
            logits: Tensor = self.model(input_ids=ids).logits
        finally:
            handle.remove()
        return logits[:, 0]


def gaps(body: Sequence[int]) -> list[int]:
    """Places of a body that are still to be written."""
    return [place for place, token in enumerate(body) if token == GAP]
