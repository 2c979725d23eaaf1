"""The ranks that hold one model together: how rank 0 tells the others what to do, and how all notice that one is gone.

Rank 0 listens, and each of the others holds one connection to it. What goes over it are frames: a few words as JSON,
and tensors as safetensors. Whoever loses a connection ends at once: the kernel closes it when a process dies, however
it dies, and a collective that waits for a dead rank may wait for long.
"""

from __future__ import annotations

import hmac
import json
import os
import queue
import secrets
import socket
import struct
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NoReturn

import structlog
import torch
import torch.distributed as dist

from telepatch_worker.accord import Accord
from telepatch_worker.settings import Torchrun

_log = structlog.get_logger(__name__)
_HEAD = struct.Struct(">QQ")
_TOKEN_BYTES = 32
_ADDRESS_BYTES = 512
_JOIN_SECONDS = 120.0
BYE_SECONDS = 10.0
"""How long a process that is about to end may take for it."""
ANSWER_SECONDS = 60.0
"""How long a rank waits for another one to come to where it is itself; they run in step."""
CHECK_EVERY = 32
"""Sites and nodes between two agreements on whether jobs have to stop."""
LOST = 75
"""Exit status of a rank that ends because of another one, or that differs from it."""


@dataclass(frozen=True)
class Frame:
    """What one rank tells another: words, and bytes."""

    kind: str
    words: Any = None
    body: bytes = b""


class Connection:
    """One end of a connection; a thread reads it, so that a loss is noticed whatever this process does."""

    def __init__(self, stream: socket.socket, peer: str) -> None:
        """Begin to read.

        Args:
            stream: the connection.
            peer: who is at its other end.
        """
        self.peer = peer
        self.ending = False
        self.frames: queue.SimpleQueue[Frame] = queue.SimpleQueue()
        self._stream = stream
        stream.settimeout(None)
        _notice_loss(stream)
        self._reader = threading.Thread(target=self._read, name=f"from {peer}", daemon=True)
        self._reader.start()

    def send(self, frame: Frame) -> None:
        """Tell the other end."""
        words = json.dumps([frame.kind, frame.words]).encode()
        try:
            self._stream.sendall(_HEAD.pack(len(words), len(frame.body)) + words + frame.body)
        except OSError:
            self._gone()

    def receive(self, seconds: float | None = None) -> Frame:
        """What the other end says next, however long it takes, or within so many seconds."""
        try:
            return self.frames.get(timeout=seconds)
        except queue.Empty:
            leave(f"{self.peer} has not answered for {seconds:g} s")

    def close(self) -> None:
        """Let go of it."""
        self.ending = True
        with suppress(OSError):
            self._stream.shutdown(socket.SHUT_RDWR)
        self._stream.close()
        self._reader.join()

    def _read(self) -> None:
        try:
            while True:
                words, body = _HEAD.unpack(self._exactly(_HEAD.size))
                kind, said = json.loads(self._exactly(words))
                self.ending = self.ending or kind == "end"
                self.frames.put(Frame(kind, said, self._exactly(body)))
        except (OSError, ValueError):
            self._gone()

    def _exactly(self, count: int) -> bytes:
        found = bytearray(count)
        view, at = memoryview(found), 0
        while at < count:
            read = self._stream.recv_into(view[at:])
            if not read:
                raise ConnectionResetError
            at += read
        return bytes(found)

    def _gone(self) -> None:
        if not self.ending:
            leave(f"{self.peer} is gone")
        time.sleep(BYE_SECONDS)  # in a thread that nobody waits for: this process is about to end by itself
        os._exit(0)


def _notice_loss(stream: socket.socket) -> None:
    """Send at once, and ask the other host now and then whether it is still there."""
    if stream.family == socket.AF_UNIX:
        return
    stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    stream.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (("TCP_KEEPIDLE", 5), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 3)):
        if hasattr(socket, name):
            stream.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def leave(why: str) -> NoReturn:
    """End this process now: jobs in hand are begun again by another worker once their leases are over."""
    _log.error("rank_ended", why=why)
    os._exit(LOST)


