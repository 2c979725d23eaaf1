"""Every operation computes what PyTorch computes, and its rule foretells the result."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.worker.operation_cases import CASES, DRAWN
from tests.worker.operation_inputs import MASK, POSITIVE, WHOLE, Case, X, Y
from torch import Tensor

from telepatch_protocol.dtypes import ITEM_BYTES
from telepatch_protocol.errors import BadArgument, DtypeError, ExecutionError, GraphError, ShapeError, UnknownOperation
from telepatch_protocol.indexing import Slice
from telepatch_protocol.meta import Meta
from telepatch_protocol.ops import OPS, bind, find_op
from telepatch_protocol.sizes import Size
from telepatch_worker.kernels import KERNELS, run_op
from telepatch_worker.tensor_values import DTYPES, meta_of, seed_of, torch_index

ALL_CASES = [
    pytest.param(name, case, id=f"{name}-{at}") for name, cases in CASES.items() for at, case in enumerate(cases)
]
bounded = settings(max_examples=150, deadline=None, derandomize=True, database=None)


def described(value: object) -> object:
    """The argument as a rule takes it."""
    if isinstance(value, Tensor):
        return meta_of(value)
    if isinstance(value, Slice):
        return Slice(
            *(Size.unknown() if isinstance(end, Tensor) else end for end in (value.start, value.stop, value.step))
        )
    return type(value)(described(one) for one in value) if isinstance(value, list | tuple) else value


def foretold(name: str, args: tuple[object, ...], kwargs: dict[str, object]) -> list[Meta]:
    op = find_op(name)
    found = op.rule(bind(op, tuple(map(described, args)), {key: described(value) for key, value in kwargs.items()}))
    return list(found.values()) if isinstance(found, dict) else [found]


def results(found: Tensor | dict[str, Tensor]) -> list[Tensor]:
    return [found] if isinstance(found, Tensor) else list(found.values())


def agree(foretold: Meta, found: Tensor, lengths: dict[str, int] | None = None) -> bool:
    """Whether what was foretold is what was found, wherever it is not unknown."""
    said, real = foretold.substitute(lengths or {}), meta_of(found)
    if said.dtype != real.dtype:
        return False
    if said.shape is None or real.shape is None:
        return True
    sizes = zip(said.shape, real.shape, strict=True)
    return len(said.shape) == len(real.shape) and all(isinstance(left, Size) or left == right for left, right in sizes)


def test_every_operation_has_a_kernel_and_every_kernel_an_operation() -> None:
    assert KERNELS.keys() == OPS.keys()


def test_every_operation_has_a_case() -> None:
    assert CASES.keys() | DRAWN.keys() == OPS.keys()


def test_every_dtype_of_the_language_is_one_of_pytorch() -> None:
    assert DTYPES.keys() == ITEM_BYTES.keys()
    assert all(str(dtype) == f"torch.{name}" and dtype.itemsize == ITEM_BYTES[name] for name, dtype in DTYPES.items())


@pytest.mark.parametrize("name", OPS)
def test_an_operation_is_a_method_where_pytorch_has_it_as_one(name: str) -> None:
    first = OPS[name].params[0]
    method = getattr(torch.Tensor, name, None)
    assert OPS[name].method == (method is not None and first.name == "input" and name != "index")


@pytest.mark.parametrize(("name", "case"), ALL_CASES)
def test_an_operation_gives_what_pytorch_gives_and_what_its_rule_foretold(name: str, case: Case) -> None:
    before = [arg.clone() if isinstance(arg, Tensor) else arg for arg in case.args]
    found = results(run_op(name, case.args, case.kwargs))
    expected = [case.expected] if isinstance(case.expected, Tensor) else list(case.expected)
    for left, right in zip(found, expected, strict=True):
        torch.testing.assert_close(left, right, rtol=1e-5, atol=1e-6, equal_nan=True)
    for meta, real in zip(foretold(name, case.args, case.kwargs), found, strict=True):
        assert agree(meta, real), f"foretold {meta}, found {meta_of(real)}"
    for arg, kept in zip(case.args, before, strict=True):
        if isinstance(arg, Tensor):
            torch.testing.assert_close(arg, kept, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize(("name", "case"), ALL_CASES)
def test_a_rule_says_the_same_when_a_size_is_not_known_yet(name: str, case: Case) -> None:
    real = results(run_op(name, case.args, case.kwargs))
    for size in (2, 3, 4):
        for meta, value in zip(foretold_without(size, name, case), real, strict=True):
            assert agree(meta, value, {"n": size}), f"size {size}: foretold {meta}, found {meta_of(value)}"


def foretold_without(size: int, name: str, case: Case) -> list[Meta]:
    """What the rule says where every axis of that size has a length that is not known."""

    def symbolic(value: object) -> object:
        if isinstance(value, Meta) and value.shape is not None:
            return Meta(tuple(Size.symbol("n") if dim == size else dim for dim in value.shape), value.dtype, value.size)
        return type(value)(map(symbolic, value)) if isinstance(value, list | tuple) else value

    op = find_op(name)
    args = tuple(symbolic(described(arg)) for arg in case.args)
    kwargs = {key: symbolic(described(value)) for key, value in case.kwargs.items()}
    found = op.rule(bind(op, args, kwargs))
    return list(found.values()) if isinstance(found, dict) else [found]


NARROWER = {
    *("matmul", "linear", "einsum", "mm", "bmm", "mv", "dot", "inner", "tensordot", "multi_dot", "addmm", "addmv"),
    *("baddbmm", "matrix_exp", "matrix_power", "conv1d", "conv2d", "avg_pool1d", "avg_pool2d", "max_pool2d"),
    *("searchsorted", "bucketize", "masked_fill", "threshold", "clamp_min", "clamp_max", "hardtanh", "softsign"),
    *("tanhshrink", "addcmul", "index_add", "interpolate", "pad", "cov", "corrcoef", "trapezoid"),
    *("pairwise_distance", "hinge_embedding_loss", "margin_ranking_loss", "cosine_embedding_loss"),
    *("triplet_margin_loss", "poisson_nll_loss", "l1_loss", "scatter_reduce"),
}
"""Operations that PyTorch has for integers on a CPU alone, or for integers or booleans in part; here for neither."""


@pytest.mark.parametrize(("name", "case"), ALL_CASES)
def test_a_rule_takes_a_dtype_where_pytorch_does_and_foretells_the_result(name: str, case: Case) -> None:
    for dtype in DTYPES:
        args = tuple(cast(arg, dtype) for arg in case.args)
        try:
            said: list[Meta] | None = foretold(name, args, case.kwargs)
        except GraphError:
            said = None
        if said is not None:
            for meta, real in zip(said, results(run_op(name, args, case.kwargs)), strict=True):
                assert agree(meta, real), f"in {dtype}: foretold {meta}, found {meta_of(real)}"
        elif name not in NARROWER:
            assert is_refused(name, args, case.kwargs), f"PyTorch takes {dtype}, the rule does not"


def cast(value: object, dtype: str) -> object:
    """An argument with its floating-point values in another dtype."""
    if isinstance(value, Tensor) and value.is_floating_point():
        return value.to(DTYPES[dtype]) if "int" not in dtype else value.abs().add(1).to(DTYPES[dtype])
    return [cast(one, dtype) for one in value] if isinstance(value, list) else value


def is_refused(name: str, args: tuple[object, ...], kwargs: dict[str, object]) -> bool:
    """Whether the kernel refuses the arguments, too."""
    try:
        run_op(name, args, kwargs)
    except (GraphError, ExecutionError):
        return True
    return False


_BINARY = "add sub mul div maximum minimum remainder floor_divide pow eq lt logical_or where clamp"
_REDUCED = "sum mean std var norm amax amin any all argmax argmin max median prod logsumexp squeeze"
_SHAPES = st.sampled_from([(), (1,), (3,), (2, 3), (2, 1), (1, 3), (0,), (4, 1, 3)])
_NUMBERS = st.sampled_from([True, 2, -1, 2.5, 0])


def _some(shape: tuple[int, ...], dtype: str) -> Tensor:
    return torch.arange(1, 1 + torch.Size(shape).numel()).reshape(shape).to(DTYPES[dtype])


@bounded
@given(
    st.sampled_from(_BINARY.split()),
    st.tuples(_SHAPES, st.sampled_from(list(DTYPES))).map(lambda pair: _some(*pair)),
    st.tuples(_SHAPES, st.sampled_from(list(DTYPES))).map(lambda pair: _some(*pair)) | _NUMBERS,
    st.booleans(),
)
def test_values_and_numbers_mix_as_in_pytorch(name: str, left: Tensor, right: object, swap: bool) -> None:
    args: tuple[object, ...] = (right, left) if swap and name not in ("clamp",) else (left, right)
    if name == "where":
        args = (torch.tensor([True, False, True]), *args)
    try:
        (said,) = foretold(name, args, {})
    except (DtypeError, ShapeError) as error:
        if "do not mix" not in error.detail:
            with pytest.raises((GraphError, ExecutionError)):
                run_op(name, args)
        return
    except BadArgument:
        return
    if name == "pow" and not left.is_floating_point() and isinstance(right, int) and right < 0:
        return
    found = run_op(name, args)
    assert isinstance(found, Tensor)
    assert agree(said, found), f"foretold {said}, found {meta_of(found)}"


@bounded
@given(
    st.sampled_from(_REDUCED.split()),
    st.sampled_from([(), (1,), (3,), (2, 3), (2, 1, 3), (1, 1)]),
    st.none() | st.integers(-4, 3) | st.lists(st.integers(-3, 2), max_size=3),
    st.booleans(),
    st.sampled_from(["float32", "int64", "bool"]),
)
def test_axes_fall_away_as_in_pytorch(name: str, shape: tuple[int, ...], dim: object, keep: bool, dtype: str) -> None:
    kwargs: dict[str, object] = {"dim": dim} if name == "squeeze" else {"dim": dim, "keepdim": keep}
    if name in ("std", "var") and 1 in (*shape, torch.Size(shape).numel()):
        return
    value = _some(shape, dtype)
    try:
        said = foretold(name, (value,), kwargs)
    except GraphError:
        if dim != []:
            with pytest.raises((GraphError, ExecutionError)):
                run_op(name, (value,), kwargs)
        return
    for meta, real in zip(said, results(run_op(name, (value,), kwargs)), strict=True):
        assert agree(meta, real), f"foretold {meta}, found {meta_of(real)}"


def _nonempty(value: Tensor) -> None:
    """Of nothing, PyTorch also takes what is out of range."""
    if value.numel() == 0:
        raise IndexError("out of range")


_ENDS = st.none() | st.integers(-5, 5)
_ELEMENTS = st.one_of(
    st.integers(-4, 3),
    st.builds(Slice, _ENDS, _ENDS, st.none() | st.integers(-1, 3)),
    st.none(),
    st.just(Ellipsis),
    st.lists(st.integers(-2, 1), min_size=0, max_size=2),
    st.just([[0, 1], [1, 0]]),
    st.just([True, False, True]),
    st.sampled_from(
        [
            torch.tensor(1),
            torch.tensor([0, -1]),
            torch.tensor([[0], [1]]),
            torch.tensor([True, False, True]),
            torch.tensor([[True, False, True], [False, True, True]]),
            torch.tensor([1, 0], dtype=torch.int32),
            torch.tensor(True),
        ]
    ),
)


@settings(bounded, max_examples=600)
@given(st.sampled_from([(2, 3, 4), (3, 3), (3,), (2, 2, 3, 1), ()]), st.lists(_ELEMENTS, max_size=5))
def test_an_index_takes_what_it_takes_in_pytorch(shape: tuple[int, ...], index: list[object]) -> None:
    value = torch.arange(torch.Size(shape).numel()).reshape(shape)
    native: Any = tuple(slice(one.start, one.stop, one.step) if isinstance(one, Slice) else one for one in index)
    try:
        said = foretold("index", (value, index), {})[0]
    except GraphError:
        if native.count(Ellipsis) < 2:  # PyTorch takes further ones as ':', which numpy and the vocabulary do not
            with pytest.raises((IndexError, ValueError, RuntimeError)):
                _nonempty(value[native])
        return
    try:
        found = run_op("index", (value, index))
    except ExecutionError:  # what a tensor holds is known only here
        with pytest.raises(IndexError):
            value[native]
        return
    assert isinstance(found, Tensor)
    assert torch.equal(found, value[native])
    assert agree(said, found), f"foretold {said}, found {meta_of(found)}"


@bounded
@given(
    st.lists(st.integers(1, 4), min_size=0, max_size=4).map(tuple),
    st.lists(st.sampled_from([-1, 0, 1, 2, 3, 4, 6, 8]), min_size=0, max_size=4),
)
def test_a_value_takes_another_shape_as_in_pytorch(shape: tuple[int, ...], want: list[int]) -> None:
    value = torch.zeros(shape)
    try:
        said = foretold("reshape", (value, want), {})[0]
    except GraphError:
        with pytest.raises(RuntimeError):
            value.reshape(want)
        return
    assert said == meta_of(value.reshape(want))


_MATRICES = st.sampled_from([(), (3,), (2,), (2, 3), (3, 2), (4, 2, 3), (4, 3, 2), (1, 3, 3), (5, 1, 2, 3), (0, 3)])


@bounded
@given(_MATRICES, _MATRICES)
def test_matrices_multiply_as_in_pytorch(left: tuple[int, ...], right: tuple[int, ...]) -> None:
    args = (torch.ones(left), torch.ones(right))
    try:
        said = foretold("matmul", args, {})[0]
    except ShapeError:
        with pytest.raises(RuntimeError):
            torch.matmul(*args)
        return
    assert said == meta_of(torch.matmul(*args))


@pytest.mark.parametrize("name", DRAWN)
def test_the_same_key_draws_the_same_numbers_and_another_key_others(name: str) -> None:
    args, shape, dtype = DRAWN[name]
    first, again, other = (run_op(name, args, {"key": key}) for key in ([7, 1], [7, torch.tensor(1)], [7, 2]))
    torch.randn(3)
    assert isinstance(first, Tensor)
    assert isinstance(again, Tensor)
    assert isinstance(other, Tensor)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert meta_of(first) == Meta(shape, dtype)
    assert foretold(name, args, {"key": [7, 1]}) == [Meta(shape, dtype)]


def test_random_operations_leave_the_global_generator_alone() -> None:
    before = torch.get_rng_state()
    run_op("randn", ([3],), {"key": 1})
    assert torch.equal(before, torch.get_rng_state())


def test_a_seed_depends_on_every_part_of_its_key() -> None:
    keys: list[list[int | Tensor]] = [[1, 2], [12], [2, 1], [1, 2, 0], [torch.tensor([1, 2])], [-1, 2]]
    assert len({seed_of(key) for key in keys}) == len(keys)
    assert seed_of([7, 1]) == 4432673844649800149  # a key draws the same numbers in every release


def test_several_outputs_come_by_name() -> None:
    found = run_op("topk", (X, 1))
    assert isinstance(found, dict)
    assert list(found) == ["values", "indices"]


def test_an_operation_refused_by_pytorch_says_what_the_table_says() -> None:
    with pytest.raises(ShapeError, match=r"matmul: shapes \(2, 3, 4\) and \(3, 4\) do not fit"):
        run_op("matmul", (X, Y))


def test_an_operation_that_only_pytorch_refuses_is_an_execution_error() -> None:
    with pytest.raises(ExecutionError, match="cholesky: "):
        run_op("cholesky", (-torch.eye(3),))


def test_an_unknown_operation_is_refused_with_the_nearest() -> None:
    with pytest.raises(UnknownOperation, match="there is no operation 'sotfmax'; nearest: softmax"):
        run_op("sotfmax", (X, 1))


def test_a_float_tensor_is_no_index() -> None:
    with pytest.raises(BadArgument, match="a float32 value is no index"):
        torch_index((VECTOR_OF_FLOATS,), "cpu")


VECTOR_OF_FLOATS = torch.tensor([0.0, 1.0])


def test_gradients_flow_through_operations_but_not_through_detach() -> None:
    leaf = POSITIVE.clone().requires_grad_()
    product = run_op("mul", (run_op("log", (leaf,)), run_op("detach", (leaf,))))
    assert isinstance(product, Tensor)
    (found,) = torch.autograd.grad(product.sum(), leaf)
    torch.testing.assert_close(found, torch.ones_like(leaf))


def test_sizes_and_values_stack_and_numbers_of_any_kind_compare() -> None:
    sizes = run_op("stack", ([run_op("size", (X, 0)), run_op("size", (X, 1))],))
    assert isinstance(sizes, Tensor)
    assert sizes.tolist() == [2, 3]
    found = run_op("logical_and", (MASK, True))
    assert isinstance(found, Tensor)
    assert torch.equal(found, MASK)


def test_a_mask_under_an_index_may_be_of_integers_that_are_not_int64() -> None:
    found = run_op("index", (X, [WHOLE.abs().int()[0, 0] % 2]))
    assert isinstance(found, Tensor)
    assert torch.equal(found, X[WHOLE.abs()[0, 0] % 2])


@pytest.mark.parametrize("name", OPS)
def test_the_arguments_of_an_operation_are_those_of_pytorch(name: str) -> None:
    homes = (torch.nn.functional, torch, torch.linalg, torch.special, torch.Tensor)
    documented = " ".join(_documented(getattr(home, name)) for home in homes if hasattr(home, name))
    for param in OPS[name].params if name not in OURS else ():
        assert param.name in documented or param.name == "key", f"PyTorch's {name} has no argument '{param.name}'"


OURS = {
    *("index", "mT", "size", "numel", "detach", "masked_fill", "relu", "expand", "repeat", "to", "unflatten"),
    *("expand_as", "clamp_min", "clamp_max", "index_fill", "unfold"),
}
"""Operations whose PyTorch form is a method or attribute, so that their first argument has no name there."""


def _documented(function: object) -> str:
    try:
        return f"{inspect.getdoc(function)} {inspect.signature(function)}"  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return str(inspect.getdoc(function))
