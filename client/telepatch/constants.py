"""Arrays sent along with a trace."""

from __future__ import annotations

from typing import Any

import numpy as np

from telepatch import arguments
from telepatch.current import open_builder
from telepatch.lines import points_home
from telepatch.values import Value
from telepatch_protocol.errors import TraceError


@points_home
def tensor(data: Any, *, dtype: Any = None) -> Value:
    """Numbers of one's own as a value of the open trace.

    Arrays may be used as arguments directly; this is for a dtype that they would not have then (double precision
    is otherwise sent as single), and for methods on them.

    Args:
        data: an array of numpy or PyTorch, a number, or nested lists of numbers.
        dtype: the dtype that it is sent as, by name or as numpy and PyTorch have it.

    Raises:
        TraceError: no trace is open.
        BadArgument: something that is no array of numbers.

    Example:
        >>> with model.trace("Hello"):
        ...     probe = telepatch.tensor(weights, dtype="float64")
    """
    builder = open_builder()
    if builder is None:
        raise TraceError("telepatch.tensor belongs inside the block of a trace; outside, use numpy's own arrays")
    sent = arguments.tensor_of(_array(data), arguments.dtype_name(dtype))
    return Value(builder, builder.attach(sent), sent.meta, builder.root)


def _array(data: Any) -> np.ndarray[Any, Any]:
    plain = arguments.plain(data)
    return plain if isinstance(plain, np.ndarray) else np.asarray(plain)
