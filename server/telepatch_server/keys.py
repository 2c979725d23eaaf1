"""API keys: a file of salted hashes, and the check of a key against it.

A key is 256 random bits, so one round of SHA-256 over salt and key is enough: there is nothing to guess.
"""

from __future__ import annotations

import fcntl
import hashlib
import hmac
import os
import re
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from telepatch_protocol.errors import BadArgument, Conflict, NotFound, Unavailable

MARK = "tp_"
"""Keys begin with this, so that one that leaked can be searched for."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")


class Entry(BaseModel):
    """Whose key it is, and how it is known again."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    salt: str
    hash: str
    created: int


class KeysFile(BaseModel):
    """The file: JSON, version 1."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: int = 1
    keys: tuple[Entry, ...] = ()


class KeyRing:
    """The keys file as a running gateway sees it: read again whenever it has changed.

    Args:
        path: of the file, which must be there.

    Raises:
        Unavailable: it cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen: tuple[int, int, int] | None = None
        self._entries: tuple[Entry, ...] = ()
        self._secret = secrets.token_bytes(32)
        self._known: dict[bytes, str] = {}
        self._refresh()

    def __len__(self) -> int:
        return len(self._entries)

    def known(self, key: str) -> str | None:
        """Whose key this is, if it was good before: that takes no time, however many keys there are."""
        self._refresh()
        return self._known.get(self._digest(key))

    def person(self, key: str) -> str | None:
        """Whose key this is, or None; takes the same time for every key that was not good before."""
        found = self.known(key)
        if found is not None:
            return found
        for entry in self._entries:
            if hmac.compare_digest(_hash(entry.salt, key), entry.hash):
                found = entry.name
        if found is not None:
            self._known[self._digest(key)] = found  # not the key itself, and no more of them than there are keys
        return found

    def _digest(self, key: str) -> bytes:
        return hmac.digest(self._secret, key.encode(), "sha256")

    def _refresh(self) -> None:
        try:
            about = self._path.stat()
        except OSError as error:
            raise Unavailable(f"the keys file {self._path} cannot be read: {error.strerror}") from None
        seen = (about.st_mtime_ns, about.st_size, about.st_ino)
        if seen != self._seen:
            self._entries = _read(self._path).keys
            self._known = {}
            self._seen = seen


def add(path: Path, name: str) -> str:
    """Make a key for a person.

    Args:
        path: of the keys file; made, readable by its owner only, when it is not there.
        name: whose key it is; one key per name.

    Returns:
        The key. It stands nowhere else: the file holds a hash of it.

    Raises:
        BadArgument: a name that cannot be.
        Conflict: the name has a key already.

    Example:
        >>> add(Path("keys.json"), "ada")
        'tp_...'
    """
    if not _NAME.fullmatch(name):
        raise BadArgument(f"a key cannot be named {name!r}; 1 to 64 of A-Z a-z 0-9 . _ @ - can be")
    key, salt = MARK + secrets.token_urlsafe(32), secrets.token_hex(16)
    with _locked(path):
        known = _read(path).keys if path.exists() else ()
        if any(entry.name == name for entry in known):
            raise Conflict(f"{name} has a key in {path} already; remove it first, or choose another name")
        _write(path, (*known, Entry(name=name, salt=salt, hash=_hash(salt, key), created=int(time.time()))))
    return key


def listing(path: Path) -> list[str]:
    """Whose keys the file holds, in the order they were made.

    Raises:
        Unavailable: there is no such file, or it is no keys file.
    """
    return [entry.name for entry in _read(path).keys]


def remove(path: Path, name: str) -> None:
    """Make a person's key worthless; a running gateway refuses it from then on.

    Raises:
        NotFound: the name has no key.
    """
    with _locked(path):
        known = _read(path).keys
        if all(entry.name != name for entry in known):
            names = ", ".join(entry.name for entry in known) or "none"
            raise NotFound(f"{name} has no key in {path}; there are keys of: {names}")
        _write(path, tuple(entry for entry in known if entry.name != name))


def _hash(salt: str, key: str) -> str:
    return hashlib.sha256(bytes.fromhex(salt) + key.encode()).hexdigest()


def _read(path: Path) -> KeysFile:
    try:
        found = KeysFile.model_validate_json(path.read_bytes())
    except OSError as error:
        raise Unavailable(f"the keys file {path} cannot be read: {error.strerror}") from None
    except ValidationError:
        raise Unavailable(f"{path} is no keys file; 'telepatch keys add NAME' makes one") from None
    if found.version != 1:
        raise Unavailable(f"the keys file {path} has version {found.version}; version 1 is known")
    return found


def _write(path: Path, entries: tuple[Entry, ...]) -> None:
    """Put a new file in the place of the old one, never readable by others and never half written."""
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as error:
        raise Unavailable(f"the keys file {path} cannot be written: {error.strerror}") from None
    try:
        with os.fdopen(handle, "w") as file:
            file.write(KeysFile(keys=entries).model_dump_json(indent=2) + "\n")
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Alone among the commands that change the file; the lock goes with the process."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        folder = os.open(path.parent, os.O_RDONLY)
    except OSError as error:
        raise Unavailable(f"the folder {path.parent} cannot be used: {error.strerror}") from None
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)
