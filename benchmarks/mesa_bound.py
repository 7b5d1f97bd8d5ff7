"""The largest error of the mesa-layer's attention that is not refused, found by a seeded search.

    OMP_NUM_THREADS=1 python benchmarks/mesa_bound.py --write docs/results/mesa-bound.csv    # 10 searches: some minutes
    OMP_NUM_THREADS=1 python benchmarks/mesa_bound.py --draws 100 --searches 1 --where

A search finds how large an error can be at least, never how large at most: another seed finds others. So there are
several, of which the table has the worst.

"layer" draws what a mesa-layer gives its attention (keys of unit length, Λ ≥ 0.25), "any" whatever is allowed: Λ from
1e-8 on, keys up to 1e8 and of low rank. Lengths, sizes, decays, gates and the direction of the output's gradient are
random, half of the draws about one of the worst so far. The truth has 64 bits of mantissa (numpy's longdouble): a
solve at each position, and gradients written out as sums over pairs of positions, no chunks; where float64 says that
this, too, may be off by as much, an error is not counted.

Errors are relative, over all entries of the output or of one gradient: "of its own size", ‖found − true‖ / ‖true‖,
which knows no bound where sums cancel (a query at right angles to the keys); "of bound", the output's over the most
that it could be, (Σ ζβ|v|²)^½ (qᵀA⁻¹q)^½; "of all", a gradient's times the size of its input, over the largest such
product of any input: what it is off by of a change of the loss.
"""

from __future__ import annotations

import argparse
import csv
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy import ndarray

from snellen.attention import mesa_attention
from snellen.errors import Refused

NAMES = ("q", "k", "v", "ridge", "log_decay", "gate")
Long = np.longdouble
_LEAST_RIDGE = {True: math.log10(0.5), False: -8.0}  # its entries are from half of it on; a layer's floor is 0.25


@dataclass(frozen=True, kw_only=True)
class Draw:
    """Logarithms are to base 10. rank: of the keys; loss: 1 − γ, None without decay."""

    seed: int
    length: int
    dim: int
    ridge: float
    size: float  # of keys
    rank: int
    spread: float  # keys' entries differ by up to this many powers of ten
    loss: float | None
    gated: bool
    layer: bool  # as a mesa-layer has it

    def __str__(self) -> str:
        decay = "none" if self.loss is None else f"{1 - 10**self.loss:.6g}"
        keys = "unit" if self.layer else f"{10**self.size:.1g}, spread {10**self.spread:.1g}"
        return (
            f"length {self.length}, d {self.dim}, Λ {10**self.ridge:.1g}, keys {keys}, rank {self.rank}, γ {decay}"
            f"{', gated' if self.gated else ''}"
        )

    def tensors(self, dtype: torch.dtype) -> dict[str, torch.Tensor]:
        rng = np.random.default_rng(self.seed)
        shape = (1, self.length, 1)
        basis = np.linalg.qr(rng.standard_normal((self.dim, self.dim)))[0][:, : self.rank]
        scales = 10.0 ** (-self.spread * np.linspace(0, 1, self.dim))
        k = 10**self.size * (rng.standard_normal((*shape, self.rank)) @ basis.T) * scales
        q, k = rng.standard_normal((*shape, self.dim)), k / math.sqrt(self.rank)
        if self.layer:
            q, k = (x / np.linalg.norm(x, axis=-1, keepdims=True) for x in (q, k))
        found = {
            "q": q, "k": k,
            "v": rng.standard_normal((*shape, 3)),
            "ridge": 10**self.ridge * rng.uniform(0.5, 1.5, (1, self.dim)),
        }  # fmt: skip
        if self.loss is not None:
            found["log_decay"] = rng.uniform(0.5, 1.0, shape) * math.log1p(-(10**self.loss))
        if self.gated:
            found["gate"] = rng.uniform(0, 1, shape)
        return {name: torch.from_numpy(x).to(dtype) for name, x in found.items()}

    def moved(self, rng: np.random.Generator) -> Draw:
        """One about it."""
        return replace(
            self,
            seed=int(rng.integers(2**31)),
            length=int(np.clip(self.length * math.exp(rng.normal(0, 0.3)), 1, 120)),
            ridge=float(np.clip(self.ridge + rng.normal(0, 0.3), _LEAST_RIDGE[self.layer], 2)),
            size=float(np.clip(self.size + rng.normal(0, 0.2), -2, 8)),
            spread=float(np.clip(self.spread + rng.normal(0, 0.3), 0, 6)),
            loss=None if self.loss is None else float(np.clip(self.loss + rng.normal(0, 0.2), -4, -0.02)),
        )


