"""Models of a hub repository, at a pinned commit."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils import filter_repo_objects  # type: ignore[attr-defined]
from huggingface_hub.utils.tqdm import tqdm

from telepatch_worker.cards import CardFile, LoadError
from telepatch_worker.memory import Space
from telepatch_worker.progress import Progress

_WANTED = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja"]
_UNWANTED = ["*/*"]
_FAILURES = (HfHubHTTPError, LocalEntryNotFoundError, OSError)


def _token(file: CardFile, token_file: Path | None) -> str | None:
    if token_file is None:
        return None
    try:
        token = token_file.read_text(encoding="utf-8").strip()
    except OSError as error:
        raise LoadError(f"{file.id}: the token file {token_file} cannot be read: {error.strerror}") from error
    if not token:
        raise LoadError(f"{file.id}: the token file {token_file} is empty")
    return token


def missing_files(folder: Path) -> list[str]:
    """What a snapshot lacks of the files it must have: its configuration, and every shard its index names."""
    index = folder / "model.safetensors.index.json"
    wanted = {"config.json"}
    if index.is_file():
        wanted |= set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    elif not any(folder.glob("*.safetensors")):
        wanted.add("model.safetensors")
    return sorted(name for name in wanted if not (folder / name).is_file())


def _cached(file: CardFile, place: Path) -> Path | None:
    """The snapshot as it lies in the cache, if it is whole."""
    try:
        found = snapshot_download(
            file.origin.name,
            revision=file.origin.version,
            cache_dir=place,
            allow_patterns=_WANTED,
            ignore_patterns=_UNWANTED,
            local_files_only=True,
        )
    except (LocalEntryNotFoundError, OSError):
        return None
    return None if missing_files(Path(found)) else Path(found)


def _refuse_too_big(file: CardFile, space: Space, hub: HfApi) -> None:
    """Ask the hub how many numbers the weights are, before any is fetched."""
    stored = hub.model_info(file.origin.name, revision=file.origin.version).safetensors
    if stored is not None:
        space.refuse_too_big(file, stored.parameters)


def _size(file: CardFile, hub: HfApi) -> int:
    """Bytes of what will be fetched."""
    listed = hub.list_repo_tree(file.origin.name, revision=file.origin.version)
    found = [one for one in listed if isinstance(one, RepoFile)]
    wanted = filter_repo_objects(found, allow_patterns=_WANTED, ignore_patterns=_UNWANTED, key=lambda one: one.path)
    return sum(one.size for one in wanted)


def _bar(progress: Progress, size: int) -> type[tqdm]:
    """A bar of the hub's library that is not drawn: it tells which part of so many bytes is here."""

    class Bar(tqdm):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            self._counts, self._done = kwargs.get("unit") == "B" and kwargs.get("name", "").endswith("download"), 0.0
            self._turn = threading.Lock()
            super().__init__(*args, **{**kwargs, "disable": True})  # type: ignore[no-untyped-call]

        def update(self, n: float | None = 1) -> bool | None:
            with self._turn:  # files come side by side
                self._done += n or 0
                if self._counts and size:
                    progress("fetch", min(1.0, self._done / size))
            return None

    return Bar


def fetch_snapshot(
    file: CardFile,
    cache: Path,
    progress: Progress,
    space: Space | None = None,
    token_file: Path | None = None,
    endpoint: str | None = None,
) -> Path:
    """The folder of a ``hub:`` card's snapshot, from the cache where it is whole there, else from the hub.

    Args:
        file: the card file.
        cache: folder that holds the hub's cache as ``hub``, laid out as the hub's own library does.
        progress: told the stage, and the part of the bytes that are here.
        space: weights that do not fit into it are not fetched; without one they are.
        token_file: a file that holds an access token.
        endpoint: address of the hub, by default the library's.

    Raises:
        LoadError: the hub refuses, cannot be reached, has no such repository or commit, or its weights do not fit.
    """
    place, origin = cache / "hub", file.origin
    found = _cached(file, place)
    if found is not None:
        return found
    token = _token(file, token_file)
    progress("fetch", None)
    try:
        hub = HfApi(endpoint=endpoint, token=token)
        if space is not None:
            _refuse_too_big(file, space, hub)
        folder = snapshot_download(
            origin.name,
            revision=origin.version,
            cache_dir=place,
            token=token,
            endpoint=endpoint,
            allow_patterns=_WANTED,
            ignore_patterns=_UNWANTED,
            tqdm_class=_bar(progress, _size(file, hub)),
        )
    except _FAILURES as error:
        hint = "" if token else "; gated weights need a token file"
        raise LoadError(f"{file.id}: {origin.name} at {origin.version} cannot be had: {error}{hint}") from error
    lacking = missing_files(Path(folder))
    if lacking:
        raise LoadError(f"{file.id}: {origin.name} has no {lacking[0]!r}; weights must be safetensors")
    progress("fetch", 1.0)
    return Path(folder)
