"""A port that tells Prometheus what a worker counts, for those who would rather ask workers than the gateway."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from telepatch_broker.measures import CONTENT_TYPE, exposition, read
from telepatch_broker.worker_measures import TABLE
from telepatch_protocol.errors import Unavailable

Snapshot = Callable[[], dict[str, Any]]


def text(snapshot: dict[str, Any], model: str, worker: str) -> str:
    """The numbers of one worker as Prometheus reads them, named as the gateway names them."""
    return exposition(
        (
            measure,
            [
                ((model, worker, label) if len(measure.labels) > 2 else (model, worker), number)
                for label, number in read(measure, snapshot.get(measure.name)).items()
            ],
        )
        for measure in TABLE
    )


@contextmanager
def metrics_port(host: str, port: int | None, snapshot: Snapshot, model: str, worker: str) -> Iterator[int | None]:
    """Answer ``GET /metrics`` while the block lasts; gives the port, a free one for 0.

    Raises:
        Unavailable: the address is somebody else's, or taken.
    """
    if port is None:
        yield None
        return

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            """Answer one request."""
            known = self.path.partition("?")[0] == "/metrics"
            body = text(snapshot(), model, worker).encode() if known else b"there is /metrics here, and nothing else\n"
            self.send_response(200 if known else 404)
            self.send_header("Content-Type", CONTENT_TYPE if known else "text/plain; charset=utf-8")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            """Scrapes are not worth a line."""

    try:
        server = ThreadingHTTPServer((host, port), Answer)
    except OSError as error:
        raise Unavailable(f"cannot listen on {host} port {port} for metrics: {error.strerror or error}") from None
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.1,), name="metrics", daemon=True)
    thread.start()
    try:
        yield int(server.server_address[1])
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)