def drawn(rng: np.random.Generator, *, layer: bool) -> Draw:
    dim = int(rng.choice([1, 2, 4, 8, 12, 20]))
    return Draw(
        seed=int(rng.integers(2**31)), length=int(np.exp(rng.uniform(0, math.log(120)))), dim=dim,
        ridge=rng.uniform(_LEAST_RIDGE[layer], 2), size=float(rng.choice([0.0, 0.0, rng.uniform(-2, 8)])),
        rank=int(rng.integers(1, dim + 1)) if rng.random() < 0.5 else dim,
        spread=float(rng.choice([0.0, rng.uniform(0, 6)])),
        loss=None if rng.random() < 0.3 else rng.uniform(-4, -0.02), gated=bool(rng.random() < 0.5),
        layer=layer,
    )  # fmt: skip


def truth(
    given: dict[str, torch.Tensor], e: torch.Tensor, form: str, *, kind: type = np.longdouble
) -> tuple[dict[str, ndarray], float]:
    """Output and gradients, of one row and one head; and what the output could be at most.

    |o_t| ≤ (Σ_s ζ_ts β_s |v_s|²)^½ (q_tᵀA_t⁻¹q_t)^½, in the norm over all t.
    """
    q, k, v = (given[name].double().numpy()[0, :, 0].astype(kind) for name in ("q", "k", "v"))
    ridge = given["ridge"].double().numpy()[0].astype(kind)
    length = len(q)
    pull = e.double().numpy()[0, :, 0].astype(kind)
    flow = given["log_decay"].double().numpy()[0, :, 0].astype(kind) if "log_decay" in given else np.zeros(length, kind)
    gate = given["gate"].double().numpy()[0, :, 0].astype(kind) if "gate" in given else np.ones(length, kind)
    total = flow.cumsum()
    zeta = np.tril(np.exp(np.minimum(total[:, None] - total, 0)))  # row t, column s
    weight = zeta * gate
    left = np.exp(total) if form == "2023" else np.ones(length, kind)
    gram = np.einsum("ts,si,sj->tij", weight, k, k) + left[:, None, None] * np.diag(ridge)
    cross = np.einsum("ts,si,sj->tij", weight, v, k)
    u, w = solved(gram, np.stack([q, np.einsum("tij,ti->tj", cross, pull)], axis=-1)).transpose(2, 0, 1)
    # dℓ = Σ_t e_tᵀ dG_t u_t − w_tᵀ dA_t u_t, and G, A are sums over the pairs (t, s) with weight ζ_ts β_s.
    uk, wk, ev = u @ k.T, w @ k.T, pull @ v.T  # row t, column s
    by_pair = ev * uk - wk * uk  # the derivative by the weight of pair (t, s)
    found = {
        "out": np.einsum("tij,tj->ti", cross, u),
        "q": w,
        "k": np.einsum("ts,ti->si", weight * (ev - wk), u) - np.einsum("ts,ti->si", weight * uk, w),
        "v": np.einsum("ts,ti->si", weight * uk, pull),
        "ridge": -(left[:, None] * w * u).sum(0),
        "gate": (zeta * by_pair).sum(0),
    }
    moved = weight * by_pair
    by_total = moved.sum(1) - moved.sum(0)
    if form == "2023":
        by_total = by_total - left * (w * u * ridge).sum(1)
    found["log_decay"] = by_total[::-1].cumsum()[::-1]
    could_be = np.sqrt(((weight @ (v**2).sum(1)) * np.maximum((q * u).sum(1), 0)).sum())
    return {name: found[name] for name in ("out", *NAMES) if name == "out" or name in given}, float(could_be)


def solved(matrix: ndarray, rhs: ndarray) -> ndarray:
    """Gauss for all positions at once; scaled to a unit diagonal, a positive definite matrix needs no pivoting."""
    scale = 1 / np.sqrt(np.einsum("tii->ti", matrix))
    matrix, rhs = matrix * scale[:, :, None] * scale[:, None, :], rhs * scale[:, :, None]
    size = matrix.shape[-1]
    for i in range(size):
        factor = matrix[:, i + 1 :, i] / matrix[:, i, i, None]
        matrix[:, i + 1 :] -= factor[..., None] * matrix[:, i, None]
        rhs[:, i + 1 :] -= factor[..., None] * rhs[:, i, None]
    for i in reversed(range(size)):
        rhs[:, i] = (rhs[:, i] - np.einsum("tj,tjc->tc", matrix[:, i, i + 1 :], rhs[:, i + 1 :])) / matrix[
            :, i, i, None
        ]
    return rhs * scale[:, :, None]


