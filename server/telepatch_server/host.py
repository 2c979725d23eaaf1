"""``telepatch host``: holds no model itself, and starts and ends workers as is wanted, each in a process of its own.

What is wanted stands in the queue (`telepatch_broker.hosts`); this process looks every half second. It starts one
worker after the other, so that each sees how much memory the ones before have left. A worker that breaks is started
again after a pause that doubles; one whose model is wanted no more is asked to end, and finishes what it has.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

import structlog

from telepatch_broker.checks import at_start
from telepatch_broker.connection import LOST, connect
from telepatch_broker.hosts import Copies, CopyState, HostInfo, Hosts, Wanted
from telepatch_broker.places import open_blobs
from telepatch_broker.registry import Registry
from telepatch_server.children import Child, Children, said
from telepatch_server.gpus import gpu_with_most_room
from telepatch_server.settings import HostSettings

PERIOD_S: Final = 0.5
FIRST_PAUSE_S: Final = 1.0
LONGEST_PAUSE_S: Final = 300.0
RAN_WELL_S: Final = 60.0
GIVEN_UP_AFTER: Final = 3
"""So often a copy that never became ready is tried in a row before other hosts may try."""

Seat = tuple[str, int]
"""A model, and the number of one of its wanted copies."""

_log = structlog.get_logger(__name__)


@dataclass
class Place:
    """One copy that this host has, or tried to have."""

    child: Child | None = None
    state: CopyState = "loading"
    detail: str = ""
    began: float = 0.0
    restarts: int = 0
    again: float = 0.0

    def failed(self, now: float, why: str) -> None:
        """Its worker has ended by itself: try again after a pause."""
        well = self.state == "ready" and now - self.began > RAN_WELL_S
        self.restarts = 1 if well else self.restarts + 1
        self.again = now + min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2 ** (self.restarts - 1))
        self.child, self.state, self.detail = None, "failed", why


@dataclass
class Host:
    """A host while it runs.

    Args:
        settings: its name, and where what its workers say goes.
        hosts: what is wanted.
        registry: which workers have come to be ready.
        children: the workers.
        worker_options: for all workers.
        environment: of all workers.
    """

    settings: HostSettings
    hosts: Hosts
    registry: Registry
    children: Children
    worker_options: list[str]
    environment: Mapping[str, str]
    places: dict[Seat, Place] = field(default_factory=dict)
    ending: bool = False
    started: float = field(default_factory=time.time)

    async def turn(self) -> None:
        """Look at what is wanted and at what is there, and bring the two closer."""
        self._bury()
        wanted = {} if self.ending else await self.hosts.wanted()
        await self._see_who_is_ready()
        await self._part(wanted)
        await self._seat(wanted)
        await self.hosts.tell(self.info())

    def info(self) -> HostInfo:
        """What this host says of itself."""
        copies = tuple(
            Copies(
                model=model,
                number=number,
                state=place.state,
                detail=place.detail,
                restarts=place.restarts,
                pid=place.child.process.pid if place.child else None,
            )
            for (model, number), place in sorted(self.places.items())
        )
        return HostInfo(
            name=self.settings.name, pid=os.getpid(), started=self.started, ending=self.ending, copies=copies
        )

    def _bury(self) -> None:
        """Workers that have ended: those that were asked to are gone, the others are tried again."""
        now = time.monotonic()
        for (model, number), place in self.places.items():
            if place.child is None or place.child.process.poll() is None:
                continue
            code, last = place.child.process.returncode, said(place.child)
            self.children.drop(place.child)
            if place.state == "draining":
                place.child = None
                _log.info("model_unloaded", model=model, copy=number)
            else:
                place.failed(now, f"its worker {_how(code)}: {last}" if code else "its worker was asked to end")
                _log.warning("worker_broke", model=model, copy=number, code=code, said=last, restarts=place.restarts)

    async def _see_who_is_ready(self) -> None:
        for model in {seat[0] for seat, place in self.places.items() if place.state == "loading"}:
            ready = {one.pid for one in await self.registry.workers(model) if one.host == socket.gethostname()}
            for (name, number), place in self.places.items():
                if name == model and place.state == "loading" and place.child and place.child.process.pid in ready:
                    place.state, place.detail = "ready", ""
                    _log.info(
                        "model_loaded", model=model, copy=number, seconds=round(time.monotonic() - place.began, 1)
                    )

    async def _part(self, wanted: Mapping[str, Wanted]) -> None:
        """With what is wanted no more, or is another host's by now."""
        for seat, place in list(self.places.items()):
            if self._is_wanted(seat, wanted) and (place.child is None or await self._take(seat)):
                continue
            if place.child is not None and place.state != "draining":
                place.state, place.detail = "draining", "finishes what it has"
                place.child.process.terminate()
                _log.info("model_unloading", model=seat[0], copy=seat[1])
            elif place.child is None:
                await self.hosts.leave_seat(*seat, self.settings.name)
                del self.places[seat]
            else:  # it finishes: nobody else has this seat before it is over
                await self._take(seat)

    async def _seat(self, wanted: Mapping[str, Wanted]) -> None:
        """The next copy that is wanted, if none is being loaded."""
        if any(place.state == "loading" for place in self.places.values()):
            return
        now = time.monotonic()
        for seat in [(one.model, number) for one in wanted.values() for number in range(one.replicas)]:
            place = self.places.get(seat, Place())
            if place.child is not None or not self._is_wanted(seat, wanted):
                continue
            if now < place.again:
                if place.restarts >= GIVEN_UP_AFTER:
                    await self.hosts.leave_seat(*seat, self.settings.name)
                continue
            if await self._take(seat):
                self.places[seat] = place
                self._start(seat, place)
                return

    def _start(self, seat: Seat, place: Place) -> None:
        model, number = seat
        environment = dict(self.environment) | gpu_with_most_room(self.environment)
        options = ["worker", "--model", model, *self.worker_options]
        place.child = self.children.start(f"{model} {number}", options, environment)
        place.state, place.detail, place.began = "loading", "", time.monotonic()
        _log.info("model_loading", model=model, copy=number, pid=place.child.process.pid, log=str(place.child.log))

    def _is_wanted(self, seat: Seat, wanted: Mapping[str, Wanted]) -> bool:
        one = wanted.get(seat[0])
        return one is not None and seat[1] < one.replicas and one.host in (None, self.settings.name)

    async def _take(self, seat: Seat) -> bool:
        return await self.hosts.take_seat(*seat, self.settings.name)


