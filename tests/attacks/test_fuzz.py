"""Whatever comes, the gateway answers, and the answer is no fault of its own: drawn from its own description, and from
documents that were good before a few things in them were changed. The same draws every time; `make slow` draws more.
"""

from __future__ import annotations

import copy
import json
import struct
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from telepatch_protocol import data_files, tensors
from telepatch_protocol.card import ModelCard
from telepatch_protocol.check import check
from telepatch_protocol.errors import ProtocolError, TelepatchError
from telepatch_protocol.jobs import new_job_id
from telepatch_protocol.price import price
from telepatch_protocol.reading import Reader
from telepatch_server.app import create_app
from telepatch_server.settings import Settings

Strategy = st.SearchStrategy[Any]

WIRE = Path(__file__).parents[1] / "wire"
GOOD = [json.loads(file.read_text()) for version in ("1.0", "1.1") for file in sorted((WIRE / version).glob("*.json"))]
DOCUMENTS = [one for one in GOOD if "saves" in one]

ENDLESS = {("GET", "/v1/events")}
"""Calls whose answers do not end."""

NOT_NOW = 503
"""What a gateway without workers says of itself."""


def drawing(examples: int) -> Any:
    """How much is drawn, and always the same."""
    return settings(
        max_examples=examples,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )


def calls() -> Iterator[tuple[str, str]]:
    """Every call of the OpenAPI document whose answer ends."""
    for path, methods in create_app(Settings()).openapi()["paths"].items():
        yield from ((method.upper(), path) for method in methods if (method.upper(), path) not in ENDLESS)


CALLS = sorted(calls())


def asked_as_described(http: httpx.Client, method: str, path: str, examples: int) -> None:
    """Requests as the description of a call allows them, and answers that are no faults."""
    operation = schemathesis.openapi.from_dict(create_app(Settings()).openapi())[path][method]

    @drawing(examples)
    @given(case=operation.as_strategy())
    def ask(case: Any) -> None:
        given = case.as_transport_kwargs(base_url=str(http.base_url))
        given = {
            name: value
            for name, value in given.items()
            if name in ("method", "url", "params", "headers", "json", "data", "files")
        }
        body = given.pop("data", None)
        if isinstance(body, bytes | str):
            given["content"] = body
        cannot_be_sent = (httpx.InvalidURL, httpx.LocalProtocolError, UnicodeEncodeError, TypeError, AttributeError)
        with suppress(*cannot_be_sent):
            answer = http.request(**given, timeout=20)
            assert answer.status_code < 500 or answer.status_code == NOT_NOW, (given, answer.text[:500])

    ask()


@pytest.mark.parametrize(("method", "path"), CALLS)
def test_no_request_that_the_description_allows_is_a_fault(http: httpx.Client, method: str, path: str) -> None:
    asked_as_described(http, method, path, 3)


@pytest.mark.slow
@pytest.mark.parametrize(("method", "path"), CALLS)
def test_no_request_of_very_many_is_a_fault(http: httpx.Client, method: str, path: str) -> None:
    before = psutil.Process().memory_info().rss
    asked_as_described(http, method, path, 400)
    assert psutil.Process().memory_info().rss - before < 300 * 2**20, "and nothing piles up"


