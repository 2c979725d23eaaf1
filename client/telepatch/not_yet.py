"""Parts of the language that are in its documents and not executed yet; each refuses by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn

from telepatch.lines import points_home
from telepatch_protocol.errors import NotYetSupported


def _refusing(name: str, what: str, instead: str) -> Callable[..., NoReturn]:
    @points_home
    def refuse(*args: Any, **kwargs: Any) -> NoReturn:
        raise NotYetSupported(
            f"telepatch.{name} ({what}) is part of the language, but not executed by this version yet; {instead}"
        )

    refuse.__name__ = refuse.__qualname__ = name
    refuse.__doc__ = f"Part of the language ({what}); this version refuses it by name."
    return refuse


fit = _refusing("fit", "training inside the service", "save what you need and train on it yourself")