class Ranks(Accord):
    """This process among those that hold one model together.

    Args:
        launch: who it is, as torchrun says.
        device: where its shard lies.
    """

    def __init__(self, launch: Torchrun, device: torch.device) -> None:
        self.rank, self.size = launch.rank, launch.world_size
        self.device = device
        self._asked = self._failures = 0
        self._peers = _met(launch, device)

    @property
    def leads(self) -> bool:
        """Whether it decides."""
        return self.rank == 0

    # From rank 0 to the others

    def tell(self, kind: str, words: Any = None, body: bytes = b"") -> None:
        """Tell the others what to do."""
        for peer in self._peers:
            peer.send(Frame(kind, words, body))

    def hear(self) -> Frame:
        """What rank 0 says next, however long it takes."""
        return self._peers[0].receive()

    def await_(self, kind: str) -> None:
        """Wait until rank 0 says so, however long it takes."""
        if (found := self.hear()).kind != kind:
            leave(f"rank {self.rank} waits for '{kind}', and rank 0 is at '{found.kind}'")

    def end(self) -> None:
        """Let the others end, too."""
        for peer in self._peers:
            peer.ending = True
        self.tell("end")

    def say(self, number: int) -> int:
        """What rank 0 decides."""
        return self.says([number])[0]

    def says(self, numbers: Sequence[int]) -> list[int]:
        """What rank 0 decides of several things."""
        if self.leads:
            self.tell("decided", [int(number) for number in numbers])
            return [int(number) for number in numbers]
        found: list[int] = self._expect(self._peers[0], "decided").words
        if len(found) != len(numbers):
            leave(f"rank 0 decides {len(found)} things where rank {self.rank} asks for {len(numbers)}")
        return found

    def due(self) -> bool:
        """Every so often, counted alike by all ranks."""
        self._asked += 1
        return self._asked % CHECK_EVERY == 0

    # Whether all are where each is

    def failed(self, job: str, code: str) -> None:
        """Go on only where the job has failed everywhere, and so: where a single rank lacks memory, the others wait for
        it in the middle of a forward."""
        self._failures += 1
        self.same("failed", [self._failures, job, code])

    def same(self, kind: str, words: Any, seconds: float | None = ANSWER_SECONDS) -> None:
        """Go on only once every rank has said the same; None waits for however long it takes."""
        self.tell(kind, words)
        for peer in self._peers:
            found = self._expect(peer, kind, seconds).words
            if found != words:
                leave(f"rank {self.rank} has {kind} {words}, and {peer.peer} {found}")

    def _expect(self, peer: Connection, kind: str, seconds: float | None = ANSWER_SECONDS) -> Frame:
        frame = peer.receive(seconds)
        if frame.kind != kind:
            leave(f"rank {self.rank} is at '{kind}', and {peer.peer} at '{frame.kind}'")
        return frame


def join(launch: Torchrun, device: torch.device) -> Ranks:
    """Meet the other ranks; PyTorch's process group is there after that."""
    if device.type == "cuda":
        torch.cuda.set_device(device)
        dist.init_process_group("nccl", device_id=device)
    else:
        dist.init_process_group("gloo")
    return Ranks(launch, device)


def _met(launch: Torchrun, device: torch.device) -> list[Connection]:
    """Connections to the others: of rank 0 to all, of each other one to rank 0."""
    listener = None
    if launch.rank == 0:
        listener = socket.create_server((launch.own_address, 0), backlog=launch.world_size)
        place = [*listener.getsockname()[:2], secrets.token_hex(_TOKEN_BYTES)]
    else:
        place = []
    host, port, token = _shared(place, device)
    if listener is None:
        stream = socket.create_connection((host, port), timeout=_JOIN_SECONDS)
        stream.sendall(token.encode() + struct.pack(">I", launch.rank))
        return [Connection(stream, "rank 0")]
    with listener:
        listener.settimeout(_JOIN_SECONDS)
        return _accepted(listener, token, launch.world_size - 1)


def _accepted(listener: socket.socket, token: str, count: int) -> list[Connection]:
    """Connections of those who know the token, in the order of their ranks."""
    found: dict[int, Connection] = {}
    while len(found) < count:
        stream, _ = listener.accept()
        stream.settimeout(5)
        try:
            said = b""
            while len(said) < len(token) + 4 and (more := stream.recv(len(token) + 4 - len(said))):
                said += more
        except OSError:
            said = b""
        if len(said) < len(token) + 4 or not hmac.compare_digest(said[:-4], token.encode()):
            stream.close()
            continue
        rank = struct.unpack(">I", said[-4:])[0]
        found[rank] = Connection(stream, f"rank {rank}")
    return [found[rank] for rank in sorted(found)]


def _shared(place: Sequence[Any], device: torch.device) -> list[Any]:
    """What rank 0 has, on every rank."""
    said = torch.zeros(_ADDRESS_BYTES, dtype=torch.uint8)
    text = json.dumps(place).encode()
    said[: len(text)] = torch.frombuffer(bytearray(text), dtype=torch.uint8)
    said = said.to(device)
    dist.broadcast(said, 0)
    found: list[Any] = json.loads(bytes(said.cpu().tolist()).rstrip(b"\0"))
    return found
