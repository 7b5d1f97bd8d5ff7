"""Branches of one position at uneven depths, texts that grow by them, and long chains: against the slow twin."""

import pytest
import torch
from torch import nn

from snellen.attention import rollout as R
from snellen.attention.partial import shared_attention
from snellen.attention.reference import branch_attention
from tests.attention.test_rollout import CASES, FEATURES


class Case:
    """Random keys for every node, and what the kernel and its twin make of them."""

    def __init__(self, case: dict, feature: dict) -> None:
        self.case, self.random = case, torch.Generator().manual_seed(5)
        self.sinks = torch.randn(case["heads"], generator=self.random) if feature.get("sinks") else None
        self.window, self.softcap = feature.get("window"), feature.get("softcap")
        self.module, self.keys, self.values = nn.Module(), {}, {}

    def run(self, nodes: list) -> tuple[torch.Tensor, torch.Tensor]:
        def tensor(heads: int, dim: int) -> torch.Tensor:
            return torch.randn(1, heads, len(nodes), dim, generator=self.random)

        q, k, v = (tensor(self.case[h], self.case[d]) for h, d in (("heads", "dim"), ("kv", "dim"), ("kv", "vdim")))
        for i, node in enumerate(nodes):
            self.keys[node], self.values[node] = k[0, :, i], v[0, :, i]
        options = {"scaling": 0.9, "sliding_window": self.window, "softcap": self.softcap, "s_aux": self.sinks}
        return q[0], R.rollout_attention(self.module, q, k, v, None, **options)[0][0]

    def expected(self, query: torch.Tensor, text: list, branch: list) -> torch.Tensor:
        def stacked(of: dict, nodes: list, dim: int) -> torch.Tensor:
            return torch.stack([of[node] for node in nodes], dim=dim)

        return branch_attention(
            query,
            stacked(self.keys, text, 1),
            stacked(self.values, text, 1),
            stacked(self.keys, branch, 0),
            stacked(self.values, branch, 0),
            position=len(text) - 1,
            scale=0.9,
            window=self.window,
            softcap=self.softcap,
            sinks=self.sinks,
        )


@pytest.fixture
def rolled(monkeypatch: pytest.MonkeyPatch):
    """Gives a `Rollout` to the kernel, whose keys are gathered a few at a time."""
    monkeypatch.setattr(R, "_GATHERED_BYTES", 2500)
    tokens = []

    def begin(rollout: R.Rollout) -> R.Rollout:
        tokens.append(R._rollout.set(rollout))
        return rollout

    yield begin
    for token in tokens:
        R._rollout.reset(token)


@pytest.mark.parametrize("feature", FEATURES.values(), ids=FEATURES)
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_uneven_branches_and_a_text_that_grows(case: dict, feature: dict, rolled) -> None:
    length, room, spare = 7, 3, 8
    state = rolled(R.Rollout(room=room, spare=spare))
    it = Case(case, feature)
    it.run(list(range(length)))
    before = state.pools[it.module][0].data_ptr()
    text, at = list(range(length)), length + room  # nodes of branches begin at `at`
    passes = [
        ({0: [], 1: []}, None),  # two first tokens
        ({2: [0], 3: [1], 4: []}, None),  # uneven
        ({5: [0, 2]}, 0),  # then node 0 becomes text, and 2 a first token
        ({6: [2], 7: [2, 5], 0: []}, 2),  # its node is free for another token
        ({1: [5], 3: [5, 7]}, None),
    ]
    for chains, chosen in passes:
        names = [at + node for node in chains]
        state.branch([[at + node for node in chain] for chain in chains.values()], names, device=torch.device("cpu"))
        query, out = it.run(names)
        for i, (node, chain) in enumerate(chains.items()):
            branch = [at + n for n in (*chain, node)]
            torch.testing.assert_close(out[i].double(), it.expected(query[:, i], text, branch), rtol=2e-5, atol=2e-6)
        if chosen is not None:
            state.extend(at + chosen)
            new = len(text)
            it.keys[new], it.values[new] = it.keys[at + chosen], it.values[at + chosen]
            text.append(new)
    assert state.pools[it.module][0].data_ptr() == before  # nothing was copied


@pytest.mark.parametrize("feature", FEATURES.values(), ids=FEATURES)
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
@pytest.mark.parametrize("columns", [1, 2])
def test_long_chains_are_gathered(case: dict, feature: dict, columns: int, rolled) -> None:
    length, first, width, depths = 6, 3, 3, 13
    state = rolled(R.Rollout())
    it = Case(case, feature)
    it.run(list(range(length)))
    state.open_block(first, depths * width * columns)
    random = torch.Generator().manual_seed(6)
    chains: list[torch.Tensor] = []
    for depth in range(depths):
        parents = torch.randint(width, (width, columns), generator=random) if depth else None
        if parents is not None:
            chains = [level.gather(0, parents) for level in chains]
        every = torch.ones(width, columns, dtype=torch.bool)
        nodes = state.descend(parents, every, torch.full((width, columns), -1))
        chains.append(nodes)
        query, out = it.run(nodes.flatten().tolist())
        for i, (row, column) in enumerate(every.nonzero().tolist()):
            branch = [int(level[row, column]) for level in chains]
            expected = it.expected(query[:, i], list(range(first + column + 1)), branch)
            torch.testing.assert_close(out[i].double(), expected, rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("softcap", [None, 0.8])
def test_queries_that_share_all_keys(softcap: float | None) -> None:
    q, k, v = torch.randn(5, 6, 8), torch.randn(9, 2, 8), torch.randn(9, 2, 4)
    out, lse = shared_attention(q, k, v, scale=0.7, softcap=softcap)
    scores = torch.einsum("qhd,khd->hqk", q.double(), k.double().repeat_interleave(3, 1)) * 0.7
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    expected = torch.einsum("hqk,khd->qhd", scores.softmax(-1), v.double().repeat_interleave(3, 1))
    torch.testing.assert_close(out.double(), expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(lse.double(), scores.logsumexp(-1).T, rtol=1e-5, atol=1e-6)