WORDS = [
    "$x",
    "$h",
    "$$",
    "$",
    "a",
    "",
    "blocks.1:output",
    ":",
    "::0",
    "-1:",
    "...",
    "inf",
    "nan",
    "{layer}",
    "\u202e",
    "é" * 70,
]
plain: Strategy = (
    st.none()
    | st.booleans()
    | st.sampled_from([0, 1, -1, 2**31, 2**62, -(2**63), 10**12, 1e308, -0.0, 5e-324])
    | st.sampled_from(WORDS)
    | st.sampled_from(
        [{"range": [10]}, {"tensor": "t"}, {"data": "0" * 64}, {"result": "x", "name": "h"}, {"range": [0, 9, 0]}]
    )
)
anything: Strategy = st.recursive(
    plain,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(WORDS), inner, max_size=3),
    max_leaves=12,
)


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place in a document."""
    if path:
        yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from places(inner, (*path, key))


def at(document: Any, path: tuple[Any, ...]) -> Any:
    for key in path:
        document = document[key]
    return document


@st.composite
def spoilt(draw: st.DrawFn) -> dict[str, Any]:
    """A good document in which a few things were replaced, doubled, left out, or taken from elsewhere in it."""
    document = copy.deepcopy(draw(st.sampled_from(DOCUMENTS)))
    for _ in range(draw(st.integers(1, 4))):
        known = [path for path in places(document) if path[0] not in ("protocol", "model")]
        if not known:
            break
        path = draw(st.sampled_from(known))
        where, key = at(document, path[:-1]), path[-1]
        change = draw(st.sampled_from(["replace", "elsewhere", "drop", "double"]))
        if change == "replace":
            where[key] = copy.deepcopy(draw(anything))
        elif change == "elsewhere":
            where[key] = copy.deepcopy(at(document, draw(st.sampled_from(known))))
        elif change == "drop":
            del where[key]
        elif isinstance(where, list):
            where.insert(key, copy.deepcopy(where[key]))
    return document


def checked_and_priced(card: ModelCard, examples: int) -> None:
    reader = Reader()

    @drawing(examples)
    @given(spoilt())
    def look(document: dict[str, Any]) -> None:
        with suppress(TelepatchError):
            graph = reader.from_dict(document)
            price(check(graph, card), card)

    look()


def test_documents_that_were_spoilt_are_refused_or_priced(published: ModelCard) -> None:
    checked_and_priced(published, 150)


@pytest.mark.slow
def test_very_many_documents_that_were_spoilt_are_refused_or_priced(published: ModelCard) -> None:
    checked_and_priced(published, 20_000)


def at_the_door(http: httpx.Client, examples: int) -> None:
    @drawing(examples)
    @given(spoilt(), st.sampled_from(["", "?dry_run=true"]))
    def submit(document: dict[str, Any], query: str) -> None:
        document = {**document, "model": {"id": "tiny"}}
        answer = http.post(f"/v1/jobs{query}", json={"documents": [document], "jobs": [{"id": new_job_id()}]})
        assert answer.status_code in (200, 202, 400, 404, 413, 422), (document, answer.text[:500])

    submit()


def test_documents_that_were_spoilt_are_no_fault_at_the_door(http: httpx.Client) -> None:
    at_the_door(http, 100)


@pytest.mark.slow
def test_very_many_documents_that_were_spoilt_are_no_fault_at_the_door(http: httpx.Client) -> None:
    at_the_door(http, 5_000)


entries: Strategy = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(["F32", "I64", "BF16", "U8", "BOOL", "F128", "f32", "", 3]),
        "shape": st.lists(st.sampled_from([0, 1, 2, 4, 2**31, 2**62, -1]), max_size=4) | plain,
        "data_offsets": st.lists(st.sampled_from([0, 4, 8, 16, 32, -4, 2**63, 1.0]), max_size=3) | plain,
    }
)
names: Strategy = st.sampled_from(["x", "x.lengths", "x.utf8", "y", "__metadata__", "", ".", "x" * 80])
headers: Strategy = st.dictionaries(names, entries | plain, max_size=4)


def files_are_read_or_refused(examples: int) -> None:
    @drawing(examples)
    @given(headers, st.binary(max_size=40), st.sampled_from([None, 0, 8, 2**63]))
    def read(header: dict[str, Any], body: bytes, length: int | None) -> None:
        text = json.dumps(header).encode()
        data = struct.pack("<Q", len(text) if length is None else length) + text + body
        for reader in (tensors.decode, data_files.decode):
            with suppress(ProtocolError):
                found = reader(data)
                assert sum(
                    getattr(one, "array", one.values if hasattr(one, "ends") else one).nbytes for one in found.values()
                ) <= 2 * len(data)

    read()


def test_files_of_tensors_are_read_or_refused() -> None:
    files_are_read_or_refused(200)


@pytest.mark.slow
def test_very_many_files_of_tensors_are_read_or_refused() -> None:
    files_are_read_or_refused(50_000)


def paths_are_answered(ask: Callable[..., httpx.Response], examples: int) -> None:
    parts = st.sampled_from(
        ["v1", "jobs", "data", "..", ".", "", "%2e", "%00", "models", "tiny", "result", "a" * 300, "é"]
    )

    @drawing(examples)
    @given(
        st.lists(parts, max_size=6),
        st.sampled_from(["GET", "PUT", "POST", "DELETE", "HEAD", "OPTIONS"]),
        st.binary(max_size=30),
    )
    def go(path: list[str], method: str, body: bytes) -> None:
        assert ask(method, "/" + "/".join(path), content=body).status_code < 500

    go()


def test_any_path_is_answered(http: httpx.Client) -> None:
    paths_are_answered(http.request, 60)