async def run(settings: HostSettings, worker_options: list[str], environment: Mapping[str, str]) -> None:
    """Serve what is wanted until SIGTERM or Ctrl-C; a second one ends the workers at once.

    Raises:
        Unavailable: the queue or the blob store is not what it has to be.
    """
    client = connect(settings.queue)
    children = Children(settings.host_logs, grace_s=3.0)
    host = Host(settings, Hosts(client), Registry(client), children, worker_options, environment)
    asked = _on_signals(host)
    try:
        for risk in await at_start(client, open_blobs(settings.blobs), settings.queue):
            _log.warning("not_as_it_should_be", what=risk.what, found=risk.found, works=risk.works)
        _log.info("host_ready", name=settings.name, pid=os.getpid())
        while not host.ending or (host.places and asked() < 2):
            try:
                await host.turn()
            except LOST as error:  # workers go on without us
                _log.warning("queue_lost", kind=type(error).__name__)
            await asyncio.sleep(PERIOD_S)
    finally:
        children.stop()
        try:
            for seat in host.places:
                await host.hosts.leave_seat(*seat, settings.name)
            await host.hosts.leave(settings.name)
        finally:
            await client.aclose()
        _log.info("host_ended", name=settings.name)


def _on_signals(host: Host) -> Callable[[], int]:
    """Count how often the host was asked to end."""
    times = 0

    def ask() -> None:
        nonlocal times
        times += 1
        host.ending = True

    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, ask)
    return lambda: times


def _how(code: int) -> str:
    return f"was ended by signal {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
