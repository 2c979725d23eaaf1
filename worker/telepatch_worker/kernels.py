"""What each operation of the vocabulary does: one function per row of the table, and how a call reaches it.

Kernels take the bound arguments by name and never write to them. Their results may share memory with an argument, which
is safe because nothing that holds a value writes to it.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from telepatch_protocol.errors import ExecutionError
from telepatch_protocol.ops import Op, bind, find_op
from telepatch_worker.tensor_values import DTYPES, Device, meta_of, seed_of, torch_index

__all__ = ["DTYPES", "KERNELS", "meta_of", "run_op", "seed_of", "torch_index"]

Kernel = Callable[..., Tensor | tuple[Tensor, ...]]


def run_op(
    name: str, args: tuple[object, ...] = (), kwargs: Mapping[str, object] | None = None, *, device: Device = "cpu"
) -> Tensor | dict[str, Tensor]:
    """Run one operation of the vocabulary.

    Args:
        name: of the operation.
        args: arguments by position: tensors, numbers, names of dtypes, lists, elements of indices.
        kwargs: arguments by name.
        device: where operations that make new values put them; all others stay where their arguments are.

    Returns:
        The result, or the results by the names of the operation's outputs where this call has several.

    Raises:
        UnknownOperation: not in the vocabulary.
        GraphError: arguments that the operation does not take.
        ExecutionError: PyTorch refused for another reason.

    Example:
        ``run_op("topk", (logits, 5))["indices"]`` has shape ``(..., 5)`` and dtype int64.
    """
    op = find_op(name)
    bound = bind(op, args, kwargs or {})
    ready = {param.name: _ready(param.kind, bound[param.name]) for param in op.params}
    if name in _PLACED:
        ready["device"] = device
    try:
        found = KERNELS[name](**ready)
    except torch.OutOfMemoryError:
        raise  # the engine splits the batch and tries again
    except (RuntimeError, IndexError, TypeError, ValueError, OverflowError) as error:
        _explain(op, bound)
        raise ExecutionError(f"{name}: {str(error).partition(chr(10))[0]}") from error
    return found if isinstance(found, Tensor) else dict(zip(op.outputs, found, strict=True))


def _ready(kind: str, value: object) -> object:
    """A bound argument as a kernel takes it."""
    return DTYPES[value] if kind == "dtype" and isinstance(value, str) else value


def _explain(op: Op, bound: Mapping[str, object]) -> None:
    """Raise what the table says about these arguments, if it refuses them too: it says it better."""

    def described(value: object) -> object:
        if isinstance(value, Tensor):
            return meta_of(value)
        if isinstance(value, list | tuple):
            return type(value)(described(one) for one in value)
        return value

    op.rule({name: described(value) for name, value in bound.items()})


def _plain(function: Callable[..., Any]) -> Kernel:
    """A function of PyTorch, with arguments that are null left to their defaults."""

    def kernel(**given: object) -> Tensor | tuple[Tensor, ...]:
        found = function(**{name: value for name, value in given.items() if value is not None})
        return found if isinstance(found, Tensor) else tuple(found)

    return kernel


def _reduction(function: Callable[..., Any]) -> Kernel:
    """A reduction; without an axis PyTorch's functions take no ``keepdim``."""

    def kernel(input: Tensor, dim: Any, keepdim: bool = False, **given: object) -> Tensor | tuple[Tensor, ...]:
        options = {name: value for name, value in given.items() if value is not None}
        if dim is not None:
            found = function(input, dim=dim, keepdim=keepdim, **options)
            return found if isinstance(found, Tensor) else tuple(found)
        whole: Tensor = function(input, **options)
        return whole.reshape((1,) * input.ndim) if keepdim else whole

    return kernel


def _over_axes(function: Callable[[Tensor, list[int]], Tensor]) -> Kernel:
    """A function over several axes; one alone may be given without a list."""
    return lambda input, dims: function(input, list(dims) if isinstance(dims, list | tuple) else [dims])


def _unary(function: Callable[[Tensor], Tensor]) -> Kernel:
    return lambda input: function(input)


def _lifted(number: object, like: Tensor) -> Tensor:
    """A number as a tensor that mixes with another as the number would."""
    if isinstance(number, Tensor):
        return number
    assert isinstance(number, int | float)
    return torch.full((), number, dtype=torch.result_type(like, number), device=like.device)


def _operator(function: Callable[[Any, Any], Any]) -> Kernel:
    """A binary operation that Python spells with a sign, so that either side may be a number."""
    return lambda input, other: function(input, other)


