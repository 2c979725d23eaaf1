"""Python's operators on values: operations inside a trace, numpy's own on what has come back."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from telepatch import operations
from telepatch.lines import points_home
from telepatch.looking import Lazy, looked

if TYPE_CHECKING:
    from telepatch.builder import Builder


def _operator(name: str, numpy_way: Callable[[Any, Any], Any], *, reflected: bool = False) -> Callable[[Any, Any], Any]:
    """An operator as an operation of the trace, or as numpy does it on what has come back."""

    @points_home
    def apply(self: Arithmetic, other: Any) -> Any:
        pair = (other, self) if reflected else (self, other)
        builder = self._tracing()
        if builder is None:
            if _is_torch(other):
                return NotImplemented  # PyTorch's own operator then takes over, with the value as a tensor
            return numpy_way(*(looked(one) for one in pair))
        return operations.apply_in(builder, name, pair, {})

    return apply


def _in_place(sign: str, name: str, numpy_way: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    @points_home
    def apply(self: Arithmetic, other: Any) -> Any:
        builder = self._tracing()
        if builder is None:
            return NotImplemented if _is_torch(other) else numpy_way(looked(self), looked(other))
        return self._edited(builder, sign, name, other)

    return apply


def _is_torch(thing: object) -> bool:
    return hasattr(thing, "__torch_function__") and not isinstance(thing, Lazy)


class Arithmetic(Lazy):
    """What operators there are, and which operation each of them is."""

    def _tracing(self) -> Builder | None:
        """The open trace in which an operation on this value is a node; None where it works on the numbers."""
        return None

    def _edited(self, builder: Builder, sign: str, name: str, other: Any) -> Any:
        """An in-place operator inside a trace."""

    __add__ = _operator("add", operator.add)
    __radd__ = _operator("add", operator.add, reflected=True)
    __sub__ = _operator("sub", operator.sub)
    __rsub__ = _operator("sub", operator.sub, reflected=True)
    __mul__ = _operator("mul", operator.mul)
    __rmul__ = _operator("mul", operator.mul, reflected=True)
    __truediv__ = _operator("div", operator.truediv)
    __rtruediv__ = _operator("div", operator.truediv, reflected=True)
    __floordiv__ = _operator("floor_divide", operator.floordiv)
    __rfloordiv__ = _operator("floor_divide", operator.floordiv, reflected=True)
    __mod__ = _operator("remainder", operator.mod)
    __rmod__ = _operator("remainder", operator.mod, reflected=True)
    __pow__ = _operator("pow", operator.pow)
    __rpow__ = _operator("pow", operator.pow, reflected=True)
    __matmul__ = _operator("matmul", operator.matmul)
    __rmatmul__ = _operator("matmul", operator.matmul, reflected=True)
    __and__ = _operator("bitwise_and", operator.and_)
    __rand__ = _operator("bitwise_and", operator.and_, reflected=True)
    __or__ = _operator("bitwise_or", operator.or_)
    __ror__ = _operator("bitwise_or", operator.or_, reflected=True)
    __xor__ = _operator("bitwise_xor", operator.xor)
    __rxor__ = _operator("bitwise_xor", operator.xor, reflected=True)
    __lt__ = _operator("lt", operator.lt)
    __le__ = _operator("le", operator.le)
    __gt__ = _operator("gt", operator.gt)
    __ge__ = _operator("ge", operator.ge)
    __eq__ = _operator("eq", operator.eq)
    __ne__ = _operator("ne", operator.ne)
    __iadd__ = _in_place("+=", "add", operator.add)
    __isub__ = _in_place("-=", "sub", operator.sub)
    __imul__ = _in_place("*=", "mul", operator.mul)
    __itruediv__ = _in_place("/=", "div", operator.truediv)
    __ifloordiv__ = _in_place("//=", "floor_divide", operator.floordiv)
    __imod__ = _in_place("%=", "remainder", operator.mod)
    __ipow__ = _in_place("**=", "pow", operator.pow)
    __imatmul__ = _in_place("@=", "matmul", operator.matmul)
    __iand__ = _in_place("&=", "bitwise_and", operator.and_)
    __ior__ = _in_place("|=", "bitwise_or", operator.or_)
    __ixor__ = _in_place("^=", "bitwise_xor", operator.xor)

    def __hash__(self) -> int:
        return id(self)

    def __neg__(self) -> Any:
        return self._unary("neg", operator.neg)

    def __pos__(self) -> Any:
        return self

    def __abs__(self) -> Any:
        return self._unary("abs", operator.abs)

    def __invert__(self) -> Any:
        return self._unary("bitwise_not", operator.invert)

    @points_home
    def _unary(self, name: str, numpy_way: Callable[[Any], Any]) -> Any:
        builder = self._tracing()
        return numpy_way(looked(self)) if builder is None else operations.apply_in(builder, name, (self,), {})
