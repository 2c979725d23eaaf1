"""How loading tells what it is doing, and nothing else does."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars
from transformers.utils import logging

Progress = Callable[[str, float | None], None]
"""Called with a stage and the part of it that is done, 0.0 to 1.0, or None where that is unknown."""


def silent(stage: str, part: float | None) -> None:
    """Tell nobody."""


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
