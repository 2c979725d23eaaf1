"""What may be looked at, numbers in place of it, and indices as their author wrote them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import numpy as np


class Lazy(ABC):
    """Something whose numbers come when they are asked for."""

    @abstractmethod
    def numpy(self) -> np.ndarray[Any, Any]:
        """The numbers."""


def looked(thing: Any) -> Any:
    """The thing with the numbers of every value in it in place of the value."""
    if isinstance(thing, Lazy):
        return thing.numpy()
    if isinstance(thing, list | tuple):
        return type(thing)(looked(one) for one in thing)
    if isinstance(thing, dict):
        return {key: looked(one) for key, one in thing.items()}
    if type(thing).__name__ == "Outputs":
        return [looked(one) for one in thing]
    if isinstance(thing, slice):
        return slice(
            *(int(looked(one)) if isinstance(one, Lazy) else one for one in (thing.start, thing.stop, thing.step))
        )
    return thing


def shown_key(key: Any) -> str:
    """An index as the author wrote it."""
    return ", ".join(_shown_element(item) for item in (key if isinstance(key, tuple) else (key,)))


def _shown_element(item: Any) -> str:
    if item is Ellipsis:
        return "..."
    if isinstance(item, slice):
        ends = [("" if end is None else _shown_element(end)) for end in (item.start, item.stop)]
        return ":".join(ends) + ("" if item.step is None else f":{_shown_element(item.step)}")
    return "value" if isinstance(item, Lazy) else repr(item)
