"""Whether chains have forgotten where they began: split R̂ and the effective sample size.

Vehtari, Gelman, Simpson, Carpenter & Bürkner (2021), "Rank-normalization, folding, and localization: an improved R̂";
without their rank normalisation, since an energy has moments.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

Draws = Float[np.ndarray, "chains draws"]


def summary(draws: np.ndarray, *, acceptance: float) -> dict[str, float | None]:
    """What is told of a run: `r_hat` and `effective_samples` of the energy (None where undefined), and `acceptance`."""
    enough = draws.ndim == 2 and draws.shape[1] >= 8 and bool(np.var(draws, axis=1).min() > 0)
    return {
        "r_hat": split_r_hat(draws) if enough else None,
        "effective_samples": effective_samples(draws) if enough else None,
        "acceptance": acceptance,
    }


def split_r_hat(draws: Draws) -> float:
    """√(var⁺ / W) of the chains cut in two: 1 when the halves agree; above about 1.01 to 1.1 they have not mixed."""
    half = draws.shape[1] // 2
    halves = np.concatenate([draws[:, :half], draws[:, -half:]])
    within, total = _variances(halves)
    return float(np.sqrt(total / within))


def effective_samples(draws: Draws) -> float:
    """How many independent draws the mean over all of them is worth.

    M·N / (1 + 2 Σ ρ̂_t), summed over Geyer's initial monotone positive pairs.
    """
    chains, count = draws.shape
    within, total = _variances(draws)
    if total == 0:
        return float("nan")
    centred = draws - draws.mean(axis=1, keepdims=True)
    size = 1 << (2 * count - 1).bit_length()
    spectrum = np.fft.rfft(centred, size, axis=1)
    autocovariance = np.fft.irfft(np.abs(spectrum) ** 2, size, axis=1)[:, :count].mean(axis=0) / count
    rho = 1 - (within - autocovariance * count / (count - 1)) / total
    rho[0] = 1.0
    pairs = rho[: count // 2 * 2].reshape(-1, 2).sum(axis=1)
    negative = np.flatnonzero(pairs < 0)
    pairs = np.minimum.accumulate(pairs[: negative[0]] if len(negative) else pairs)
    tau = max(2 * float(pairs.sum()) - 1, 1 / np.log10(max(10, chains * count)))
    return float(chains * count / tau)


def _variances(draws: np.ndarray) -> tuple[float, float]:
    """(W, var⁺): the mean variance within chains, and the estimate of the whole variance."""
    count = draws.shape[1]
    within = float(draws.var(axis=1, ddof=1).mean())
    between = float(draws.mean(axis=1).var(ddof=1)) if len(draws) > 1 else 0.0
    return within, (count - 1) / count * within + between
