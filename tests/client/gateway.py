"""A small gateway over real sockets, whose faults a test can choose; it runs no model and answers with numbers."""

from __future__ import annotations

import base64
import json
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.parser import BytesParser
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np

from telepatch_protocol import tensors
from telepatch_protocol.card import ModelCard

Answer = Callable[[str, dict[str, Any]], dict[str, np.ndarray[Any, Any]] | dict[str, Any]]


def ones(job: str, document: dict[str, Any]) -> dict[str, np.ndarray[Any, Any]]:
    """What every job gives unless told otherwise."""
    return {name: np.full((1, 3), 1.0, np.float32) for name in document["saves"]}


@dataclass
class Gateway:
    """What it does, and what it was asked.

    Attributes:
        answer: arrays by name, or an error record.
        refuse: error record for jobs at the door.
        broken_posts: so many submissions are answered with 503, after having been taken.
        cut_streams: so many streams of events end after their first event.
        no_streams: events are not served at all.
        bad_ids: unknown jobs are refused for their ids.
        inline: whether results ride in events.
        hold: jobs complete when it is set.
        door: submissions are answered when it is set.
    """

    card: ModelCard
    answer: Answer = ones
    refuse: Callable[[dict[str, Any]], dict[str, Any] | None] = lambda document: None
    broken_posts: int = 0
    cut_streams: int = 0
    no_streams: bool = False
    inline: bool = True
    bad_ids: bool = False
    hold: threading.Event = field(default_factory=threading.Event)
    slow_posts_s: float = 0.0
    door: threading.Event = field(default_factory=threading.Event)
    posts: list[dict[str, Any]] = field(default_factory=list)
    attachments: list[bytes] = field(default_factory=list)
    fetches: list[list[str]] = field(default_factory=list)
    places: list[str | None] = field(default_factory=list)
    keys: list[str | None] = field(default_factory=list)
    tokenized: list[dict[str, Any]] = field(default_factory=list)
    jobs: dict[str, dict[str, Any]] = field(default_factory=dict)
    events: list[dict[str, Any]] = field(default_factory=list)
    news: threading.Condition = field(default_factory=threading.Condition)
    dry: dict[str, Any] = field(default_factory=dict)
    ending: bool = False

    def __post_init__(self) -> None:
        self.hold.set()
        self.door.set()

    def happen(self, kind: str, job: str, data: dict[str, Any]) -> None:
        """One more event."""
        with self.news:
            if kind != "values":
                self.jobs[job]["state"] = kind
            self.events.append({"id": f"{len(self.events) + 1}-0", "type": kind, "job": job, "at": 1.0, "data": data})
            self.news.notify_all()

    def submitted(self, submission: dict[str, Any]) -> dict[str, Any]:
        """Take or refuse jobs; they run in a thread of their own."""
        if submission.get("dry_run"):
            return {"jobs": [{"id": job["id"], **self.dry} for job in submission["jobs"]]}
        answers = []
        before = f"{len(self.events)}-0"
        for job in submission["jobs"]:
            document = submission["documents"][job["document"]]
            error = self.refuse(document)
            if error is not None:
                answers.append({"id": job["id"], "error": error})
                continue
            if job["id"] not in self.jobs:
                self.jobs[job["id"]] = {"state": "queued", "document": document, "constants": job["constants"]}
                threading.Thread(target=self.run, args=(job["id"], document)).start()
            answers.append({"id": job["id"], "state": "queued"})
        return {"jobs": answers, "events": before}

    def run(self, job: str, document: dict[str, Any]) -> None:
        """Complete or fail a job."""
        self.hold.wait(20)
        found = self.answer(job, document)
        if "code" in found:
            self.jobs[job]["error"] = found
            self.happen("failed", job, {"error": found})
            return
        encoded = tensors.encode({name: tensors.Tensor.of(array) for name, array in found.items()})
        saves = {name: {"shape": list(array.shape), "dtype": array.dtype.name} for name, array in found.items()}
        self.jobs[job] |= {"result": encoded, "saves": saves}
        data: dict[str, Any] = {"saves": saves}
        if self.inline:
            data["result"] = base64.b64encode(encoded).decode()
        self.happen("completed", job, data)


