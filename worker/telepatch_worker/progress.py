"""How loading tells what it is doing, and nothing else does."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Any

from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars
from transformers.utils import logging

Progress = Callable[[str, float | None], None]
"""Called with a stage and the part of it that is done, 0.0 to 1.0, or None where that is unknown."""


def silent(stage: str, part: float | None) -> None:
    """Tell nobody."""


class _Counted:
    """transformers' bar over the weights of a model: tells how many have been read.

    Args:
        bar: that it would be.
        weights: that it goes over.
        progress: told the part of them.
    """

    def __init__(self, bar: Any, weights: Collection[Any], progress: Progress) -> None:
        self._bar, self._weights, self._progress = bar, weights, progress

    def __iter__(self) -> Iterator[Any]:
        for done, one in enumerate(self._weights):
            self._progress("load", done / len(self._weights))
            yield one

    def __getattr__(self, name: str) -> Any:
        return getattr(self._bar, name)


@contextmanager
def counting_weights(progress: Progress) -> Iterator[None]:
    """Tell how many weights transformers has read inside the block."""

    def made(factory: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        bar = factory(*args, **kwargs)
        counts = kwargs.get("desc") == "Loading weights" and args and isinstance(args[0], Collection)
        return _Counted(bar, args[0], progress) if counts else bar

    before = logging.set_tqdm_hook(made)
    try:
        yield
    finally:
        logging.set_tqdm_hook(before)


@contextmanager
def quiet() -> Iterator[None]:
    """Without the libraries' own progress bars inside the block."""
    bars = logging.is_progress_bar_enabled()
    hub_bars = not are_progress_bars_disabled()
    verbosity = logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    if hub_bars:
        disable_progress_bars()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
        if hub_bars:
            enable_progress_bars()
