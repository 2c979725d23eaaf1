"""A worker's own port for Prometheus."""

from __future__ import annotations

import socket

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from telepatch_protocol.errors import Unavailable
from telepatch_worker.metrics_port import metrics_port
from telepatch_worker.watching import Watching


def test_it_answers_with_what_the_worker_counts_and_nothing_else():
    watching = Watching(lambda: {"telepatch_worker_memory_bytes": {"free": 7.0}})
    with metrics_port("127.0.0.1", 0, watching.snapshot, "tiny", "w1") as port:
        answer = httpx.get(f"http://127.0.0.1:{port}/metrics")
        assert httpx.get(f"http://127.0.0.1:{port}/").status_code == 404
    found = {
        (s.name, *s.labels.values()): s.value for f in text_string_to_metric_families(answer.text) for s in f.samples
    }
    assert found["telepatch_worker_memory_bytes", "tiny", "w1", "free"] == 7
    assert found["telepatch_worker_jobs_in_hand", "tiny", "w1"] == 0
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"http://127.0.0.1:{port}/metrics")


def test_no_port_is_opened_unless_it_is_asked_for():
    with metrics_port("127.0.0.1", None, dict, "tiny", "w1") as port:
        assert port is None


def test_a_port_that_is_taken_is_named():
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with (
            pytest.raises(Unavailable, match=f"port {port} for metrics"),
            metrics_port("127.0.0.1", port, dict, "m", "w"),
        ):
            pass