def _both_tensors(function: Callable[[Tensor, Tensor], Tensor]) -> Kernel:
    """A binary operation that PyTorch has for two tensors only."""

    def kernel(input: object, other: object) -> Tensor:
        like = input if isinstance(input, Tensor) else other
        assert isinstance(like, Tensor)
        return function(_lifted(input, like), _lifted(other, like))

    return kernel


def _div(input: Any, other: Any, rounding_mode: str | None) -> Tensor:
    like = input if isinstance(input, Tensor) else other
    return torch.div(_lifted(input, like), other, rounding_mode=rounding_mode)


def _floor_divide(input: Any, other: Any) -> Tensor:
    return _div(input, other, "floor")


def _clamp(input: Tensor, min: Any, max: Any) -> Tensor:
    if isinstance(min, Tensor) or isinstance(max, Tensor):  # PyTorch takes two numbers or two tensors
        min = None if min is None else _lifted(min, input)
        max = None if max is None else _lifted(max, input)
    return torch.clamp(input, min, max)


def _masked_fill(input: Tensor, mask: Tensor, value: Any) -> Tensor:
    return torch.masked_fill(input, mask, value.to(input.device) if isinstance(value, Tensor) else value)


def _lerp(input: Tensor, end: Tensor, weight: Any) -> Tensor:
    return torch.lerp(input, end, weight)


def _norm(input: Tensor, p: float, dim: list[int] | None, keepdim: bool) -> Tensor:
    found: Tensor = torch.linalg.vector_norm(input, p, dim, keepdim)
    return found


def _logical(function: Callable[[Tensor, Tensor], Tensor]) -> Kernel:
    """A logical operation, where numbers too are true unless zero."""

    def one(value: Any, device: torch.device) -> Tensor:
        return value if isinstance(value, Tensor) else torch.tensor(bool(value), device=device)

    def kernel(input: Any, other: Any) -> Tensor:
        device = (input if isinstance(input, Tensor) else other).device
        return function(one(input, device), one(other, device))

    return kernel


def _sort(input: Tensor, dim: int, descending: bool) -> tuple[Tensor, ...]:
    return tuple(torch.sort(input, dim=dim, descending=descending, stable=True))


def _argsort(input: Tensor, dim: int, descending: bool) -> Tensor:
    return torch.argsort(input, dim=dim, descending=descending, stable=True)


def _searchsorted(sorted_sequence: Tensor, values: Any, right: bool) -> Tensor:
    values = values.contiguous() if isinstance(values, Tensor) else values
    return torch.searchsorted(sorted_sequence.contiguous(), values, right=right)


def _number(value: int) -> Tensor:
    """A size as a value; it stays on the CPU, so that reading it waits for nothing."""
    return torch.tensor(value)


def _joined(function: Callable[[list[Tensor], int], Tensor]) -> Kernel:
    """Values brought to one device, as sizes stand on the CPU."""

    def kernel(tensors: list[Tensor], dim: int) -> Tensor:
        device = max((one.device for one in tensors), key=lambda device: device.type != "cpu")
        return function([one.to(device) for one in tensors], dim)

    return kernel


def _scatter(input: Tensor, dim: int, index: Tensor, src: Any) -> Tensor:
    return torch.scatter(input, dim, index.long(), src)


def _cross_entropy(input: Tensor, target: Any, **options: Any) -> Tensor:
    return functional.cross_entropy(input, torch.as_tensor(target, device=input.device), **options)


def _kl_div(input: Tensor, target: Tensor, reduction: str, log_target: bool) -> Tensor:
    if reduction != "mean":
        return functional.kl_div(input, target, reduction=reduction, log_target=log_target)
    # The same number as reduction="mean", without its warning that another is better.
    return functional.kl_div(input, target, reduction="none", log_target=log_target).mean()


def _full_number(fill_value: Any) -> Any:
    return fill_value.item() if isinstance(fill_value, Tensor) else fill_value


def _eye(n: int, m: int | None, dtype: torch.dtype, device: Device) -> Tensor:
    return torch.eye(n, n if m is None else m, dtype=dtype, device=device)


def _arange(start: int, end: int, step: int, dtype: torch.dtype | None, device: Device) -> Tensor:
    return torch.arange(start, end, step, dtype=dtype, device=device)


def _drawn(function: Callable[..., Tensor]) -> Kernel:
    """Random numbers from the CPU's generator, which gives the same ones whatever the device and the company."""

    def kernel(*, key: list[int | Tensor], device: Device, **given: Any) -> Tensor:
        generator = torch.Generator().manual_seed(seed_of(key))
        return function(**given, generator=generator).to(device)

    return kernel