def errors(draw: Draw, form: str, dtype: torch.dtype) -> dict[str, float] | None:
    """By number, and `of all`; None where it is refused."""
    leaves = {name: x.requires_grad_() for name, x in draw.tensors(dtype).items()}
    try:
        out = mesa_attention(**leaves, form=form)
        e = torch.from_numpy(np.random.default_rng(draw.seed + 1).standard_normal(out.shape)).to(dtype)
        gradients = torch.autograd.grad((out * e).sum(), list(leaves.values()))
    except Refused:
        return None
    given = {name: x.detach() for name, x in leaves.items()}
    true, could_be = truth(given, e, form)
    # What extended precision may itself be off by: float64 is 2048 times less exact, and here counts for 100.
    rough, _ = truth(given, e, form, kind=np.float64)
    doubt = {name: 0.01 * norm(rough[name] - true[name]) for name in true}
    off = {name: away(found, true[name], doubt[name]) for name, found in zip(leaves, gradients, strict=True)}
    scale = max(float(x.double().norm()) * norm(true[name]) for name, x in given.items())
    found = {name: ratio(value, norm(true[name])) for name, value in off.items()}
    wrong = away(out, true["out"], doubt["out"])
    found |= {"out": ratio(wrong, norm(true["out"])), "out of bound": ratio(wrong, could_be)}
    return found | {
        "of all": max(ratio(value * float(given[name].double().norm()), scale) for name, value in off.items())
    }


def norm(x: ndarray) -> float:
    return float(np.sqrt((x**2).sum()))


def away(found: torch.Tensor, true: ndarray, doubt: float) -> float:
    """0 where the truth itself is in doubt by as much."""
    off = norm(found.detach().double().numpy().reshape(true.shape).astype(Long) - true)
    return off if off > doubt else 0.0


def ratio(off: float, size: float) -> float:
    return off / size if size > 0 else 0.0


@dataclass
class Worst:
    """The largest error of one number, and where."""

    error: float = 0.0
    draw: Draw | None = None


def search(form: str, dtype: torch.dtype, *, layer: bool, draws: int, seed: int) -> tuple[dict[str, Worst], int]:
    """The worst by number, and how many were refused."""
    rng = np.random.default_rng([seed, form == "2023", dtype == torch.float32, layer])
    worst = {name: Worst() for name in ("out", "out of bound", "of all", *NAMES)}
    refused = 0
    for _ in range(draws):
        about = worst[str(rng.choice(list(worst)))].draw
        draw = drawn(rng, layer=layer) if about is None or rng.random() < 0.5 else about.moved(rng)
        found = errors(draw, form, dtype)
        if found is None:
            refused += 1
            continue
        for name, error in found.items():
            if not error <= worst[name].error:
                worst[name] = Worst(error, draw)
    return worst, refused


COLUMNS = ("search", "inputs", "numbers", "form", "draws", "refused", "out of bound", "out", "of all", *NAMES)


def records(draws: int, searches: int, *, where: bool) -> Iterator[dict[str, str]]:
    """What each search found of each kind of inputs; `where` prints the draw of each worst."""
    for seed in range(searches):
        for layer in (True, False):
            for dtype in (torch.float32, torch.float64):
                for form in ("2023", "mesanet"):
                    worst, refused = search(form, dtype, layer=layer, draws=draws, seed=seed)
                    about = (str(seed), "layer" if layer else "any", str(dtype).removeprefix("torch."), form)
                    found = dict(zip(COLUMNS, (*about, str(draws), str(refused)), strict=False))
                    found |= {name: f"{worst[name].error:.3g}" for name in worst}
                    print(", ".join(about), *(f"{name} {found[name]}" for name in COLUMNS[6:]), flush=True)
                    for name in COLUMNS[6:] if where else ():
                        print(f"    {name}: {worst[name].draw}")
                    yield found


def table(found: Sequence[Mapping[str, str]]) -> str:
    """The worst of all searches."""
    head = ["inputs", "numbers", "form", "output, of bound", "output, of its own size", "gradients, of all"]
    head += ["gradients, of their own size", "refused"]
    lines = [f"| {' | '.join(head)} |", f"| {' | '.join(['---'] * len(head))} |"]
    for kind in dict.fromkeys((one["inputs"], one["numbers"], one["form"]) for one in found):
        mine = [one for one in found if (one["inputs"], one["numbers"], one["form"]) == kind]
        most = {name: max(float(one[name]) for one in mine) for name in COLUMNS[6:]}
        by = max(NAMES, key=lambda name: most[name])
        refused = sum(int(one["refused"]) for one in mine) / sum(int(one["draws"]) for one in mine)
        cells = [f"{most[name]:.0e}" for name in ("out of bound", "out", "of all", by)]
        lines.append(f"| {' | '.join([*kind, *cells[:3], f'{cells[3]}, by {by}', f'{100 * refused:.0f} %'])} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=400, help="of one search")
    parser.add_argument("--searches", type=int, default=10)
    parser.add_argument("--where", action="store_true", help="at which draw each was found")
    parser.add_argument("--write", type=Path, help="a file for what each search found, as CSV")
    arguments = parser.parse_args()
    if np.finfo(Long).eps > 1e-18:
        raise SystemExit("longdouble has no extended precision on this machine: there is no truth to compare with")
    found = list(records(arguments.draws, arguments.searches, where=arguments.where))
    print(table(found))
    if arguments.write is not None:
        with arguments.write.open("w", newline="") as out:
            writer = csv.DictWriter(out, COLUMNS)
            writer.writeheader()
            writer.writerows(found)


if __name__ == "__main__":
    main()
