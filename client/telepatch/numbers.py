"""What Python itself does with numbers: possible once a value has come back, refused inside a block."""

from __future__ import annotations

import operator
from abc import abstractmethod
from typing import Any, NoReturn, Self

import numpy as np

from telepatch.lines import points_home
from telepatch.looking import looked
from telepatch.operators import Arithmetic
from telepatch_protocol.errors import BadArgument

Array = np.ndarray[Any, Any]


class Numbers(Arithmetic):
    """Truth, conversion, counting, copies."""

    @abstractmethod
    def _refuse(self, what: str, instead: str) -> NoReturn:
        """The error for what cannot be done before anything has run."""

    def __bool__(self) -> bool:
        return bool(self._number("take the truth of", "choose with telepatch.where(condition, a, b)"))

    def __float__(self) -> float:
        return float(self._single("make a float of"))

    def __int__(self) -> int:
        return int(self._single("make an int of"))

    def __round__(self, digits: int | None = None) -> Any:
        return round(self._single("round"), digits)

    def __index__(self) -> int:
        instead = (
            "where it is a length, telepatch.arange(length) counts on the server, and len(model.tokenize(text)) "
            "is known before; values can be indexed with it, Python's own lists cannot"
        )
        return operator.index(self._number("count with", instead).item())

    def __len__(self) -> int:
        return len(self._number("take len() of", "use .shape[0], which may stand in operations and slices"))

    def __contains__(self, item: Any) -> bool:
        return looked(item) in self._number("look for something in", "use (value == item).any()")

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        return np.asarray(self._number("make an array of", "use operations on the value itself"), dtype=dtype)

    def __dlpack__(self, **how: Any) -> Any:
        """For ``torch.tensor(value)``, ``np.from_dlpack(value)`` and their like."""
        return self._number("make a tensor of", "use operations on the value itself").__dlpack__(**how)

    def __dlpack_device__(self) -> tuple[int, int]:
        return (1, 0)

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self  # it cannot be changed, so it is its own copy

    @points_home
    def __reduce__(self) -> Any:
        """To other processes and to files a value goes as its numbers."""
        return self._number("send away", "look at saved values after the block").__reduce__()

    @points_home
    def _number(self, what: str, instead: str) -> Array:
        """The numbers, for what Python does with numbers; refused inside a block, where there are none."""
        if self._tracing() is not None:
            self._refuse(what, instead)
        return self.numpy()

    @points_home
    def _single(self, what: str) -> Any:
        """The only number there is."""
        found = self._number(what, "keep computing with the value")
        if found.size != 1:
            raise BadArgument(f"cannot {what} {found.size} numbers, shape {found.shape}; index one of them first")
        return found.item()
