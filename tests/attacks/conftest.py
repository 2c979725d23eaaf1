"""What attacks need: the gateway on a socket, the queue and the small models of the other rooms' tests; two people."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import httpx
import pytest
import tests.server.conftest as gateway
import tests.worker.conftest as models
from tests.attacks.raw import Line

from telepatch_server.settings import Settings

# Fixtures of the other rooms, by their own names.
common, common_url, settings, serve, http, key = (
    gateway.common, gateway.common_url, gateway.settings, gateway.serve, gateway.http, gateway.key,
)  # fmt: skip
publish, published, worker, graph, submit = (
    gateway.publish, gateway.published, gateway.worker, gateway.graph, gateway.submit,
)  # fmt: skip
build, engines, gpt2, one_thread, saved, weights = (
    models.build, models.engines, models.gpt2, models.one_thread, models.saved, models.weights,
)  # fmt: skip


@pytest.fixture
def line(http: httpx.Client) -> Iterator[Callable[[], Line]]:
    """Opens raw connections to the gateway, and closes them with the test."""
    opened: list[Line] = []

    def open_() -> Line:
        opened.append(Line(http.base_url.host, http.base_url.port or 80))
        return opened[-1]

    yield open_
    for one in opened:
        one.close()


@pytest.fixture
def people(
    serve: Callable[[Settings], httpx.Client], settings: Settings, published: object, key: Callable[..., str]
) -> dict[str, httpx.Client]:
    """Ada and Bob, each with a key of their own for one gateway; and somebody without one."""
    headers = {name: {"Authorization": f"Bearer {key(name)}"} for name in ("ada", "bob")}
    first = serve(settings)
    found = {name: httpx.Client(base_url=first.base_url, headers=one, timeout=20) for name, one in headers.items()}
    yield {**found, "nobody": first}
    for one in found.values():
        one.close()
