"""Results as JSON, so that curl and a spreadsheet can use them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from telepatch_protocol import tensors
from telepatch_protocol.errors import PayloadTooLarge
from telepatch_protocol.tensors import Tensor


def readable(data: bytes, most: int) -> dict[str, Any]:
    """Saved values as JSON values, by name: dtype, shape and nested lists.

    Infinities and not-a-number travel as ``"inf"``, ``"-inf"`` and ``"nan"``, as in constants.

    Args:
        data: safetensors.
        most: how many numbers there may be.

    Raises:
        PayloadTooLarge: there are more.

    Example:
        >>> readable(encode({"x": Tensor.of(np.array([1.0, np.inf]))}), 100)
        {'x': {'dtype': 'float64', 'shape': [2], 'values': [1.0, 'inf']}}
    """
    found = tensors.decode(data)
    count = sum(tensor.array.size for tensor in found.values())
    if count > most:
        raise PayloadTooLarge(
            f"the result holds {count:,} numbers, and at most {most:,} travel as JSON; "
            "fetch it as safetensors, or save a part of it"
        )
    return {name: _one(tensor) for name, tensor in sorted(found.items())}


def _one(tensor: Tensor) -> dict[str, Any]:
    values = tensor.array.tolist()
    if tensor.array.dtype.kind == "f" and not np.isfinite(tensor.array).all():
        values = _spelled(values)
    return {"dtype": tensor.dtype, "shape": list(tensor.array.shape), "values": values}


def _spelled(value: Any) -> Any:
    if isinstance(value, list):
        return [_spelled(one) for one in value]
    if math.isfinite(value):
        return value
    return "nan" if math.isnan(value) else "inf" if value > 0 else "-inf"
