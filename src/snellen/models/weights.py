"""A model's weights by name, wherever they lie: also those that accelerate keeps on the disk or in another memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from accelerate.utils import align_module_device, has_offloaded_params
from torch import Tensor, nn
from transformers import PreTrainedModel

from snellen.errors import Refused


class Weights(Mapping[str, Tensor]):
    """The state dict, whose offloaded tensors are fetched one at a time, each when it is asked for."""

    def __init__(self, model: PreTrainedModel) -> None:
        self._model = model
        self._state: dict[str, Tensor] = model.state_dict()

    def __len__(self) -> int:
        return len(self._state)

    def __iter__(self) -> Iterator[str]:
        return iter(self._state)

    def __getitem__(self, name: str) -> Tensor:
        tensor = self._state[name]
        return tensor if self.lasting(name) else self._fetched(name)

    def lasting(self, name: str) -> bool:
        """Whether the tensor stays where it is: a fetched one gives its memory to the next."""
        return self._state[name].device.type != "meta"

    @torch.no_grad()
    def _fetched(self, name: str) -> Tensor:
        path, _, leaf = name.rpartition(".")
        owner = self._model.get_submodule(path)
        for above in [path, *_ancestors(path)]:  # a hook may bring in all that is below its module
            hooked: nn.Module = self._model.get_submodule(above)
            if not has_offloaded_params(hooked):
                continue
            with align_module_device(hooked, torch.device("cpu")):
                tensor: Tensor = getattr(owner, leaf)
                if tensor.device.type != "meta":
                    return tensor.detach().clone()
        raise Refused(
            f"{type(self._model).__name__}: its weight {name} is on the meta device and no hook of accelerate brings "
            "it in, so it was never loaded: load the model again"
        )


def _ancestors(path: str) -> Iterator[str]:
    while path:
        path = path.rpartition(".")[0]
        yield path


def number_of(model: PreTrainedModel) -> int:
    """How many parameters the model has, tied ones counted once, also where offloading has parted them."""
    tied: Mapping[str, str] = getattr(model, "all_tied_weights_keys", None) or {}
    return sum(
        parameter.numel()
        for name, parameter in model.named_parameters()
        if not (parameter.device.type == "meta" and name in tied)
    )