KERNELS: dict[str, Kernel] = {
    **{
        function.__name__: _unary(function)
        for function in (
            *(torch.abs, torch.ceil, torch.cos, torch.detach, torch.erf, torch.exp, torch.expm1, torch.floor),
            *(torch.isfinite, torch.isinf, torch.isnan, torch.log, torch.log1p, torch.log2, torch.logical_not),
            *(torch.neg, torch.reciprocal, torch.round, torch.rsqrt, torch.sigmoid, torch.sign, torch.sin),
            *(torch.sqrt, torch.square, torch.tanh, torch.relu, functional.silu),
        )
    },
    **{
        function.__name__: _operator(function)
        for function in (
            *(operator.add, operator.sub, operator.mul),
            *(operator.eq, operator.ne, operator.lt, operator.le, operator.gt, operator.ge),
        )
    },
    **{
        function.__name__: _reduction(function)
        for function in (
            *(torch.sum, torch.mean, torch.prod, torch.std, torch.var, torch.logsumexp, torch.amax, torch.amin),
            *(torch.max, torch.min, torch.median, torch.quantile, torch.argmax, torch.argmin, torch.any, torch.all),
        )
    },
    **{
        function.__name__: _plain(function)
        for function in (
            *(torch.count_nonzero, torch.cumsum, torch.cumprod, torch.topk, torch.nan_to_num),
            *(torch.softmax, torch.log_softmax, functional.gelu, functional.softplus, functional.layer_norm),
            *(functional.rms_norm, functional.normalize, torch.reshape, torch.flatten, torch.unflatten),
            *(torch.transpose, torch.squeeze, torch.unsqueeze, torch.repeat_interleave),
            *(torch.roll, torch.take_along_dim, torch.nonzero, torch.diagonal, torch.tril, torch.triu, torch.matmul),
            *(functional.linear, torch.outer, functional.mse_loss, functional.binary_cross_entropy_with_logits),
            *(torch.cosine_similarity, torch.zeros, torch.ones, torch.zeros_like, torch.ones_like, torch.full_like),
            *(torch.linspace,),
        )
    },
    "flip": _over_axes(torch.flip),
    "permute": _over_axes(torch.permute),
    "pow": lambda input, exponent: operator.pow(input, exponent),
    "remainder": lambda input, other: operator.mod(input, other),
    "maximum": _both_tensors(torch.maximum),
    "minimum": _both_tensors(torch.minimum),
    "logical_and": _logical(torch.logical_and),
    "logical_or": _logical(torch.logical_or),
    "logical_xor": _logical(torch.logical_xor),
    "div": _div,
    "floor_divide": _floor_divide,
    "clamp": _clamp,
    "lerp": _lerp,
    "where": lambda condition, input, other: torch.where(condition, input, other),
    "masked_fill": _masked_fill,
    "norm": _norm,
    "sort": _sort,
    "argsort": _argsort,
    "searchsorted": _searchsorted,
    "size": lambda input, dim: _number(input.shape[dim]),
    "numel": lambda input: _number(input.numel()),
    "mT": lambda input: input.mT,
    "expand": lambda input, size: input.expand(size),
    "repeat": lambda input, repeats: input.repeat(repeats),
    "cat": _joined(torch.cat),
    "stack": _joined(torch.stack),
    "to": lambda input, dtype: input.to(dtype),
    "index": lambda input, index: input[torch_index(index, input.device)],
    "index_select": lambda input, dim, index: torch.index_select(input, dim, index.long()),
    "gather": lambda input, dim, index: torch.gather(input, dim, index.long()),
    "scatter": _scatter,
    "scatter_add": lambda input, dim, index, src: torch.scatter_add(input, dim, index.long(), src),
    "one_hot": lambda input, num_classes: functional.one_hot(input, num_classes),
    "einsum": lambda equation, operands: torch.einsum(equation, operands),
    "svd": _plain(torch.linalg.svd),
    "qr": _plain(torch.linalg.qr),
    "eigh": lambda **given: tuple(torch.linalg.eigh(*given.values())),
    "solve": _plain(torch.linalg.solve),
    "pinv": lambda **given: torch.linalg.pinv(*given.values()),
    "cross_entropy": _cross_entropy,
    "kl_div": _kl_div,
    "full": lambda size, fill_value, dtype, device: torch.full(
        size, _full_number(fill_value), dtype=dtype, device=device
    ),
    "eye": _eye,
    "arange": _arange,
    "rand": _drawn(torch.rand),
    "randn": _drawn(torch.randn),
    "randint": _drawn(torch.randint),
    "randperm": _drawn(torch.randperm),
}
"""Every kernel by the name of its operation."""

_PLACED = frozenset({"zeros", "ones", "full", "eye", "arange", "linspace", "rand", "randn", "randint", "randperm"})
"""Operations that make values from none, and so are told the device."""
