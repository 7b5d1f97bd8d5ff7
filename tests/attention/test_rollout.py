"""The rollout kernel against its slow twin, on odd sizes, and what it leaves behind."""

import contextlib

import pytest
import torch
from torch import nn

from snellen.attention import rollout as R
from snellen.attention.partial import join, prefix_attention, visible
from snellen.attention.reference import branch_attention
from snellen.errors import Refused
from tests.lookahead.architectures import tiny

CASES = {
    "one head": {"heads": 1, "kv": 1, "dim": 5, "vdim": 5},
    "grouped": {"heads": 6, "kv": 2, "dim": 8, "vdim": 8},
    "wide values": {"heads": 4, "kv": 4, "dim": 6, "vdim": 10},
    "narrow values": {"heads": 4, "kv": 2, "dim": 10, "vdim": 6},
}
FEATURES = {
    "plain": {},
    "window": {"window": 4},
    "window shorter than the branch": {"window": 2},
    "softcap": {"softcap": 0.7},
    "sinks": {"sinks": True},
    "all": {"window": 5, "softcap": 1.3, "sinks": True},
}


@pytest.mark.parametrize("feature", FEATURES.values(), ids=FEATURES)
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
@pytest.mark.parametrize("first", [0, 5])
def test_kernel_equals_the_slow_twin(case: dict, feature: dict, first: int) -> None:
    generator = torch.Generator().manual_seed(3)
    width, length, pos, depths = 3, 11, 6, 3

    def tensor(batch: int, heads: int, n: int, dim: int) -> torch.Tensor:
        return torch.randn(batch, heads, n, dim, generator=generator)

    window, softcap = feature.get("window"), feature.get("softcap")
    sinks = torch.randn(case["heads"], generator=generator) if feature.get("sinks") else None
    options = {"scaling": 0.9, "sliding_window": window, "softcap": softcap, "s_aux": sinks}
    module, state = nn.Module(), R.Rollout()
    token = R._rollout.set(state)
    try:
        text_k, text_v = (tensor(1, case["kv"], length, case[d]) for d in ("dim", "vdim"))
        R.rollout_attention(module, tensor(1, case["heads"], length, case["dim"]), text_k, text_v, None, **options)
        state.open_block(first, depths * width * pos)
        known = {node: (text_k[0, :, node], text_v[0, :, node]) for node in range(length)}
        chains: list[torch.Tensor] = []
        for depth in range(1, depths + 1):
            parents = None
            if depth > 1:
                parents = torch.randint(width, (width, pos), generator=generator)
                chains = [level.gather(0, parents) for level in chains]
            # Some branches are nodes that exist already: of the text, or of other branches.
            shared = torch.randint(-6, len(known), (width, pos), generator=generator).clamp_min(-1)
            shared[0, 0], shared[-1, -1] = -1, -1
            nodes = state.descend(parents, shared < 0, shared)
            chains.append(nodes)
            count = int((shared < 0).sum())
            q, k, v = (tensor(1, case[h], count, case[d]) for h, d in (("heads", "dim"), ("kv", "dim"), ("kv", "vdim")))
            out, _ = R.rollout_attention(module, q, k, v, None, **options)
            places = (shared < 0).nonzero().tolist()
            known |= {int(nodes[w, i]): (k[0, :, n], v[0, :, n]) for n, (w, i) in enumerate(places)}
            for n, (row, column) in enumerate(places):
                branch = [known[int(level[row, column])] for level in chains]
                expected = branch_attention(
                    q[0, :, n],
                    text_k[0],
                    text_v[0],
                    torch.stack([key for key, _ in branch]),
                    torch.stack([value for _, value in branch]),
                    position=first + column,
                    scale=0.9,
                    window=window,
                    softcap=softcap,
                    sinks=sinks,
                )
                torch.testing.assert_close(out[0, n].double(), expected, rtol=2e-5, atol=2e-6)
    finally:
        R._rollout.reset(token)


def test_a_block_of_columns_is_the_same_columns_of_the_whole() -> None:
    q, k, v = torch.randn(2, 4, 9, 8), torch.randn(1, 2, 9, 8), torch.randn(1, 2, 9, 8)
    for options in ({}, {"window": 3}, {"softcap": 1.0}):
        whole, whole_lse = prefix_attention(q, k, v, first=0, scale=0.5, **options)
        part, part_lse = prefix_attention(q[:, :, 4:7], k, v, first=4, scale=0.5, **options)
        torch.testing.assert_close(part, whole[:, 4:7])
        torch.testing.assert_close(part_lse, whole_lse[:, 4:7])


def test_joining_two_sets_of_keys_is_attention_over_both() -> None:
    q, k, v = torch.randn(2, 3, 1, 8), torch.randn(1, 3, 9, 8), torch.randn(1, 3, 9, 8)
    whole = prefix_attention(q, k, v, first=8, scale=1.0)
    parts = [
        prefix_attention(q, k[:, :, s], v[:, :, s], first=n, scale=1.0) for s, n in ((slice(4), 3), (slice(4, 9), 4))
    ]
    for joined, expected in zip(join(*parts[0], *parts[1]), whole, strict=True):
        torch.testing.assert_close(joined, expected)


def test_visible_keys() -> None:
    assert visible(1, 3, 2, device=torch.device("cpu")).tolist() == [[True, True, False], [False, True, True]]
    with pytest.raises(ValueError, match="window 0"):
        prefix_attention(*(torch.randn(1, 1, 2, 4) for _ in range(3)), first=0, scale=1.0, window=0)


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        ({"head_gate": torch.ones(1)}, "head_gate"),
        ({"dropout": 0.1}, "dropout"),
        ({"is_causal": False}, "bidirectional"),
        ({"attention_mask": torch.ones(1, 1, 2, 2)}, "mask"),
    ],
)
def test_arguments_that_are_not_computed_are_refused(arguments: dict, what: str) -> None:
    token = R._rollout.set(R.Rollout())
    try:
        with pytest.raises(Refused, match=what):
            R.rollout_attention(
                nn.Module(),
                *(torch.randn(1, 1, 2, 4) for _ in range(3)),
                **{"attention_mask": None, **arguments},
            )
    finally:
        R._rollout.reset(token)


def test_own_attention_is_back_after_an_exception() -> None:
    model = tiny("llama")
    before = model.config._attn_implementation
    ids = torch.arange(5)[None]
    own = model(ids).logits
    with contextlib.suppress(KeyError), R.rolling(model, R.Rollout()):
        assert model.config._attn_implementation == R.NAME
        raise KeyError
    assert model.config._attn_implementation == before
    torch.testing.assert_close(model(ids).logits, own, rtol=0, atol=0)


def test_outside_of_rolling_the_hook_raises() -> None:
    with pytest.raises(RuntimeError, match="outside"):
        R.rollout_attention(nn.Module(), *(torch.randn(1, 1, 2, 4) for _ in range(3)), None)
