"""Bad arguments to every public function: an InputError, a Refused, or a result; nothing that Python raises itself."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scripts.abuse.trials import Trial, unchecked
from scripts.abuse.world import World


@dataclass(frozen=True)
class Call:
    """A right call as text: `make` gives a function and its arguments; `wrong` are words that no argument may be."""

    name: str
    function: str
    arguments: Mapping[str, str]
    prepare: str = ""


_NEVER = ("None", "'x'", "float('nan')", "[1, 2]", "object()", "{}", "torch.zeros(0)", "-1", "1.5", "True", "10**30")
# Of arguments that are tensors of token ids.
_IDS = (
    "torch.zeros(1, 0, dtype=torch.long)", "torch.zeros(0, 5, dtype=torch.long)", "torch.zeros(0, dtype=torch.long)",
    "torch.tensor([3, 4])", "torch.tensor(3)", "torch.zeros(1, 2, 3, dtype=torch.long)", "torch.tensor([[3.0, 4.0]])",
    "torch.tensor([[3, 300]])", "torch.tensor([[3, -1]])", "torch.tensor([[3, 10**15]])",
    "torch.tensor([[True, False]])",
    "torch.zeros(1, 500, dtype=torch.long)", "[[3, 4]]", "[3, 4]", "np.array([[3, 4]])", "'the cat'", "None", "5",
    "torch.tensor([[3, 4]], dtype=torch.uint8)", "torch.tensor([[3, 4]], dtype=torch.int16)",
    "torch.tensor([[3+1j, 4]])", "torch.tensor([[3, 4]]).to_sparse()",
    "torch.zeros(1, 2, dtype=torch.long, device='meta')",
)  # fmt: skip
_TENSORS = (
    "None", "5", "'x'", "[[1.0]]", "torch.zeros(0)", "torch.zeros(2, 3)", "torch.ones(1, 4, 2, 8, dtype=torch.long)",
    "torch.full((1, 4, 2, 8), float('nan'))", "torch.full((1, 4, 2, 8), float('inf'))", "torch.ones(1, 4, 2, 0)",
    "torch.ones(1, 4, 2, 8, dtype=torch.complex64)", "torch.ones(1, 4, 2, 8, device='meta')", "np.ones((1, 4, 2, 8))",
)  # fmt: skip
_IDENTIFIERS = {"input_ids"}
_FLOATS = {"q", "k", "v", "ridge", "log_decay", "gate", "mask", "resets"}
_MESA = {
    "q": "torch.ones(1, 4, 2, 8)", "k": "torch.ones(1, 4, 2, 8)", "v": "torch.ones(1, 4, 2, 8)",
    "ridge": "torch.ones(2, 1)", "log_decay": "-torch.ones(1, 4, 2)", "gate": "torch.ones(1, 4, 2)", "form": "'2023'",
}  # fmt: skip
_ONE = {name: text.replace("1, 4, 2", "1, 2") for name, text in _MESA.items()}
_SEARCH = {"model": "model", "input_ids": "ids", "horizon": "2", "memory": "'1GB'", "engine": "'auto'"}

CALLS = (
    Call("beam", "snellen.lookahead.beam", {**_SEARCH, "width": "2", "positions": "(0, 2)"}),
    Call("particles", "snellen.lookahead.particles",
         {**_SEARCH, "particles": "2", "alpha": "2.0", "method": "'smc'", "temperature": "0.5", "ramp": "1",
          "resample_below": "0.5", "seed": "0", "positions": "(0, 2)"}),
    Call("power_sample", "snellen.lookahead.power_sample",
         {"model": "model", "input_ids": "ids", "alpha": "2.0", "particles": "2", "max_new_tokens": "2",
          "stop_tokens": "[3]", "temperature": "0.5", "ramp": "0", "resample_below": "0.5", "seed": "0",
          "memory": "'1GB'", "engine": "'auto'"}),
    Call("generate", "snellen.lookahead.generate",
         {**_SEARCH, "width": "2", "alpha": "2.0", "weight": "0.2", "mix": "'linear'", "seed": "0", "stop": "()",
          "details": "False", "max_new_tokens": "2", "min_new_tokens": "0", "do_sample": "True", "temperature": "0.5",
          "top_p": "0.5", "top_k": "3", "eos_token_id": "None", "pad_token_id": "0",
          "attention_mask": "torch.ones_like(ids)"}),
    Call("Lookahead", "snellen.Lookahead",
         {"model": "model", "width": "2", "horizon": "2", "alpha": "2.0", "weight": "0.2", "mix": "'linear'"}),
    Call("Lookahead.next_token", "snellen.Lookahead(model).next_token", {"input_ids": "ids", "memory": "'1GB'"}),
    Call("Lookahead.generate", "snellen.Lookahead(model).generate", {"input_ids": "ids", "max_new_tokens": "2"}),
    Call("Lookahead.from_folder", "snellen.Lookahead.from_folder",
         {"folder": "world / 'trained'", "dtype": "'float32'", "device": "'cpu'"}),
    Call("Rollouts.next_token", "snellen.lookahead.beam(model, ids, 2, 2).next_token",
         {"alpha": "2.0", "horizon": "2"}),
    Call("Rollouts.completions", "snellen.lookahead.beam(model, ids, 2, 2).completions", {"horizon": "2"}),
    Call("Particles.next_token", "drawn().next_token", {"alpha": "2.0", "horizon": "2"}),
    Call("Particles.completions", "drawn().completions", {"horizon": "2"}),
    Call("Particles.log_evidence", "drawn().log_evidence", {}),
    Call("PowerSamples.chosen", "snellen.lookahead.power_sample(model, ids, particles=2, max_new_tokens=2).chosen",
         {"count": "1", "seed": "0"}),
    Call("load", "snellen.load",
         {"source": "world / 'model'", "tokenizer": "world / 'model'", "dtype": "'float32'", "device": "'cpu'",
          "bos": "'auto'", "trust_remote_code": "False"}),
    Call("exam", "snellen.exam",
         {"model": "world / 'model'", "texts": "[world / 'text0.txt']", "width": "2", "horizon": "2", "widths": "(1,)",
          "particles": "0", "out": "'run'", "measures": "('mean',)", "limit": "20", "window": "20", "context": "5",
          "memory": "'1GB'", "seed": "0", "engine": "'auto'", "report": "False", "tokenizer": "world / 'model'",
          "dtype": "'float32'", "device": "'cpu'", "bos": "'auto'"}),
    Call("compare", "snellen.compare", {"first": "world / 'run'", "second": "world / 'other'"}),
    Call("Run.read", "snellen.results.store.Run.read", {"folder": "world / 'run'"}, "import snellen.results.store"),
    Call("Run.table", "snellen.results.store.Run.read(world / 'run').table", {"name": "'arms'"},
         "import snellen.results.store"),
    Call("mesa_attention", "snellen.attention.mesa_attention",
         {**_MESA, "chunk_size": "2", "ill_conditioned": "'warn'"}),
    Call("mesa_step", "snellen.attention.mesa_step",
         {**_ONE, "state": "snellen.attention.MesaState.empty(1, 2, 8, 8)"}),
    Call("MesaState.empty", "snellen.attention.MesaState.empty", {"batch": "1", "heads": "2", "dim": "8", "vdim": "8"}),
    Call("make_myopic", "snellen.attention.make_myopic", {"model": "model", "mode": "'hidden'", "beta": "1.0"},
         "model.requires_grad_(True)"),
    Call("influence_matrix", "snellen.attention.influence_matrix",
         {"model": "model", "input_ids": "ids[0]", "layer": "1"},
         "model.requires_grad_(True)"),
    Call("MesaConfig", "snellen.MesaConfig",
         {"vocab_size": "50", "hidden_size": "16", "num_attention_heads": "2", "layer_types": "['mesa']",
          "num_hidden_layers": "1"}),
    Call("Beam", "snellen.training.Beam", {"width": "2", "horizon": "2", "alpha": "2.0"}, "import snellen.training"),
    Call("training.Particles", "snellen.training.Particles", {"particles": "2", "horizon": "2", "alpha": "2.0"},
         "import snellen.training"),
    Call("StuntingConfig", "snellen.training.StuntingConfig",
         {"method": "'balance'", "amplifier": "snellen.training.Beam()", "monitor": "None", "output_dir": "'out'",
          "max_length": "32", "strength": "1.0", "monitor_every": "2", "monitor_tokens": "400", "use_cpu": "True"},
         "import snellen.training"),
    Call("StuntingTrainer", "snellen.training.StuntingTrainer",
         {"model": "model", "args": "snellen.training.StuntingConfig(output_dir='out', max_length=16, report_to=[])",
          "train_dataset": "['the cat sat on a mat']", "eval_dataset": "['the cat sat on a mat']",
          "processing_class": "tokenizer"}, "import snellen.training; model.requires_grad_(True)"),
)  # fmt: skip


def planned(world: World, *, short: bool) -> Iterator[Trial]:
    """Each argument of each call wrong in each way."""
    number = 0
    for call in CALLS:
        yield _trial(world, call, None, None)
        for name in call.arguments:
            wrong = _IDS if name in _IDENTIFIERS else _TENSORS if name in _FLOATS else _NEVER
            for value in wrong:
                number += 1
                if not short or number % 12 == 0:
                    yield _trial(world, call, name, value)
        yield _trial(world, call, "nonsense", "1", python=True)


def _trial(world: World, call: Call, name: str | None, value: str | None, *, python: bool = False) -> Trial:
    given = {**call.arguments, **({name: value} if name is not None and value is not None else {})}
    code = f"{call.function}({', '.join(f'{key}={word}' for key, word in given.items())})"
    return Trial(
        name=f"call {call.name} {name}={value}.",
        act=_calling(world, call.prepare, code, python=python),
        check=unchecked,
        shown=f"{call.prepare}; {code}" if call.prepare else code,
    )


def _calling(world: World, prepare: str, code: str, *, python: bool) -> Callable[[Path], int]:
    def act(folder: Path) -> int:
        import numpy as np
        import torch

        import snellen
        from snellen.errors import InputError, Refused
        from snellen.models.load import load_model

        loaded = load_model(world / "model", device="cpu")
        ids = torch.tensor([[3, 4, 5, 6]])
        names: dict[str, Any] = {
            "snellen": snellen, "torch": torch, "np": np, "model": loaded.model, "tokenizer": loaded.tokenizer,
            "ids": ids, "world": world,
            "drawn": lambda: snellen.lookahead.particles(loaded.model, ids, particles=2, horizon=2, alpha=2.0),
        }  # fmt: skip
        exec(prepare, names)
        try:
            eval(code, names)
        except (InputError, Refused) as error:
            print(f"snellen: {' '.join(str(error).split())}", file=sys.stderr)
            return 2
        except TypeError as error:
            if python and "unexpected keyword" in str(error):  # Python's own word for an argument that there is not
                print(f"snellen: {error}", file=sys.stderr)
                return 2
            traceback.print_exc()
            return 1
        return 0

    return act
