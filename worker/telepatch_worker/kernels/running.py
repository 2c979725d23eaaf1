"""How a call of an operation reaches its kernel."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from telepatch_protocol.errors import ExecutionError, TelepatchError
from telepatch_protocol.ops import Op, bind, find_op
from telepatch_worker.kernels import algebra, drawing, elementwise, layers, losses, making, picking, reductions, shaping
from telepatch_worker.kernels.adapters import Kernel
from telepatch_worker.tensor_values import DTYPES, Device, meta_of
from telepatch_worker.trouble import is_memory

KERNELS: dict[str, Kernel] = {
    **elementwise.KERNELS,
    **reductions.KERNELS,
    **shaping.KERNELS,
    **picking.KERNELS,
    **algebra.KERNELS,
    **losses.KERNELS,
    **layers.KERNELS,
    **making.KERNELS,
    **drawing.KERNELS,
}
"""Every kernel by the name of its operation."""

_PLACED = drawing.PLACED | making.PLACED
"""Operations that make values from none, and so are told the device."""


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
        IndexOutOfRange: numbers in a value used as an index that are past the end of what they index.
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
    except TelepatchError as error:
        raise type(error)(f"{name}: {error.detail}") from None
    except (RuntimeError, IndexError, TypeError, ValueError, OverflowError) as error:
        if is_memory(error):
            raise  # the engine splits the batch and tries again
        _explain(op, bound)
        raise ExecutionError(f"{name}: {str(error).partition(chr(10))[0]}") from error
    return dict(zip(op.outputs, found, strict=True)) if isinstance(found, tuple) else found


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
