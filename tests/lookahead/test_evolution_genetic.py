"""The genetic algorithm: its operators one by one, what selection must do, reproducibility, budget and resumption."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from snellen.errors import InputError
from snellen.lookahead.evolution import Genetic, evolve, read_population
from snellen.lookahead.evolution.fitness import Individual
from snellen.lookahead.evolution.frame import GAP
from snellen.lookahead.evolution.genetic import migrate, succeed, tournament
from snellen.lookahead.evolution.mutation import child_of, delete, insert, splice, substitute
from tests.lookahead.masked_models import masked

SMALL = {"length": 12, "population": 8, "islands": 2, "generations": 5, "migration": 2, "repetition": 0.5}
bodies = st.lists(st.integers(5, 30), min_size=1, max_size=20).map(tuple)


def individual(fitness, *body):
    value = float(fitness)
    return Individual(body=body or (int(-value * 10),), log_likelihood=value, repetition=0.0, fitness=value)


@settings(max_examples=100, deadline=None)
@given(bodies, st.integers(0, 2**32))
def test_operators_change_what_they_say(body, seed):
    rng = np.random.default_rng(seed)
    gapped = substitute(body, 0.3, rng)
    assert len(gapped) == len(body)
    assert gapped.count(GAP) >= 1
    assert all(new in (old, GAP) for new, old in zip(gapped, body, strict=True))
    longer = insert(body, rng)
    at = longer.index(GAP)
    assert longer[:at] + longer[at + 1 :] == body
    shorter = delete(body, rng)
    assert len(shorter) == len(body) - 1
    assert any(body[:i] + body[i + 1 :] == shorter for i in range(len(body)))


@settings(max_examples=200, deadline=None)
@given(bodies, bodies, st.integers(0, 2**32), st.integers(0, 4))
def test_a_splice_is_a_head_a_seam_and_a_tail(first, second, seed, seam):
    chosen = Genetic(length=10, slack=0.5, seam=seam)
    second = tuple(token + 100 for token in second)
    child = splice(first, second, chosen, np.random.default_rng(seed))
    assert chosen.shortest <= len(child) <= chosen.longest
    origin = ["gap" if t == GAP else "first" if t < 100 else "second" for t in child]
    assert origin == sorted(origin, key=lambda o: o == "second") or "gap" in origin
    head = [t for t in child if t != GAP and t < 100]
    tail = [t for t in child if t >= 100]
    assert child.index(tail[0]) > child.index(head[-1]) if head and tail else True
    assert all(token in first for token in head)
    assert tuple(tail) in {second[i:j] for i in range(len(second)) for j in range(len(second) + 1)} or not tail


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_children_keep_the_bounds_and_are_never_copies(data):
    chosen = Genetic(
        length=data.draw(st.integers(1, 12)),
        slack=data.draw(st.floats(0, 0.9)),
        mutation=data.draw(st.floats(0, 1)),
        insertion=data.draw(st.floats(0, 1)),
        deletion=data.draw(st.floats(0, 1)),
    )
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    parents = [
        tuple(range(5, 5 + data.draw(st.integers(chosen.shortest, max(chosen.shortest, chosen.longest)))))
        for _ in range(data.draw(st.integers(1, 2)))
    ]
    child = child_of(parents, chosen, rng)
    assert chosen.shortest <= len(child) <= max(chosen.shortest, chosen.longest)
    assert GAP in child or len(child) != len(parents[0]) or len(parents) == 2


def test_substitution_has_its_rate():
    rng = np.random.default_rng(0)
    shares = [substitute(tuple(range(40)), 0.2, rng, at_least=0).count(GAP) / 40 for _ in range(2000)]
    assert np.mean(shares) == pytest.approx(0.2, abs=0.006)  # four standard errors: .0057


def test_a_tournament_prefers_the_fit():
    """P(the best of n is chosen among k contestants) = 1 − (1 − 1/n)^k."""
    island = [individual(-i) for i in range(8)]
    rng = np.random.default_rng(0)
    for contestants, best in ((1, 1 / 8), (3, 1 - (7 / 8) ** 3)):
        wins = np.mean([tournament(island, contestants, rng) is island[0] for _ in range(4000)])
        assert wins == pytest.approx(best, abs=0.03)


def test_succession_keeps_the_elite_and_no_copies():
    island = [individual(-1, 1), individual(-2, 2), individual(-3, 3), individual(-4, 4)]
    children = [individual(-0.5, 9), individual(-1, 1), individual(-0.5, 9)]
    after = succeed(island, children, elite=1)
    assert [member.body for member in after] == [(9,), (1,), (2,), (3,)]
    assert succeed(island, [individual(-9, i) for i in (5, 6, 7)], elite=1)[0].body == (1,)
    copies = [individual(-1, 1)] * 3
    assert len(succeed(copies, copies[:2], elite=1)) == 3


def test_migration_goes_round_the_ring():
    islands = [[individual(-1, 1), individual(-5, 5)], [individual(-2, 2), individual(-6, 6)], [individual(-3, 3)] * 2]
    after = migrate(islands)
    assert [[member.body for member in island] for island in after] == [[(1,), (3,)], [(1,), (2,)], [(2,), (3,)]]
    again = migrate(after)
    assert [member.body for member in again[1]] == [(1,), (2,)]  # the guest lives there already
    assert migrate(islands[:1]) == islands[:1]


@pytest.fixture(scope="module")
def model():
    return masked("bert", double=True)


@pytest.fixture(scope="module")
def run(model):
    return evolve(model, prompt="ab", suffix="c", settings=Genetic(**SMALL))


def test_a_run(model, run):
    assert len(run.members) == 8
    assert [row["generation"] for row in run.trace] == list(range(6))
    best = [row["best"] for row in run.trace]
    assert best == sorted(best), "the elite lives on"
    assert best[-1] > best[0]
    assert run.members[0].fitness == best[-1]
    for member in run.members:
        assert Genetic(**SMALL).shortest <= len(member.tokens) <= Genetic(**SMALL).longest
        assert member.text.replace(" ", "").startswith("ab")
        assert member.text.replace(" ", "").endswith("c")
        assert member.fitness == pytest.approx(member.log_likelihood - 0.5 * member.repetition)
    assert {member.group for member in run.members} == {0, 1}
    assert run.cost.passes == run.trace[-1]["passes"]
    assert run.finished


def test_the_seed_decides_everything(model, run):
    again = evolve(model, prompt="ab", suffix="c", settings=Genetic(**SMALL))
    assert (again.members, again.trace) == (run.members, run.trace)
    assert again.cost.passes == run.cost.passes
    other = evolve(model, prompt="ab", suffix="c", settings=Genetic(**SMALL, seed=1))
    assert other.members != run.members
    # How much is batched at a time changes nothing.
    small = evolve(model, prompt="ab", suffix="c", settings=Genetic(**SMALL, memory="1MB"))
    assert [m.tokens for m in small.members] == [m.tokens for m in run.members]


def test_selection_beats_drift(model):
    """The same with tournaments of one and no elite is a random walk: over seeds, selection ends higher."""
    common = {"length": 6, "population": 8, "islands": 1, "generations": 6}
    gains = []
    for seed in range(3):
        chosen = evolve(model, settings=Genetic(**common, seed=seed))
        drift = evolve(model, settings=Genetic(**common, seed=seed, tournament=1, elite=0))
        gains.append(chosen.trace[-1]["mean"] - drift.trace[-1]["mean"])
    assert min(gains) > 0


def test_the_repetition_term_acts(model):
    common = {"length": 8, "population": 6, "islands": 1, "generations": 8}
    without, with_it = (evolve(model, settings=Genetic(**common, repetition=weight)) for weight in (0.0, 20.0))
    assert with_it.members[0].repetition < without.members[0].repetition


def test_the_budget(model):
    settings = Genetic(**SMALL | {"generations": 1000}, passes=800)
    found = evolve(model, settings=settings)
    assert 500 < found.cost.passes <= 800
    assert 0 < found.trace[-1]["generation"] < 1000
    assert found.finished


def test_a_population_file_goes_on(model, run, tmp_path):
    path = tmp_path / "population.json"
    run.save(path)
    record = json.loads(path.read_text())
    assert record["schema"] == 1
    assert record["members"][0]["text"] == run.members[0].text
    start = read_population(path, model)
    assert start == [member.tokens for member in run.members]
    seen, heard = [], []
    on = evolve(
        model, prompt="ab", suffix="c", settings=Genetic(**SMALL), start=start, watch=seen.append, told=heard.append
    )
    assert heard == sorted(heard)
    assert heard[-1] == on.cost.passes
    # Where a text lived on two islands, a new one is written beside it.
    assert {m.tokens for m in seen[0].members} >= set(start), "it begins where the other ended"
    assert on.trace[0]["best"] == pytest.approx(run.trace[-1]["best"])
    assert on.trace[-1]["best"] >= run.trace[-1]["best"]
    # Fewer texts than the population: the others are written anew; more: the best are taken.
    assert len(evolve(model, settings=Genetic(**SMALL | {"generations": 0}), start=start[:3]).members) == 8
    few = evolve(
        model, prompt="ab", suffix="c", settings=Genetic(**SMALL | {"population": 4, "generations": 0}), start=start
    )
    assert {member.tokens for member in few.members} == set(list(dict.fromkeys(start))[:4])


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda record: record.pop("members"), "no population"),
        (lambda record: record.update(schema=9), "format 9"),
        (lambda record: record["identity"].update(tokenizer_sha256="x"), "tokenizer is not that of"),
        (lambda record: record["members"][0].update(tokens=[3]), "no text can hold"),
        (lambda record: record["members"][0].update(tokens=[]), "empty"),
    ],
)
def test_population_files_that_are_wrong(model, run, tmp_path, spoil, said):
    record = json.loads(json.dumps(run.as_dict()))
    spoil(record)
    path = tmp_path / "population.json"
    path.write_text(json.dumps(record))
    with pytest.raises(InputError, match=said):
        read_population(path, model)


def test_population_files_that_are_none(model, run, tmp_path):
    with pytest.raises(InputError, match="cannot be read: No such file"):
        read_population(tmp_path / "none.json", model)
    (tmp_path / "text.json").write_text("It was a dark night")
    with pytest.raises(InputError, match="no population as"):
        read_population(tmp_path / "text.json", model)
    with pytest.raises(InputError, match=r"cannot write .*No such file"):
        run.save(tmp_path / "no such folder" / "out.json")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"population": 1}, "a population of one cannot evolve"),
        ({"population": 10, "islands": 4}, "islands 4: a population of 10"),
        ({"population": 4, "islands": 4}, "at least two texts"),
        ({"temperature": 0}, "temperature 0: must be above 0"),
        ({"temperature": float("nan")}, "temperature nan"),
        ({"mutation": 1.5}, "mutation 1.5: must lie between 0 and 1"),
        ({"crossover": float("nan")}, "crossover nan"),
        ({"length": 0}, "length 0"),
        ({"slack": 1}, "slack 1"),
        ({"repetition": -1}, "repetition -1"),
        ({"elite": 8}, "elite 8: must be below the 8"),
        ({"passes": 0}, "passes 0"),
        ({"generations": True}, "generations True"),
        ({"tournament": 0}, "tournament 0"),
    ],
)
def test_settings_that_are_wrong(options, said):
    with pytest.raises(InputError, match=said):
        Genetic(**options)
