"""What a whole service tells of itself: one trace across its processes, numbers of its workers, and nobody's words."""

from __future__ import annotations

import gzip
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from prometheus_client.parser import text_string_to_metric_families

MODELS = Path(__file__).parents[2] / "models"
MODEL = "gpt2-random"
SECRET = "zanzibarquux"
NUMBER = 8675309.25

PROGRAM = f"""
import numpy as np, sys, telepatch
lab = telepatch.connect(sys.argv[1])
model = lab.model("{MODEL}")
def traced():
    with model.trace("{SECRET}") as t:
        a = (model.lm_head.output[:, -1] + {NUMBER}).save()
    with model.trace("{SECRET}s"):
        b = model.lm_head.output[:, -1].save()
    with model.generate("{SECRET}", max_new_tokens=3) as g:
        pass
    print(telepatch.gather(a, b)[0].shape, g.generated.numpy().shape, t.job)
traced()
try:
    with model.trace("{SECRET}"):
        x = model.lm_head.output[:, {{index}}].save()
    print(x.numpy().shape)
except telepatch.TelepatchError as error:
    print(type(error).__name__)
lab.close()
"""


@dataclass
class Collector:
    """A collector of OpenTelemetry over HTTP, as far as spans go."""

    url: str = ""
    spans: list[tuple[str, Any]] = field(default_factory=list)

    def by_name(self, name: str) -> list[tuple[str, Any]]:
        return [(service, span) for service, span in self.spans if span.name == name]


@contextmanager
def collecting() -> Iterator[Collector]:
    """A collector on a free port."""
    collector = Collector()

    class Answer(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            if self.headers.get("content-encoding") == "gzip":
                body = gzip.decompress(body)
            for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                names = {one.key: one.value.string_value for one in resource.resource.attributes}
                found = [(names["service.name"], span) for scope in resource.scope_spans for span in scope.spans]
                collector.spans += found
            self.send_response(200)
            self.send_header("content-type", "application/x-protobuf")
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    collector.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield collector
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def environment(**more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("TELEPATCH_", "OTEL_"))}
    return kept | {"OMP_NUM_THREADS": "1", "OTEL_BSP_SCHEDULE_DELAY": "200"} | more


