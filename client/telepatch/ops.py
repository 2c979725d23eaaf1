"""Every operation of the vocabulary by name: ``telepatch.ops.softmax(value, dim=-1)``.

Names, arguments and meaning are PyTorch's. They work inside a trace, on values and on arrays sent along.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from telepatch import operations
from telepatch.names import missing_operation
from telepatch_protocol.errors import UnknownOperation


def __getattr__(name: str) -> Callable[..., Any]:
    if name.startswith("_"):
        raise AttributeError(name)
    try:
        return operations.function(name)
    except UnknownOperation as error:
        raise missing_operation(error.detail) from None


def __dir__() -> list[str]:
    return operations.names()
