"""Arms: a choice that is deep to make and easy to check.

    BOS x1 … xL g A s0 s1 … sL v

Each x is one of n fixed permutations π of m states, g is the goal, s0 the decision, and s_i = π_{x_i}(s_{i−1}) is
written out. The verdict v is OK where s_L = g, otherwise one of N noise tokens: a dead end, whose uncertainty shows
only at the end. Choosing s0 well means inverting L permutations at once; checking it takes one at a time. So a
shallow model learns to check long before it learns to choose, and a model of the *planless* author, who chooses at
random, never has a reason to learn the choice. The verdict stands L + 2 tokens after the choice is due: shorter
horizons see nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from snellen.errors import InputError
from snellen.organisms.language import Floats, Ids, Language, among, at_least, certain, share

BOS, ASK, OK = 0, 1, 2
_FIRST = 3  # permutations, states and noise follow


@dataclass(frozen=True, kw_only=True)
class Arms(Language):
    """states: m; depth: L; permutations: n; noise: N; rules: seed of the permutations.

    planning: the author chooses the s0 that reaches the goal with probability 1 − error, the others equally often;
    False: every s0 equally often.
    """

    states: int = 4
    depth: int = 2
    permutations: int = 4
    noise: int = 16
    planning: bool = False
    error: float = 0.15
    rules: int = 0

    def __post_init__(self) -> None:
        at_least("states", self.states, 2)
        at_least("depth", self.depth, 1)
        at_least("permutations", self.permutations, 1)
        at_least("noise", self.noise, 1)
        at_least("rules", self.rules, 0)
        share("error", self.error)
        if self.permutations > math.factorial(self.states):
            raise InputError(f"permutations = {self.permutations}: {self.states} states have fewer")

    @property
    def vocabulary(self) -> int:
        return _FIRST + self.permutations + self.states + self.noise

    @property
    def length(self) -> int:
        return 2 * self.depth + 5

    @property
    def decisions(self) -> Sequence[int]:
        return (self.depth + 3,)

    @property
    def reach(self) -> int:
        """The horizon that sees the verdict: L + 2."""
        return self.depth + 2

    @property
    def regions(self) -> Mapping[str, Sequence[int]]:
        at = self.decisions[0]
        return {"decision": (at,), "states": range(at + 1, at + 1 + self.depth), "verdict": (self.length - 1,)}

    @property
    def blind(self) -> float:
        """The loss of one who chooses at random, log m, nats a decision."""
        return math.log(self.states)

    @property
    def room(self) -> float:
        """What a perfect choice gains on the planning author's text over a uniform one, nats a decision."""
        chances = [1 - self.error, *[self.error / (self.states - 1)] * (self.states - 1)]
        return self.blind + sum(p * math.log(p) for p in chances if p > 0)

    @cached_property
    def tables(self) -> Ids:
        """[permutations, states] π_x(s); all different, drawn from `rules`."""
        rng = np.random.default_rng([self.rules, 1])
        drawn: dict[tuple[int, ...], None] = {}
        while len(drawn) < self.permutations:
            drawn.setdefault(tuple(rng.permutation(self.states).tolist()))
        return np.array(list(drawn), dtype=np.int64)

    def best(self, moves: Ids, goal: Ids) -> Ids:
        """[number] the s0 that reaches `goal` through `moves` [number, depth]."""
        inverse = np.argsort(self.tables, axis=1)
        state = goal
        for i in reversed(range(self.depth)):
            state = inverse[moves[:, i], state]
        return state

    def sample(self, number: int, *, seed: Any) -> Ids:
        rng = np.random.default_rng(seed)
        moves = rng.integers(self.permutations, size=(number, self.depth))
        goal = rng.integers(self.states, size=number)
        choice = rng.integers(self.states, size=number)
        if self.planning:
            best, other = self.best(moves, goal), rng.integers(self.states - 1, size=number)
            wrong = other + (other >= best)
            choice = np.where(rng.random(number) < self.error, wrong, best)
        path = [choice]
        for i in range(self.depth):
            path.append(self.tables[moves[:, i], path[-1]])
        noise = rng.integers(self.noise, size=number)
        verdict = np.where(path[-1] == goal, OK, self._noise(noise))
        head = [np.full(number, BOS), *(_FIRST + moves.T), self._state(goal), np.full(number, ASK)]
        return np.stack([*head, *(self._state(s) for s in path), verdict], axis=1)

    def log_probs(self, sequences: Ids) -> Floats:
        moves_at = slice(_FIRST, self._state(0))
        states_at, ends_at = slice(self._state(0), self._noise(0)), slice(OK, self.vocabulary)
        kinds = [slice(BOS, BOS + 1), *[moves_at] * self.depth, states_at, slice(ASK, ASK + 1)]
        sequences, lawful = among(sequences, [*kinds, *[states_at] * (self.depth + 1), ends_at])
        moves, goal, path = self._parts(sequences)
        out = np.zeros(sequences.shape)
        out[:, 1 : 1 + self.depth] = -math.log(self.permutations)
        out[:, 1 + self.depth] = -math.log(self.states)
        at = self.decisions[0]
        out[:, at] = -math.log(self.states)
        with np.errstate(divide="ignore"):
            if self.planning:
                right, wrong = np.log([1 - self.error, self.error / (self.states - 1)])
                out[:, at] = np.where(path[:, 0] == self.best(moves, goal), right, wrong)
            for i in range(self.depth):
                out[:, at + 1 + i] = np.log(path[:, i + 1] == self.tables[moves[:, i], path[:, i]])
        verdict = sequences[:, -1]
        reached, fine, noise = path[:, -1] == goal, verdict == OK, verdict >= self._noise(0)
        out[:, -1] = np.where(reached & fine, 0.0, np.where(~reached & noise, -math.log(self.noise), -np.inf))
        return np.where(lawful, out, -np.inf)

    def predict(self, prefix: Sequence[int]) -> Floats:
        place, vocabulary = len(prefix), self.vocabulary
        if prefix and not (0 <= prefix[-1] < self.vocabulary and self.predict(prefix[:-1])[prefix[-1]] > 0):
            raise self.impossible(prefix)
        out = np.zeros(vocabulary)
        if place in (0, self.depth + 2):
            return certain(vocabulary, ASK if place else BOS)
        if place <= self.depth:
            out[_FIRST : _FIRST + self.permutations] = 1 / self.permutations
            return out
        states = slice(self._state(0), self._state(0) + self.states)
        if place == self.depth + 1:
            out[states] = 1 / self.states
            return out
        moves, goal = [t - _FIRST for t in prefix[1 : self.depth + 1]], prefix[self.depth + 1] - self._state(0)
        if place == self.decisions[0]:
            out[states] = self.error / (self.states - 1) if self.planning else 1 / self.states
            if self.planning:
                state = goal
                for move in reversed(moves):
                    state = self.tables[move].tolist().index(state)
                out[self._state(state)] = 1 - self.error
            return out
        state = prefix[-1] - self._state(0)
        if place < self.length - 1:
            return certain(vocabulary, int(self._state(self.tables[moves[place - self.decisions[0] - 1], state])))
        if place > self.length - 1:
            raise self.impossible(prefix)
        if state == goal:
            return certain(vocabulary, OK)
        out[self._noise(0) :] = 1 / self.noise
        return out

    def is_dead_end(self, sequences: Ids) -> NDArray[np.bool_]:
        """[number] does the decision lead away from the goal, by the rules? Sequences [number, > first decision].

        Only the decision is looked at: what a model writes after it may be wrong, or cut off. Something other than a
        state at the decision is a dead end too.
        """
        at = self.decisions[0]
        if sequences.ndim != 2 or sequences.shape[1] <= at:
            raise InputError(f"sequences of shape {sequences.shape}: must reach the decision at place {at}")
        moves, goal, _ = self._parts(sequences[:, : at + 1])
        if (moves < 0).any() or (moves >= self.permutations).any() or (goal < 0).any() or (goal >= self.states).any():
            raise InputError("sequences: not prompts of this language (see sample_prompts)")
        dead: NDArray[np.bool_] = sequences[:, at] != self._state(self.best(moves, goal))
        return dead

    def spell(self, token: int) -> str:
        if token < _FIRST:
            return ("BOS", "A", "OK")[token]
        if token < self._state(0):
            return f"x{token - _FIRST}"
        return f"s{token - self._state(0)}" if token < self._noise(0) else f"n{token - self._noise(0)}"

    def _parts(self, sequences: Ids) -> tuple[Ids, Ids, Ids]:
        """Moves [number, depth], goal [number], states from the decision on."""
        L, zero = self.depth, self._state(0)
        path = sequences[:, L + 3 : 2 * L + 4] - zero
        return sequences[:, 1 : L + 1] - _FIRST, sequences[:, L + 1] - zero, path

    def _state(self, state: Any) -> Any:
        return _FIRST + self.permutations + state

    def _noise(self, number: Any) -> Any:
        return self._state(self.states) + number
