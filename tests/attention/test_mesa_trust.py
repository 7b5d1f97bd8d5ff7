"""What the mesa-layer does where a solve is hard: by another way, in float64, or not at all; never wrongly."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from snellen.attention import MesaState, mesa_step
from snellen.attention.mesa import layer, systems
from snellen.attention.mesa_reference import direct
from snellen.errors import Refused
from tests.attention.mesa_inputs import NAMES, arguments, call, difference, inputs


def gradients(given: dict[str, Tensor], function: Any, **options: Any) -> list[Tensor]:
    """Output and gradients."""
    leaves = {name: given[name].detach().clone().requires_grad_() for name in NAMES if name in given}
    out = function(leaves, **options)
    towards = torch.linspace(-1, 1, out.numel(), dtype=torch.float64).reshape(out.shape).to(out.dtype)
    return [out.detach(), *torch.autograd.grad((out * towards).sum(), list(leaves.values()))]


def twin(given: dict[str, Tensor], **options: Any) -> Tensor:
    return direct(**arguments(given), **options)


@pytest.mark.parametrize("gamma", [0.998, 0.9])
@pytest.mark.parametrize("block", [1, 1 << 26])
def test_what_conjugate_gradients_leave_is_factored(gamma: float, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    given = inputs(40, dim=6, gamma=gamma, gated=True)
    expected = gradients(given, twin, form="mesanet")
    monkeypatch.setattr(systems, "_BLOCK_BYTES", block)
    for steps in (-6, -5, -3):  # none, one, three steps for all
        monkeypatch.setattr(systems, "_EXTRA_STEPS", steps)
        found = gradients(given, call, form="mesanet")
        assert all(difference(a, b) < 1e-11 for a, b in zip(found, expected, strict=True))


def test_a_claim_to_have_solved_is_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    given = inputs(20, gamma=0.9)
    expected = call(given, form="mesanet")
    solve = systems.conjugate_gradients

    def off(product: Any, rhs: Tensor, **options: Any) -> tuple[Tensor, Tensor]:
        found, solved = solve(product, rhs, **options)
        found[:, :, :, 3] *= 1 + 1e-6
        return found, torch.ones_like(solved)

    monkeypatch.setattr(systems, "conjugate_gradients", off)
    assert difference(call(given, form="mesanet"), expected) < 1e-12


def test_some_are_iterated_some_factored(monkeypatch: pytest.MonkeyPatch) -> None:
    """Little ridge, and a key of length 300 halfway: conjugate gradients serve what is easy, and only that."""
    given = inputs(200, batch=1, dim=24, gamma=0.95, unit=True)
    given["k"][:, 100] *= 300.0
    given["ridge"] *= 1e-3
    shares = []
    factored = systems.Systems._one_by_one

    def watched(self: systems.Systems, found: Tensor, rhs: Tensor, where: Tensor) -> Tensor:
        shares.append(float(where.double().mean()))
        return factored(self, found, rhs, where)

    monkeypatch.setattr(systems.Systems, "_one_by_one", watched)
    found = gradients(given, call, form="mesanet")
    expected = gradients(given, twin, form="mesanet")
    assert all(difference(a, b) < 1e-8 for a, b in zip(found, expected, strict=True))
    assert all(0.01 < share < 0.99 for share in shares)
    assert len(shares) == 2  # forward and backward


@pytest.mark.parametrize(("form", "gamma"), [("2023", None), ("2023", 0.999), ("mesanet", 0.998), ("mesanet", 0.9)])
@pytest.mark.parametrize("ridge", [1.0, 1e-2, 1e-3, 1e-5])
def test_small_ridges_in_single_precision(form: str, gamma: float | None, ridge: float) -> None:
    for unit in (True, False):
        given = inputs(90, batch=1, dim=24, vdim=8, gamma=gamma, unit=unit, dtype=torch.float32)
        given["ridge"] = torch.full_like(given["ridge"], ridge)
        found = gradients(given, call, form=form)
        expected = gradients({name: x.double() for name, x in given.items()}, call, form=form)
        assert found[0].dtype == torch.float32
        assert difference(found[0], expected[0]) < 3e-5
        assert max(difference(a, b) for a, b in zip(found, expected, strict=True)) < 3e-4
        assert difference(expected[0], twin(given, form=form)) < 1e-7


def in_a_plane(k: Tensor) -> Tensor:
    """Keys that span two directions, none of them an axis: then it is not the same entries that are 0 in all."""
    axes = torch.linalg.qr(torch.randn(k.shape[-1], 2, generator=torch.Generator().manual_seed(1))).Q
    return k @ axes @ axes.mT


def low_rank(gamma: float, length: int = 700) -> dict[str, Tensor]:
    given = inputs(length, batch=1, heads=2, dim=12, unit=True, dtype=torch.float32)
    k = given["k"].clone()
    k[:, :, 1] = in_a_plane(k[:, :, 1])
    return given | {"k": k, "log_decay": torch.full((1, length, 2), math.log(gamma))}


def test_float64_serves_what_float32_cannot_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    """γ = 0.98 over 700 positions leaves 7e-7 of the regulariser, and nothing else holds ten of the directions."""
    given = low_rank(0.98)
    expected = twin(given, form="2023")
    assert difference(call(given, form="2023"), expected) < 1e-6
    monkeypatch.setattr(layer, "LEAST_IN_SINGLE", 0.0)
    assert difference(call(given, form="2023")[:, -50:, 1], expected[:, -50:, 1]) > 0.02


def test_refused_where_the_regulariser_is_gone() -> None:
    given = low_rank(0.95)
    with pytest.raises(Refused, match=r"lost in rounding in heads \[1\].*float64 needs.*form='mesanet'"):
        call(given, form="2023")
    with pytest.warns(RuntimeWarning, match="lost in rounding"):
        wrong = call(given, form="2023", ill_conditioned="warn")
    assert wrong.isfinite().all()
    assert difference(wrong[0, -1, 1], extended(given)) > 0.01
    assert difference(call(given, form="mesanet"), twin(given, form="mesanet")) < 1e-5


def extended(given: dict[str, Tensor]) -> Tensor:
    """The 2023 form's output of head 1 at the last position, with 64 bits of mantissa rather than float64's 53."""
    q, k, v, log_decay = (
        given[name][0, :, 1].double().numpy().astype(np.longdouble) for name in ("q", "k", "v", "log_decay")
    )
    zeta = np.exp(log_decay.sum() - log_decay.cumsum())
    matrix = (k * zeta[:, None]).T @ k
    matrix[np.diag_indices(len(matrix))] += given["ridge"][1].double().numpy() * np.exp(log_decay.sum())
    rest = q[-1].copy()
    for i in range(len(matrix)):  # Gauss; a positive definite matrix needs no pivoting
        for j in range(i + 1, len(matrix)):
            factor = matrix[j, i] / matrix[i, i]
            matrix[j] -= factor * matrix[i]
            rest[j] -= factor * rest[i]
    for i in reversed(range(len(matrix))):
        rest[i] = (rest[i] - matrix[i, i + 1 :] @ rest[i + 1 :]) / matrix[i, i]
    return torch.from_numpy(((v * zeta[:, None]).T @ (k @ rest)).astype(np.float64))


@pytest.mark.skipif(np.finfo(np.longdouble).eps > 1e-18, reason="no extended precision on this machine")
def test_what_is_not_refused_is_right() -> None:
    """Down to where it is refused, which comes when float64 has three digits left, not much before."""
    refused = []
    gammas = [1.0, 0.999, 0.99, 0.98, 0.97, 0.965, 0.963, 0.961, 0.959, 0.957, 0.955, 0.95, 0.9]
    for gamma in gammas:
        given = low_rank(gamma)
        try:
            found = call(given, form="2023")[0, -1, 1]
        except Refused:
            refused.append(gamma)
        else:
            assert difference(found, extended(given)) < 0.01
    assert refused == gammas[len(gammas) - len(refused) :]
    assert 3 <= len(refused) <= 8


@pytest.mark.parametrize("form", ["2023", "mesanet"])
@pytest.mark.parametrize("gamma", [None, 0.999, 0.9])
def test_gradients_need_more_than_outputs(form: str, gamma: float | None) -> None:
    """One long key: the output is right long after its gradients are the rounding of larger numbers."""
    given = inputs(1, batch=1, heads=1, dim=2)
    if gamma is not None:
        given["log_decay"] = torch.full((1, 1, 1), math.log(gamma)).double()
    for size in (3e4, 3e5):
        some = given | {"k": size * given["k"]}
        q, k, v = (some[name][0, 0, 0] for name in ("q", "k", "v"))
        ridge = given["ridge"][0] * (gamma if form == "2023" and gamma else 1.0)
        k.requires_grad_()
        expected = v * (k / ridge @ q) / (1 + k / ridge @ k)  # Sherman and Morrison
        with torch.no_grad():
            assert difference(call(some, form=form)[0, 0, 0], expected) < 1e-3
        if size == 3e5:
            with pytest.raises(Refused, match="for gradients"):
                gradients(some, call, form=form)
        else:
            (true,) = torch.autograd.grad((expected * torch.linspace(-1, 1, 4, dtype=torch.float64)).sum(), k)
            assert difference(gradients(some, call, form=form)[1 + NAMES.index("k")][0, 0, 0], true) < 1e-4


def test_refused_while_decoding() -> None:
    for gamma in (0.98, 0.95):
        given = low_rank(gamma)
        last = {name: x if name == "ridge" else x[:, -1] for name, x in given.items()}
        before = {name: given[name][:, :-1] for name in ("k", "v", "log_decay")}
        state = MesaState.empty(1, 2, 12, 4).after(**before)
        out, _ = mesa_step(**arguments(last), state=state, form="mesanet")
        assert difference(out, call(given, form="mesanet")[:, -1]) < 1e-5
        if gamma == 0.98:
            out, _ = mesa_step(**arguments(last), state=state, form="2023")
            assert difference(out, call(given, form="2023")[:, -1]) < 1e-6
            state = MesaState.empty(1, 2, 12, 4, dtype=torch.float32).after(**before)
        with pytest.raises(Refused, match="lost in rounding"):
            mesa_step(**arguments(last), state=state, form="2023")


@pytest.mark.parametrize("gamma", [None, 0.998, 0.9])
def test_refused_where_keys_drown_the_ridge(gamma: float | None) -> None:
    given = inputs(40, dim=12, gamma=gamma, dtype=torch.float32)
    large = given | {"k": 1000 * in_a_plane(given["k"])}
    assert difference(call(large, form="mesanet"), twin(large, form="mesanet")) < 1e-6
    for size in (1e8, 1e15, 1e25):  # the last overflows in float32
        with pytest.raises(Refused, match=r"normalise them|not finite"):
            call(given | {"k": size * in_a_plane(given["k"])}, form="mesanet")
