"""The slow twins of `without_replacement`, `sequential` and `power_sampling`: one branch after another, plain loops.

The noise is that of the fast paths, so that the same particles must come out. Give them a float64 model.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from snellen.lookahead.counter_noise import CHUNKS, OWN, child_key, context_keys
from snellen.lookahead.race import CHUNK
from snellen.lookahead.reference import next_log_probs

Tokens = tuple[int, ...]


def uniform(key: int) -> float:
    return ((key >> 12) + 0.5) * 2.0**-52


def proposal(log_probs: Tensor, exponent: float) -> list[float]:
    return [float(x) for x in (exponent * log_probs).log_softmax(-1)]


def race(log_pi: list[float], key: int) -> list[tuple[float, int]]:
    """Arrival of every token at a node, soonest first; within a chunk a fresh race from its first arrival on."""
    times = []
    for first in range(0, len(log_pi), CHUNK):
        members = range(first, min(first + CHUNK, len(log_pi)))
        rate = sum(math.exp(log_pi[v]) for v in members)
        start = -math.log(uniform(child_key(key, CHUNKS - first // CHUNK))) / rate
        own = [-math.log(uniform(child_key(key, v))) / math.exp(log_pi[v]) for v in members]
        times += [(start + t - min(own), v) for t, v in zip(own, members, strict=True)]
    return sorted(times)


def stochastic_beam(
    model: PreTrainedModel, prefix: Tensor, *, particles: int, horizon: int, seed: int = 0, exponent: float = 1.5
) -> list[list[tuple[Tokens, float, float]]]:
    """At each depth the completions that arrive first, in order: tokens, log p, log-weight (Kool et al., alg. 1)."""
    root = context_keys(seed, prefix.tolist())[-1]
    # tokens, key, log p, log π, arrival
    kept: list[Any] = [((), root, 0.0, 0.0, -math.log(uniform(child_key(root, OWN))))]
    bound, depths = math.inf, []
    for _ in range(horizon):
        children = []
        for tokens, key, log_p, log_pi, arrival in kept:
            next_p = next_log_probs(model, torch.cat([prefix, prefix.new_tensor(tokens)]))
            next_pi = proposal(next_p, exponent)
            times = race(next_pi, key)
            for time, v in times:
                later = arrival + (time - times[0][0]) / math.exp(log_pi)
                children.append(((*tokens, v), child_key(key, v), log_p + float(next_p[v]), log_pi + next_pi[v], later))
        children.sort(key=lambda child: child[-1])
        if len(children) > particles:
            bound = min(bound, children[particles][-1])
        kept = children[:particles]
        depths.append([(c[0], c[2], -math.log(-math.expm1(-math.exp(c[3]) * bound))) for c in kept])
    return depths


def without_replacement(
    model: PreTrainedModel, prefix: Tensor, *, particles: int, horizon: int, seed: int = 0, exponent: float = 2.0
) -> list[list[tuple[Tokens, float, float]]]:
    """The same with a fresh race at each depth, of rates exp(log-weight) · p(prefix)^exponent."""
    kept: list[Any] = [((), context_keys(seed, prefix.tolist())[-1], 0.0, 0.0)]  # tokens, key, log p, log-weight
    depths = []
    for _ in range(horizon):
        children = []
        for tokens, key, log_p, weight in kept:
            next_p = next_log_probs(model, torch.cat([prefix, prefix.new_tensor(tokens)]))
            times = race(proposal(next_p, exponent), key)
            start = -math.log(uniform(child_key(key, OWN)))
            rate = math.exp(weight + exponent * log_p) * float((exponent * next_p).exp().sum())
            for time, v in times:
                child = ((*tokens, v), child_key(key, v), log_p + float(next_p[v]), weight)
                children.append((*child, (start + time - times[0][0]) / rate))
        children.sort(key=lambda child: child[-1])
        bound = children[particles][-1] if len(children) > particles else math.inf
        rates = [math.exp(weight + exponent * log_p) for _, _, log_p, weight, _ in children[:particles]]
        kept = [
            (*c[:3], c[3] - math.log(-math.expm1(-rate * bound)))
            for c, rate in zip(children[:particles], rates, strict=True)
        ]
        depths.append([(tokens, log_p, weight) for tokens, _, log_p, weight in kept])
    return depths


def sequential(
    model: PreTrainedModel,
    prefix: Tensor,
    *,
    particles: int,
    targets: list[float],
    exponent: float,
    resample_below: float,
    seed: int = 0,
    stop: Collection[int] | None = None,
) -> list[list[tuple[Tokens, float, float]]]:
    """At each depth d the particles, weighted towards p^targets[d]: tokens, log p, log-weight (Power-SMC, algorithm 1).

    With `stop` tokens as `power_sampling` numbers the draws at a node: in order of the particles that are there.
    """
    root = context_keys(seed, prefix.tolist())[-1]
    cloud: list[tuple[Tokens, float, float]] = [((), 0.0, -math.log(particles))] * particles
    before, depths = 0.0, []
    for depth, target in enumerate(targets, 1):
        grown, visits = [], dict.fromkeys((tokens for tokens, *_ in cloud), 0)
        for i, (tokens, log_p, weight) in enumerate(cloud):
            if tokens and stop and tokens[-1] in stop:
                grown.append((tokens, log_p, weight + (target - before) * log_p))
                continue
            key, turn = root, i if stop is None else visits[tokens]
            visits[tokens] += 1
            for v in tokens:
                key = child_key(key, v)
            next_p = next_log_probs(model, torch.cat([prefix, prefix.new_tensor(tokens)]))
            next_pi = torch.tensor(proposal(next_p, exponent), dtype=torch.float64)
            quantile = (uniform(child_key(key, OWN)) + turn * 0.6180339887498949) % 1
            v = int((next_pi.exp().cumsum(0) <= quantile).sum())
            now = log_p + float(next_p[v])
            grown.append(((*tokens, v), now, weight + target * now - before * log_p - float(next_pi[v])))
        depths.append([(tokens, log_p, weight - target * log_p) for tokens, log_p, weight in grown])
        cloud, before = _resampled(grown, resample_below, uniform(child_key(child_key(root, OWN), depth))), target
    return depths


def _resampled(
    cloud: list[tuple[Tokens, float, float]], below: float, shift: float
) -> list[tuple[Tokens, float, float]]:
    weights = [math.exp(weight) for *_, weight in cloud]
    total, count = sum(weights), len(cloud)
    if total**2 / sum(w * w for w in weights) >= below * count and below < 1:
        return cloud
    reached = [sum(weights[: i + 1]) / total for i in range(count)]
    chosen = [sum(r <= (i + shift) / count for r in reached) for i in range(count)]
    return [(*cloud[min(i, count - 1)][:2], math.log(total / count)) for i in chosen]
