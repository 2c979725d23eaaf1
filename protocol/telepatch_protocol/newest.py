"""What was used last, up to so much of it."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from threading import Lock
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


class Newest(Generic[Key, Value]):
    """Values by key; where they weigh too much together, those go that were used longest ago.

    Args:
        most: that they may weigh together; what weighs more alone is not kept.

    Example:
        >>> newest = Newest(2)
        >>> for one in "abc":
        ...     newest.put(one, one)
        >>> newest.get("a") is None
        True
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._weight = 0
        self._kept: OrderedDict[Key, tuple[Value, int]] = OrderedDict()
        self._lock = Lock()

    def get(self, key: Key) -> Value | None:
        """The value, where it is still here."""
        with self._lock:
            found = self._kept.get(key)
            if found is None:
                return None
            self._kept.move_to_end(key)
            return found[0]

    def put(self, key: Key, value: Value, weight: int = 1) -> None:
        """Keep a value, in place of an earlier one of this key."""
        with self._lock:
            self._weight -= self._kept.pop(key, (None, 0))[1]
            if weight > self._most:
                return
            self._kept[key] = (value, weight)
            self._weight += weight
            while self._weight > self._most:
                self._weight -= self._kept.popitem(last=False)[1][1]

    def drop(self, key: Key) -> None:
        """Let a value go."""
        with self._lock:
            self._weight -= self._kept.pop(key, (None, 0))[1]
