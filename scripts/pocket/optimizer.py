"""Muon for the matrices, AdamW for the embedding and the norms, behind one optimiser that Trainer can drive."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

EMBEDDING_SHARE = 0.2  # learning rate of the embedding and the norms, as a share of the matrices'


class MuonWithAdamW(torch.optim.Optimizer):
    """The two share their group dictionaries with this one, so a scheduler sets all learning rates at once."""

    def __init__(self, model: nn.Module, matrix_lr: float) -> None:
        embedding = model.get_input_embeddings().weight
        weights = list(model.parameters())
        matrices = [w for w in weights if w.ndim == 2 and w is not embedding]
        others = [w for w in weights if w.ndim != 2 or w is embedding]
        self.muon = torch.optim.Muon(matrices, lr=matrix_lr, weight_decay=0.05, momentum=0.95)
        self.adamw = torch.optim.AdamW(
            others, lr=EMBEDDING_SHARE * matrix_lr, betas=(0.9, 0.98), weight_decay=0.0, fused=True
        )
        super().__init__(weights, {"lr": matrix_lr})
        self.param_groups = self.muon.param_groups + self.adamw.param_groups

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        self.muon.step()
        self.adamw.step()

    def state_dict(self) -> dict[str, Any]:
        return {"muon": self.muon.state_dict(), "adamw": self.adamw.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.muon.load_state_dict(state_dict["muon"])
        self.adamw.load_state_dict(state_dict["adamw"])
        self.param_groups = self.muon.param_groups + self.adamw.param_groups
