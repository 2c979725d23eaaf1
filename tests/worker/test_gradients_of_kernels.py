"""Where PyTorch has a gradient, so has the kernel, and it is the one that small steps find."""

from __future__ import annotations

import pytest
import torch
from tests.worker.operation_cases import CASES
from tests.worker.operation_inputs import Case, X
from torch import Tensor

from telepatch_protocol.ops import OPS, bind
from telepatch_worker.kernels import run_op

NONE = {
    *("argmax", "argmin", "argsort", "nonzero", "one_hot", "size", "numel", "searchsorted", "bucketize", "histc"),
    *("count_nonzero", "any", "all", "isfinite", "isinf", "isnan", "isposinf", "isneginf", "signbit", "logical_not"),
    *("eq", "ne", "lt", "le", "gt", "ge", "logical_and", "logical_or", "logical_xor", "isclose", "allclose", "equal"),
    *("isin", "matrix_rank", "detach", "unique", "heaviside", "zeros_like", "ones_like", "full_like", "floor_divide"),
    *("gcd", "lcm"),
}
"""Operations whose result is no smooth function of what goes in: integers, booleans, steps, stops of gradients."""

OF_PARTS = {
    "svd": "U and Vh are known up to a sign, and to a rotation where full_matrices makes them square",
    "qr": "PyTorch has no gradient of the complete Q of a tall or flat matrix",
    "eigh": "each eigenvector is known up to its sign",
    "eigvalsh": "half of the matrix is not read, so small steps go into both halves",
    "cholesky": "half of the matrix is not read, so small steps go into both halves",
}
"""Decompositions that are tested by what does not depend on the choice."""

ROUGH = {"bincount"}
"""Operations that PyTorch itself has no derivative of."""

SINGULAR = {("xlogy", 2), ("nan_to_num", 1), ("where", 1), ("masked_fill", 0)}
"""Cases at infinity, where small steps find nothing."""

CONSTANT = {"nll_loss": {1}, "soft_margin_loss": {1}}
"""Values, by their place among the arguments, of which PyTorch has no gradient and says so."""

CALLS = [
    pytest.param(name, one, id=f"{name}-{at}")
    for name, cases in CASES.items()
    if name not in NONE | OF_PARTS.keys() | ROUGH
    for at, one in enumerate(cases)
    if (name, at) not in SINGULAR
    and not any(isinstance(arg, str) and ("int" in arg or "float" in arg) for arg in (*one.args, *one.kwargs.values()))
]


def leaves(value: object) -> list[Tensor]:
    """The floating-point values among arguments."""
    if isinstance(value, Tensor):
        return [value] if value.is_floating_point() else []
    return [leaf for one in value for leaf in leaves(one)] if isinstance(value, list | tuple) else []


def replaced(value: object, by: list[Tensor]) -> object:
    """The arguments with those values replaced, in order."""
    if isinstance(value, Tensor):
        return by.pop(0) if value.is_floating_point() else value
    return type(value)([replaced(one, by) for one in value]) if isinstance(value, list | tuple) else value


def smooth(found: Tensor | dict[str, Tensor]) -> tuple[Tensor, ...]:
    return tuple(one for one in ([found] if isinstance(found, Tensor) else found.values()) if one.is_floating_point())


@pytest.mark.parametrize(("name", "case"), CALLS)
def test_the_gradient_of_an_operation_is_the_one_that_small_steps_find(name: str, case: Case) -> None:
    given = leaves([*case.args, *case.kwargs.values()])
    constant = CONSTANT.get(name, ())
    inputs = [leaf.double().clone().requires_grad_(at not in constant) for at, leaf in enumerate(given)]

    def call(*values: Tensor) -> tuple[Tensor, ...]:
        left = list(values)
        args = tuple(replaced(arg, left) for arg in case.args)
        return smooth(run_op(name, args, {key: replaced(one, left) for key, one in case.kwargs.items()}))

    if not inputs:
        assert OPS[name].params
        return
    assert any(one.requires_grad for one in call(*inputs)), f"{name} breaks the gradient"
    assert torch.autograd.gradcheck(call, inputs, atol=1e-5, check_undefined_grad=False)


