import numpy as np
import pytest
import torch

from snellen.errors import InputError
from snellen.lookahead.beam_search import score_window
from snellen.organisms.training import Gate, Stage, Training, build
from snellen.runner.scoring import TEMPERATURES, TOP
from snellen.studies.decisions import score_decisions
from tests.organisms.tiny import ARMS, MARKOV

SHAPE = Training(stages=(Stage(name="s", gates=(Gate(region="states", below=1.0),)),), width=16, heads=2)
WIDTHS, HORIZON = (2, 5), 3


def random_model(language):
    """Untrained, with predictions far from uniform."""
    model = build(language, SHAPE, seed=1)
    with torch.no_grad():
        model.transformer.ln_f.weight.mul_(12)
    return model


@pytest.mark.parametrize("language", [ARMS, MARKOV], ids=["one decision", "a text"])
def test_every_row_is_what_its_own_sequence_would_give(language):
    """The slow twin: each sequence scored on its own, up to the decision and what was chosen."""
    model, sequences = random_model(language), language.sample(24, seed=0)
    scored = score_decisions(model, language, sequences, widths=WIDTHS, horizon=HORIZON, units=8)
    row = 0
    for number, sequence in enumerate(sequences):
        for at in language.decisions:
            ids = torch.from_numpy(sequence[: at + 1])
            own = score_window(model, ids, widths=WIDTHS, horizon=HORIZON, first=at, temperatures=TEMPERATURES)
            assert (scored.token[row], scored.context[row]) == (sequence[at], at)
            assert scored.document[row] == number // 3
            assert scored.rank[row] == own.rank[0]
            for name in ("log_prob", "entropy", "log_z", "top_log_probs"):
                shown = np.atleast_1d(getattr(scored, name)[row])
                np.testing.assert_allclose(
                    shown, np.atleast_1d(getattr(own, name)[0])[: shown.size], atol=1e-4, err_msg=name
                )
            for width in WIDTHS:
                tokens, parents, log_probs = (part[0] for part in own.beams[width])
                assert (scored.beams[width].tokens[row] == tokens).all()
                assert (scored.beams[width].parents[row] == parents).all()
                np.testing.assert_allclose(scored.beams[width].log_probs[row], log_probs, atol=1e-4)
            row += 1
    assert row == len(scored)
    assert scored.top_tokens.shape[1] <= TOP


def test_decisions_of_two_sequences_are_not_neighbours():
    scored = score_decisions(random_model(ARMS), ARMS, ARMS.sample(8, seed=0), widths=(2,), horizon=2, units=8)
    assert (np.diff(scored.index) > 1).all()
    assert (np.diff(scored.start) > 0).all()
    assert scored.pieces == [f" {ARMS.spell(t)}" for t in scored.token.tolist()]


def test_units_of_unequal_size_are_refused():
    for units in (0, 7):
        with pytest.raises(InputError, match=f"units = {units}: must divide"):
            score_decisions(random_model(ARMS), ARMS, ARMS.sample(8, seed=0), widths=(2,), horizon=2, units=units)
