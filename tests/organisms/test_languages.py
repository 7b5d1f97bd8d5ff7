import math
from dataclasses import replace

import numpy as np
import pytest

from snellen.errors import InputError
from snellen.organisms.arms import OK, Arms
from snellen.organisms.couplets import Couplets
from snellen.organisms.markov import Markov
from tests.organisms.tiny import ARMS, COUPLETS, LANGUAGES, MARKOV, PLANNING, RHYMING, everything, name

each = pytest.mark.parametrize("language", LANGUAGES, ids=name)


@each
def test_what_is_sampled_is_what_is_predicted(language):
    """The predictor is optimal only if it is the author: frequencies of whole sequences against their probability."""
    sequences, log_p = everything(language)
    p = np.exp(log_p.sum(axis=1))
    assert p.sum() == pytest.approx(1, abs=1e-9)
    n = 60_000
    drawn = language.sample(n, seed=3)
    assert drawn.shape == (n, language.length)
    code = language.vocabulary ** np.arange(language.length, dtype=np.float64)
    order = np.argsort(sequences @ code)
    place = np.searchsorted((sequences @ code)[order], drawn @ code)
    assert (sequences[order][np.minimum(place, len(order) - 1)] == drawn).all()  # nothing that it cannot write
    count = np.bincount(place, minlength=len(order))
    often = n * p[order] > 25  # elsewhere a count is far from normal
    z = ((count - n * p[order]) / np.sqrt(n * p[order] * (1 - p[order])))[often]
    assert often.sum() > 15
    assert np.abs(z).max() < 5
    assert 0.5 < (z**2).mean() < 1.5
    assert abs(count[~often].sum() - n * p[order][~often].sum()) < 5 * np.sqrt(n)


@each
def test_the_fast_log_probabilities_are_those_of_the_slow_twin(language):
    sequences, log_p = everything(language)
    np.testing.assert_allclose(language.log_probs(sequences), log_p, atol=1e-12)
    losses = language.losses(log_p)
    assert set(losses) == set(language.regions)
    first = next(iter(language.regions))
    assert losses[first] == pytest.approx(-log_p[:, list(language.regions[first])].mean())


@pytest.mark.parametrize("language", [ARMS, PLANNING, COUPLETS, RHYMING], ids=name)
def test_what_breaks_a_rule_has_probability_zero(language):
    text = language.sample(300, seed=0)
    places = np.random.default_rng(1).integers(1, language.length, size=300)
    for row, place in zip(text, places, strict=True):
        p = language.predict(row[:place].tolist())
        never = np.flatnonzero(p == 0)
        row[place] = never[0]
        assert language.log_probs(row[None])[0].sum() == -np.inf
        with pytest.raises(InputError, match="never writes this"):
            language.predict(row[: place + 1].tolist())


@each
def test_the_same_seed_gives_the_same_text_and_prompts_stop_before_the_decision(language):
    one, again = language.sample(50, seed=[1, 2]), language.sample(50, seed=[1, 2])
    assert (one == again).all()
    assert (one != language.sample(50, seed=[1, 3])).any()
    prompts = language.sample_prompts(50, seed=[1, 2])
    assert (prompts == one[:, : language.decisions[0]]).all()
    with pytest.raises(InputError, match="never writes this"):
        language.predict([*one[0].tolist(), 0])
    assert len({language.spell(t) for t in range(language.vocabulary)}) == language.vocabulary


@pytest.mark.parametrize(("language", "rate"), [(PLANNING, 0.3), (ARMS, 2 / 3), (RHYMING, 0.3)], ids=["p", "a", "r"])
def test_dead_ends_are_those_whose_end_is_noise(language, rate):
    text = language.sample(20_000, seed=5)
    dead = language.is_dead_end(text)
    at = language.decisions[0]
    assert dead.mean() == pytest.approx(rate, abs=0.015)
    noise = language.vocabulary - language.noise
    assert (dead == (text[:, -1] >= noise)).all()
    assert (language.is_dead_end(text[:, : at + 1]) == dead).all()  # the decision says it
    text[:, at] = noise
    assert language.is_dead_end(text).all()
    with pytest.raises(InputError, match="must reach the decision"):
        language.is_dead_end(text[:, :at])
    with pytest.raises(InputError, match="not prompts of this language"):
        language.is_dead_end(np.zeros_like(text))


@pytest.mark.parametrize(
    ("author", "other"),
    [(Arms(planning=True), Arms()), (Couplets(rhyming=True), Couplets())],
    ids=["arms", "couplets"],
)
def test_the_room_is_what_the_authors_differ_by(author, other):
    text = author.sample(100_000, seed=2)
    at = author.decisions[0]
    gain = author.log_probs(text)[:, at] - other.log_probs(text)[:, at]
    assert gain.mean() == pytest.approx(author.room, abs=4 * gain.std() / math.sqrt(len(gain)))
    assert author.room > 0.6
    elsewhere = [place for place in range(author.length) if place != at]
    np.testing.assert_array_equal(author.log_probs(text)[:, elsewhere], other.log_probs(text)[:, elsewhere])


def test_choosing_well_is_deep_and_the_rules_differ_by_seed():
    arms = Arms(depth=4, permutations=6)
    assert len({tuple(row) for row in arms.tables.tolist()}) == 6
    assert all(sorted(row) == list(range(4)) for row in arms.tables.tolist())
    assert (arms.tables != replace(arms, rules=1).tables).any()
    text = replace(arms, planning=True, error=0.0).sample(200, seed=0)
    assert (text[:, -1] == OK).all()
    goal_alone = [set(text[text[:, arms.depth + 1] == g, arms.decisions[0]].tolist()) for g in set(text[:, 5].tolist())]
    assert all(len(choices) == 4 for choices in goal_alone)  # the goal without the moves says nothing


def test_every_rhyme_is_equally_open():
    couplets = Couplets(stems=12, rhymes=8, rhymes_each=2)
    assert couplets.fits.sum(axis=0).tolist() == [2] * 12
    assert couplets.fits.sum(axis=1).tolist() == [3] * 8
    assert (couplets.fits != replace(couplets, rules=1).fits).any()
    assert (np.diff(couplets.frequency) < 0).all()


def test_markov_text_has_no_certain_and_no_impossible_token():
    assert MARKOV.table.min() >= MARKOV.floor / MARKOV.tokens
    assert MARKOV.table.sum(axis=-1) == pytest.approx(1)


@pytest.mark.parametrize(
    ("kind", "setting", "value"),
    [(Arms, "states", 1), (Arms, "depth", 0), (Arms, "permutations", 25), (Arms, "error", 1.2), (Arms, "noise", True),
     (Couplets, "rhymes_each", 8), (Couplets, "zipf", -1.0), (Couplets, "zipf", math.nan), (Couplets, "stems", 3),
     (Couplets, "error", math.nan), (Markov, "tokens", 1), (Markov, "size", 2), (Markov, "floor", 0.0),
     (Markov, "concentration", math.nan), (Markov, "rules", -1)],
)  # fmt: skip
def test_wrong_settings_are_named(kind, setting, value):
    with pytest.raises(InputError, match=f"{setting} = "):
        kind(**{setting: value})
