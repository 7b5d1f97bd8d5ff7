"""The vocabulary in blocks: the fast selection against the plain one."""

import pytest
import torch

from snellen.lookahead.head import _CHUNK, _log_sum_exp_in_place, best_of


@pytest.mark.parametrize("vocabulary", [5, _CHUNK * 8, _CHUNK * 40, _CHUNK * 40 + 1, _CHUNK * 41 - 1])
@pytest.mark.parametrize("count", [1, 4, 5])
@pytest.mark.parametrize("planted", [False, True])
def test_top_is_topk(vocabulary: int, count: int, planted: bool) -> None:
    logits = torch.randn(7, vocabulary, generator=torch.Generator().manual_seed(vocabulary + count))
    if planted:  # the best ones side by side, and in the remainder behind the last whole chunk
        logits[:3, : min(count, 3)] += 50
        logits[3:, -2:] += 50
    values, ids = best_of(logits, count)
    expected = logits.topk(count, dim=-1)
    assert torch.equal(values, expected.values)
    assert torch.equal(ids, expected.indices)


def test_log_sum_exp_with_forbidden_and_huge_logits() -> None:
    logits = torch.tensor([[1e4, 1e4, -torch.inf], [-1e4, -torch.inf, -torch.inf]])
    expected = logits.double().logsumexp(-1)
    torch.testing.assert_close(_log_sum_exp_in_place(logits.clone()).double(), expected)
