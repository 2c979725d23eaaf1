"""The application as a whole: its calls, their documentation, and what it does when built."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import jsonschema
import pytest

from telepatch_protocol.jobs import Submission
from telepatch_server.app import create_app
from telepatch_server.settings import Settings

DOCS = Path(__file__).parents[2] / "docs" / "http.md"


def calls(schema: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for path, methods in schema["paths"].items():
        for method, about in methods.items():
            yield f"{method.upper()} {path}", about


@pytest.fixture(scope="module")
def schema() -> dict[str, Any]:
    return create_app(Settings()).openapi()


def test_the_documentation_lists_exactly_the_calls_there_are(schema: dict[str, Any]) -> None:
    documented = re.findall(r"^\| `([A-Z]+ /[^`?]*)` \|", DOCS.read_text(), flags=re.MULTILINE)
    assert sorted(documented) == sorted(name for name, _ in calls(schema))


def test_openapi_is_served_and_every_reference_in_it_leads_somewhere(http: httpx.Client) -> None:
    found = http.get("/openapi.json").json()
    text = json.dumps(found)
    for name in re.findall(r'"#/components/schemas/([^"]+)"', text):
        assert name in found["components"]["schemas"], name
    assert "#/$defs" not in text
    assert "HTTPValidationError" not in text
    assert http.get("/docs").status_code == 200


def test_every_call_says_what_it_does_and_how_it_fails(schema: dict[str, Any]) -> None:
    for name, about in calls(schema):
        assert about["description"], name
        assert about["responses"], name
        if name.split()[1].startswith("/v1"):
            assert about["security"], name
            assert "application/problem+json" in about["responses"]["401"]["content"], name


def test_answers_are_what_openapi_says(
    http: httpx.Client, worker: Any, graph: Callable[..., dict[str, Any]], submit: Callable[..., dict[str, Any]]
) -> None:
    schema = http.get("/openapi.json").json()

    def check(answer: httpx.Response, path: str) -> None:
        method = answer.request.method.lower()
        content = schema["paths"][path][method]["responses"][str(answer.status_code)]["content"]
        found = content[answer.headers["content-type"]]["schema"]
        jsonschema.validate(answer.json(), found | {"components": schema["components"]})

    body = submit(graph(), graph(saves={}))
    done = http.post("/v1/jobs?wait=10", json=body)
    check(done, "/v1/jobs")
    id = done.json()["jobs"][0]["id"]
    check(http.post("/v1/jobs", json=submit(graph(saves={}))), "/v1/jobs")
    check(http.post("/v1/jobs", content=b"["), "/v1/jobs")
    check(http.get(f"/v1/jobs/{id}"), "/v1/jobs/{id}")
    check(http.get("/v1/jobs"), "/v1/jobs")
    check(http.get("/v1/models"), "/v1/models")
    check(http.get("/v1/models/tiny"), "/v1/models/{id}")
    check(http.get("/v1/models/none"), "/v1/models/{id}")
    check(http.get("/v1/me"), "/v1/me")
    digest = hashlib.sha256(b"x" * 9).hexdigest()
    begun = http.put(f"/v1/data/{digest}", headers={"Content-Range": "bytes */9"})
    check(begun, "/v1/data/{sha256}")
    check(http.put(f"/v1/data/{digest}", content=b"x" * 9), "/v1/data/{sha256}")
    check(http.get(f"/v1/data/{digest}"), "/v1/data/{sha256}")
    check(http.get("/v1/data"), "/v1/data")
    edit = {"protocol": [1, 1], "model": {"id": "tiny"}, "nodes": []}
    edit["nodes"] = [{"kind": "set", "id": "w", "site": "blocks.1:resid_post", "value": 0}]
    check(http.put("/v1/edits/zero", json=edit), "/v1/edits/{name}")
    check(http.put("/v1/edits/zero", json=edit), "/v1/edits/{name}")
    check(http.put("/v1/edits/none", json=edit | {"nodes": []}), "/v1/edits/{name}")
    check(http.get("/v1/edits/zero"), "/v1/edits/{name}")
    check(http.get("/v1/edits"), "/v1/edits")
    check(http.post("/v1/tokenize", json={"model": "tiny", "text": "a"}), "/v1/tokenize")
    check(http.post("/v1/detokenize", json={"model": "tiny", "ids": [1]}), "/v1/detokenize")
    check(http.delete(f"/v1/jobs/{id}"), "/v1/jobs/{id}")
    jsonschema.validate(body, {"$ref": "#/components/schemas/Submission"} | {"components": schema["components"]})
    Submission.model_validate(body)


def test_importing_the_gateway_connects_to_nothing_and_reads_no_settings() -> None:
    program = (
        "import os, socket, sys\n"
        "os.environ['TELEPATCH_GATEWAY_NONSENSE'] = '1'\n"
        "def refuse(*args, **kwargs): raise SystemExit('connected')\n"
        "socket.socket.connect = refuse\n"
        "import telepatch_server.app, telepatch_server.serve\n"
        "assert 'torch' not in sys.modules and 'transformers' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", program], check=True, timeout=60)