class Handler(BaseHTTPRequestHandler):
    """One request."""

    protocol_version = "HTTP/1.1"
    gateway: Gateway

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        """Cards, events, states."""
        gateway = self.gateway
        if self.path == f"/v1/models/{gateway.card.id}":
            self.say({"card": gateway.card.model_dump(mode="json")})
        elif self.path == "/v1/events" and not gateway.no_streams:
            self.stream()
        elif self.path.startswith("/v1/jobs/") and self.path.rpartition("/")[2] in gateway.jobs:
            self.say(self.status(self.path.rpartition("/")[2]))
        elif gateway.bad_ids and self.path.startswith("/v1/jobs/"):
            self.refuse(422, "bad_argument", "the job id is no UUID")
        else:
            self.refuse(404, "not_found", f"there is no {self.path}")

    def do_DELETE(self) -> None:
        """Cancel."""
        job = self.path.rpartition("/")[2]
        self.gateway.happen("cancelled", job, {})
        self.say(self.status(job))

    def do_POST(self) -> None:
        """Submissions, results, tokens."""
        gateway = self.gateway
        body = self.rfile.read(int(self.headers["content-length"]))
        if self.path == "/v1/jobs":
            gateway.keys.append(self.headers["authorization"])
            time.sleep(gateway.slow_posts_s)
            gateway.door.wait(20)
            submission = self.submission(body)
            gateway.posts.append(submission)
            answer = gateway.submitted(submission)
            if gateway.broken_posts:
                gateway.broken_posts -= 1
                self.refuse(503, "unavailable", "not now")
                return
            refused = all("error" in job for job in answer["jobs"])
            self.say(answer, 422 if refused else 202)
        elif self.path == "/v1/results":
            self.results(json.loads(body)["jobs"])
        elif self.path == "/v1/tokenize":
            self.say({"rows": self.tokenized(json.loads(body))})
        elif self.path == "/v1/detokenize":
            rows = json.loads(body)["ids"]
            self.say({"rows": [{"text": "".join(map(chr, ids)), "pieces": [*map(chr, ids)]} for ids in rows]})
        else:
            self.refuse(404, "not_found", f"there is no {self.path}")

    def tokenized(self, body: dict[str, Any]) -> list[dict[str, Any]]:
        """A token per letter; messages are their contents, an answer is begun by ``>``."""
        self.gateway.tokenized.append(body)
        begun = ">" if (body.get("chat") or {}).get("add_generation_prompt", True) else ""
        chats = ["".join(one["content"] for one in chat) + begun for chat in body.get("messages") or ()]
        return [
            {
                "ids": [ord(one) for one in text],
                "pieces": list(text),
                "offsets": [[at, at + 1] for at in range(len(text))],
                "text": text,
            }
            for text in chats or body["text"]
        ]

    def submission(self, body: bytes) -> dict[str, Any]:
        """The JSON of a submission, whose tensors are set aside."""
        kind = self.headers["content-type"]
        if kind == "application/json":
            found: dict[str, Any] = json.loads(body)
            return found
        message = BytesParser().parsebytes(f"Content-Type: {kind}\r\n\r\n".encode() + body)
        parts = {
            part.get_param("name", header="content-disposition"): part.get_payload(decode=True)
            for part in message.get_payload()
        }  # type: ignore[union-attr]
        self.gateway.attachments.append(parts["attachment"])  # type: ignore[arg-type]
        return dict(json.loads(parts["submission"]))  # type: ignore[arg-type]

    def stream(self) -> None:
        """Events from the asked place on."""
        gateway = self.gateway
        place = self.headers["last-event-id"]
        gateway.places.append(place)
        at = len(gateway.events) if place is None else int(place.partition("-")[0])
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("connection", "close")
        self.end_headers()
        self.wfile.write(f"retry: 1000\nid: {at}-0\n\n".encode())
        while not gateway.ending:
            with gateway.news:
                if len(gateway.events) <= at and not gateway.ending:
                    gateway.news.wait(0.2)
                found = gateway.events[at:]
            for event in found:
                at += 1
                self.wfile.write(f"id: {event['id']}\nevent: {event['type']}\ndata: {json.dumps(event)}\n\n".encode())
                if gateway.cut_streams:
                    gateway.cut_streams -= 1
                    return
        self.close_connection = True

    def results(self, jobs: list[str]) -> None:
        """Framed results."""
        self.gateway.fetches.append(jobs)
        body = b""
        for job in jobs:
            found = self.gateway.jobs[job]
            result = found.get("result", b"")
            header = {"id": job, "size": len(result), "saves": found.get("saves", {})}
            if not result:
                header["error"] = {"code": "expired", "detail": "gone"}
            text = json.dumps(header).encode()
            body += struct.pack("<I", len(text)) + text + result
        self.say_bytes(body, "application/octet-stream", 200)

    def status(self, job: str) -> dict[str, Any]:
        """How a job is."""
        found = self.gateway.jobs[job]
        status = {"id": job, "model": self.gateway.card.id, "state": found["state"], "timings": {"submitted": 1.0}}
        return status | {key: found[key] for key in ("saves", "error") if key in found}

    def refuse(self, status: int, code: str, detail: str) -> None:
        """A problem."""
        self.say_bytes(
            json.dumps({"code": code, "detail": detail, "status": status}).encode(), "application/problem+json", status
        )

    def say(self, found: dict[str, Any], status: int = 200) -> None:
        """JSON."""
        self.say_bytes(json.dumps(found).encode(), "application/json", status)

    def say_bytes(self, body: bytes, kind: str, status: int) -> None:
        """An answer."""
        self.send_response(status)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


class Server(ThreadingHTTPServer):
    """Threads that do not outlive the test."""

    daemon_threads = True
    block_on_close = False

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no error here."""


@contextmanager
def serving(gateway: Gateway) -> Iterator[str]:
    """The gateway on a free port; gives its address."""
    handler = type("Bound", (Handler,), {"gateway": gateway})
    server = Server(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        gateway.ending = True
        with gateway.news:
            gateway.news.notify_all()
        server.shutdown()
        server.server_close()
        thread.join(5)
