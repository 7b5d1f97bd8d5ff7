"""The chain against its enumerated target on a real masked model: all texts of a few free tokens in a frame.

    python scripts/masked/stationarity.py OUT/vh            # the folder of the heavy chain, from sapiens.py

By default two free residues in the third complementarity-determining region of the antibody in the README of `sapiens`:
20² texts. Says how far the kernel that the code's own functions make is from keeping π, how far Gibbs sampling (every
proposal accepted) is, and how far the samples of a run are, beside what their effective number lets one expect.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable

import numpy as np
import torch

from snellen.lookahead.evolution import Conditionals, Metropolis, metropolis
from snellen.lookahead.evolution.chains import log_acceptance
from snellen.lookahead.evolution.convergence import effective_samples
from snellen.lookahead.evolution.frame import Body, frame_of
from snellen.lookahead.evolution.writing import proposal
from snellen.models.masked import MaskedModel, load_masked

PROMPT = "QVQLVQSGVEVKKPGASVKVSCKASGYTFTNYYMYWVRQAPGQGLEWMGGINPSNGGTNFNEKFKNRVTLTTDSSTTTAYMELKSLQFDDTAVYYCARRDYR"
SUFFIX = "MGFDYWGQGTTVTVSS"  # between them the README's chain has FD


def kernel(
    model: MaskedModel, length: int, accept: Callable[..., float]
) -> tuple[list[Body], torch.Tensor, torch.Tensor]:
    """All texts, π, and the transition matrix, both float64."""
    tokens = model.ordinary.nonzero()[:, 0].tolist()
    texts = list(itertools.product(tokens, repeat=length))
    number = {text: i for i, text in enumerate(texts)}
    scorer = Conditionals(model, frame_of(model, prompt=PROMPT, suffix=SUFFIX, longest=length))
    energies = [-float(scores.sum()) for scores in scorer.log_likelihoods(texts)]
    matrix = torch.zeros(len(texts), len(texts), dtype=torch.float64)
    for place in range(length):
        log_q = proposal(scorer.at(texts, [place] * len(texts)), model.ordinary, 1.0)
        for x, text in enumerate(texts):
            for token in tokens:
                y = number[(*text[:place], token, *text[place + 1 :])]
                back, there = float(log_q[x, text[place]]), float(log_q[x, token])
                moves = float(np.exp(there + accept(energies[x], energies[y], back, there, temperature=1.0)))
                matrix[x, y] += moves / length
                matrix[x, x] += (float(np.exp(there)) - moves) / length
    return texts, (-torch.tensor(energies, dtype=torch.float64)).softmax(-1), matrix


def stationary(matrix: torch.Tensor) -> torch.Tensor:
    """The distribution that a kernel keeps."""
    return torch.linalg.matrix_power(matrix, 1 << 12)[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder")
    parser.add_argument("--length", type=int, default=2)
    parser.add_argument("--chains", type=int, default=32)
    parser.add_argument("--steps", type=int, default=400)
    settings = parser.parse_args()
    model = load_masked(settings.folder)
    texts, pi, matrix = kernel(model, settings.length, log_acceptance)
    flow = pi[:, None] * matrix
    print(f"texts                                     {len(texts)}")
    print(f"largest |π P − π|                         {float((pi @ matrix - pi).abs().max()):.1e}")
    print(f"largest |π(x) P(x,y) − π(y) P(y,x)|       {float((flow - flow.T).abs().max()):.1e}")
    _, _, gibbs = kernel(model, settings.length, lambda *_, **__: 0.0)
    print(f"total variation, kept by Gibbs from π     {float((stationary(gibbs) - pi).abs().sum()) / 2:.4f}")
    run = metropolis(
        model,
        prompt=PROMPT,
        suffix=SUFFIX,
        settings=Metropolis(length=settings.length, population=settings.chains, steps=settings.steps, thin=1),
    )
    number = {text: i for i, text in enumerate(texts)}
    draws = np.array([[number[body] for body in states] for states in run.samples]).T
    empirical = np.bincount(draws.ravel(), minlength=len(texts)) / draws.size
    exact = pi.numpy()
    sizes = np.array([
        effective_samples((draws == text).astype(float)) if (draws == text).any() else draws.size
        for text in range(len(texts))
    ])  # fmt: skip
    expected = 0.5 * np.sqrt(2 / np.pi * exact * (1 - exact) / np.minimum(sizes, draws.size)).sum()
    print(f"total variation, samples from π           {np.abs(empirical - exact).sum() / 2:.4f}")
    print(f"expected of as many effective samples     {expected:.4f}")
    print(f"samples, effective (of the energy), R̂     {draws.size}, {run.convergence['effective_samples']:.0f}, "
          f"{run.convergence['r_hat']:.3f}")  # fmt: skip
    print(f"acceptance, rows of the model             {run.convergence['acceptance']:.3f}, {run.cost.passes}")


if __name__ == "__main__":
    main()
