"""The folder where fetched and converted weights are kept: a thing is there whole or not at all."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock


def user_cache() -> Path:
    """Where this system keeps a person's caches, in a folder of Telepatch's own."""
    home = Path.home()
    return home / ("Library/Caches" if sys.platform == "darwin" else ".cache") / "telepatch"


def make_once(target: Path, make: Callable[[Path], None]) -> Path:
    """The folder `target`, made by `make` if it is not there.

    It is made under another name and renamed when whole, so that an interruption leaves nothing that counts. A lock
    keeps a second process waiting until the first is done; what a killed process left is swept.

    Args:
        target: the folder to have.
        make: fills the empty folder it is given; if it raises, nothing stays.

    Returns:
        `target`.
    """
    if target.is_dir():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(target.parent / f".{target.name}.lock"):
        if target.is_dir():
            return target
        for leftover in target.parent.glob(f".{target.name}.part-*"):
            shutil.rmtree(leftover, ignore_errors=True)
        part = Path(tempfile.mkdtemp(prefix=f".{target.name}.part-", dir=target.parent))
        try:
            make(part)
            part.chmod(0o755)
            os.replace(part, target)
        finally:
            shutil.rmtree(part, ignore_errors=True)
    return target