@pytest.mark.parametrize("name", sorted(NONE))
def test_an_operation_without_a_gradient_says_so_by_having_none(name: str) -> None:
    for one in CASES[name]:
        given = [leaf.detach().clone().requires_grad_() for leaf in leaves([*one.args, *one.kwargs.values()])]
        args = tuple(replaced(arg, given) for arg in one.args)
        found = run_op(name, args, one.kwargs)
        for result in [found] if isinstance(found, Tensor) else found.values():
            assert not (result.is_floating_point() and result.requires_grad) or name in STEPS


STEPS = {"heaviside", "floor_divide", "unique"}
"""Operations that PyTorch gives a gradient of zero, or none until it is asked for."""


@pytest.mark.parametrize(
    ("name", "args"),
    [
        ("rand_like", (X,)),
        ("dropout", (X,)),
        ("normal", (X, X.abs() + 1)),
        ("gumbel_softmax", (X,)),
    ],
)
def test_gradients_flow_through_draws_that_are_functions_of_a_value(name: str, args: tuple[Tensor, ...]) -> None:
    inputs = [one.double().requires_grad_() for one in args]

    def call(*values: Tensor) -> Tensor:
        found = run_op(name, values, {"key": 3})
        assert isinstance(found, Tensor)
        return found

    if name == "rand_like":
        assert not call(*inputs).requires_grad
        return
    assert torch.autograd.gradcheck(call, inputs, atol=1e-5)


def test_a_hard_draw_has_the_gradient_of_the_soft_one() -> None:
    leaf = X.clone().requires_grad_()
    hard, soft = (run_op("gumbel_softmax", (leaf,), {"key": 3, "hard": hard}) for hard in (True, False))
    assert isinstance(hard, Tensor)
    assert isinstance(soft, Tensor)
    assert torch.equal(hard.detach().sort(-1).values[..., :-1], torch.zeros(2, 3, 3))
    (first,), (second,) = (torch.autograd.grad((one * X).sum(), leaf) for one in (hard, soft))
    torch.testing.assert_close(first, second)


def test_gradients_flow_through_decompositions() -> None:
    def singular(value: Tensor) -> Tensor:
        found = run_op("svd", (value, False))
        assert isinstance(found, dict)
        return found["U"] @ torch.diag_embed(found["S"] ** 2) @ found["Vh"]

    def orthogonal(value: Tensor) -> Tensor:
        found = run_op("qr", (value.mT,))
        assert isinstance(found, dict)
        return found["Q"] @ found["R"].square()

    def eigen(value: Tensor) -> Tensor:
        found = run_op("eigh", (value @ value.mT,))
        assert isinstance(found, dict)
        return found["eigenvectors"].square() * found["eigenvalues"][..., None, :]

    def eigenvalues(value: Tensor) -> Tensor:
        found = run_op("eigvalsh", (value @ value.mT,))
        assert isinstance(found, Tensor)
        return found

    def factor(value: Tensor) -> Tensor:
        found = run_op("cholesky", (value @ value.mT, True))
        assert isinstance(found, Tensor)
        return found

    for call in (singular, orthogonal, eigen, eigenvalues, factor):
        assert torch.autograd.gradcheck(call, [X.double().requires_grad_()], atol=1e-5)


def test_a_filling_that_a_gradient_is_asked_of_keeps_it() -> None:
    leaf = torch.tensor(2.0, requires_grad=True)
    found = run_op("full", ([2, 3], leaf, "float32"))
    assert isinstance(found, Tensor)
    (gradient,) = torch.autograd.grad(found.sum(), leaf)
    assert gradient == 6


def test_every_exception_is_an_operation() -> None:
    assert (NONE | OF_PARTS.keys() | ROUGH) <= OPS.keys()
    assert bind(OPS["detach"], (X,), {})