@dataclass
class Parts:
    """A gateway and a worker, and where they log."""

    url: str
    folder: Path
    variables: dict[str, str]

    def run(self, program: str, **more: str) -> str:
        words = [sys.executable, "-P", "-c", program, self.url]
        done = subprocess.run(
            words, capture_output=True, text=True, check=False, timeout=200, env={**self.variables, **more}
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def logs(self) -> str:
        return "".join((self.folder / f"{name}.log").read_text() for name in ("gateway", "worker"))


@contextmanager
def parts(redis_url: str, folder: Path, **more: str) -> Iterator[Parts]:
    """A gateway and a worker as an operator starts them, ended as one does."""
    variables = environment(
        TELEPATCH_REDIS_URL=redis_url,
        TELEPATCH_BLOBS=str(folder / "blobs"),
        TELEPATCH_CACHE=str(folder / "cache"),
        TELEPATCH_MODELS=str(MODELS),
        TELEPATCH_LOG_LEVEL="debug",
        TELEPATCH_LOG_FORMAT="json",
        TELEPATCH_WORKER_THREADS="1",
        **more,
    )
    with ExitStack() as stack:
        gateway = stack.enter_context(_process(["gateway", "--port", "0"], folder / "gateway", variables))
        url = _until(lambda: re.search(r"listens on (\S+)\n", (folder / "gateway.out").read_text()), gateway)[1]
        worker = stack.enter_context(_process(["worker", "--model", MODEL], folder / "worker", variables))
        _until(lambda: httpx.get(f"{url}/readyz").status_code == 200, worker)
        yield Parts(url, folder, variables)


@contextmanager
def _process(words: list[str], place: Path, variables: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-P", "-m", "telepatch", *words]
    with place.with_suffix(".out").open("wb") as out, place.with_suffix(".log").open("wb") as log:
        process = subprocess.Popen(command, stdout=out, stderr=log, env=variables)
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(90)


def _until(found: Callable[[], Any], process: subprocess.Popen[bytes] | None = None, seconds: float = 150) -> Any:
    until = time.monotonic() + seconds
    while not (answer := found()):
        assert process is None or process.poll() is None
        assert time.monotonic() < until
        time.sleep(0.1)
    return answer


def _id(span: Any) -> str:
    return str(span.trace_id.hex())


def test_a_job_is_one_trace_from_the_client_through_the_gateway_to_the_forward_it_shared(
    redis_url: str, tmp_path: Path
) -> None:
    with collecting() as collector:
        with parts(redis_url, tmp_path, OTEL_EXPORTER_OTLP_ENDPOINT=collector.url) as service:
            service.run(PROGRAM.replace("{index}", "0"))
        posts = [span for who, span in collector.by_name("POST /v1/jobs") if who == "telepatch-client"]
        answers = [span for who, span in collector.by_name("POST /v1/jobs") if who == "telepatch-gateway"]
        jobs = [span for who, span in collector.by_name("job") if who == "telepatch-worker"]
        assert posts
        assert {_id(span) for span in posts} == {_id(span) for span in answers} == {_id(span) for span in jobs}
        assert {span.parent_span_id for span in answers} == {span.span_id for span in posts}
        assert {span.parent_span_id for span in jobs} <= {span.span_id for span in answers}
        assert len(jobs) == 4
        inside = [span for _, span in collector.spans if span.parent_span_id in {job.span_id for job in jobs}]
        assert {span.name for span in inside} == {"queued", "reading", "planning", "forward", "handing_in"}
        forwards = [span for span in inside if span.name == "forward"]
        assert {link.span_id for span in forwards for link in span.links} == {job.span_id for job in jobs}
        assert all(span.start_time_unix_nano <= span.end_time_unix_nano for span in inside)
        assert SECRET not in str(collector.spans)
        assert {json.loads(line).get("trace") for line in service.logs().splitlines()} >= {_id(span) for span in posts}


def test_no_log_and_no_metric_holds_what_people_send_even_at_debug_level(redis_url: str, tmp_path: Path) -> None:
    with parts(redis_url, tmp_path) as service:
        said = service.run(PROGRAM.replace("{index}", "0"))
        refused = service.run(PROGRAM.replace("{index}", "99"))
        assert refused.splitlines()[-1] == "IndexOutOfRange"
        broken = {"protocol": [1, 0], "model": {"id": SECRET}, "constants": {SECRET: SECRET}, "saves": {}}
        assert httpx.post(f"{service.url}/v1/jobs", json=broken).status_code == 404
        httpx.get(f"{service.url}/{SECRET}?{SECRET}={SECRET}", headers={"Authorization": f"Bearer {SECRET}"})
        httpx.put(f"{service.url}/v1/edits/{SECRET}", content=SECRET)
        metrics = httpx.get(f"{service.url}/metrics").text
        job = said.split()[-2] if "IndexOut" in said else re.findall(r"[0-9a-f-]{36}", said)[0]
    logs = service.logs()
    assert SECRET not in logs + metrics
    assert str(NUMBER) not in logs + metrics
    lines = [json.loads(line) for line in logs.splitlines()]
    assert {"request", "jobs_submitted", "jobs_taken", "batch_ended", "job_ended"} <= {line["event"] for line in lines}
    [ended] = [line for line in lines if line["event"] == "job_ended" and line["job"] == job]
    [submitted] = [line for line in lines if line["event"] == "jobs_submitted" and job in line["jobs"]]
    assert ended["request"] == submitted["request"]
    assert (ended["state"], ended["person"], ended["model"]) == ("completed", "local", MODEL)
    assert ended["worker"]
    assert {"queued", "reading", "planning", "running", "handing_in"} == set(ended["ms"])


def test_the_gateway_shows_what_its_workers_count_and_so_do_they(redis_url: str, tmp_path: Path) -> None:
    port = _free_port()
    with parts(redis_url, tmp_path, TELEPATCH_WORKER_METRICS_PORT=str(port)) as service:
        service.run(PROGRAM.replace("{index}", "0"))

        def both() -> bool:
            return _samples(f"{service.url}/metrics") == _samples(f"http://127.0.0.1:{port}/metrics")

        _until(both, seconds=30)
        found = _samples(f"{service.url}/metrics")
    [jobs] = [value for (name, *labels), value in found.items() if name == "telepatch_worker_jobs_total"]
    [batches] = [value for (name, *_), value in found.items() if name == "telepatch_worker_batch_jobs_count"]
    assert jobs == 4
    assert batches >= 5
    assert {labels[-1] for (name, *labels), _ in found.items() if name == "telepatch_worker_cache_bytes"} == {
        "used",
        "limit",
    }


def _samples(url: str) -> dict[tuple[str, ...], float]:
    """What is told of workers, without what changes by itself."""
    return {
        (one.name, *one.labels.values()): one.value
        for family in text_string_to_metric_families(httpx.get(url).text)
        for one in family.samples
        if family.name.startswith("telepatch_worker_") and "memory" not in family.name
    }


def _free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_a_gateway_that_is_told_of_an_exporter_that_is_not_there_does_not_start(redis_url: str, tmp_path: Path) -> None:
    command = [sys.executable, "-P", "-m", "telepatch", "gateway", "--port", "0", "--redis-url", redis_url]
    variables = environment(OTEL_TRACES_EXPORTER="jaegr", TELEPATCH_BLOBS=str(tmp_path))
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=variables, timeout=100)
    assert done.returncode == 2
    assert "no exporter 'jaegr'" in done.stderr
