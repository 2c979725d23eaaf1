"""Small requests that would be large ones: what is compressed, nested, repeated, or only says how large it is."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from telepatch_protocol import wire
from telepatch_protocol.errors import PayloadTooLarge, ProtocolError
from telepatch_protocol.jobs import new_job_id
from telepatch_protocol.printable import MOST
from telepatch_server.bodies import strict_json

Make = Callable[..., dict[str, Any]]

ZEROS = bytes(20_000_000)


@pytest.mark.parametrize(
    ("coding", "body"),
    [
        ("gzip", gzip.compress(ZEROS)),
        ("deflate", zlib.compress(ZEROS)),
        ("br", b"\x5b\xff\xff\xff" * 10),
        ("zstd", b"\x28\xb5\x2f\xfd"),
        ("gzip, gzip", gzip.compress(gzip.compress(ZEROS))),
        ("GZIP", gzip.compress(b"{}")),
    ],
)
def test_nothing_that_is_compressed_is_taken(http: httpx.Client, coding: str, body: bytes) -> None:
    digest = "ab" * 32
    headers = {"Content-Encoding": coding, "Content-Type": "application/json"}
    calls = [("POST", "/v1/jobs"), ("POST", "/v1/results"), ("POST", "/v1/tokenize"), ("PUT", "/v1/edits/e")]
    for method, path in (*calls, ("PUT", f"/v1/data/{digest}")):
        answer = http.request(method, path, content=body, headers=headers)
        assert answer.status_code == 415, path
        assert "Content-Encoding" in answer.json()["detail"]
    assert http.get("/v1/data").json()["bytes"] in (0, len(body))
    assert http.post("/v1/tokenize", json={"model": "tiny", "text": "a"}, headers={"Content-Encoding": "identity"})


def test_a_part_that_says_it_is_compressed_is_read_as_it_is(http: httpx.Client) -> None:
    part = ("x", gzip.compress(ZEROS), "application/octet-stream", {"Content-Encoding": "gzip"})
    answer = http.post("/v1/jobs", files={"submission": (None, "{}"), "attachment": part})
    assert answer.status_code in (400, 422)


JSON_BOMBS = {
    "deep lists": b"[" * 30_000 + b"]" * 30_000,
    "deep objects": b'{"a":' * 30_000 + b"1" + b"}" * 30_000,
    "an endless list": b"[" * 1_000_000,
    "an integer of a million digits": b'{"a": ' + b"9" * 1_000_000 + b"}",
    "a negative one": b'{"a": -' + b"9" * 1_000_000 + b"}",
    "a float beyond all": b'{"a": 1e999}',
    "a float beyond all below zero": b'{"a": -1E+400}',
    "a float written with zeros in its exponent": b'{"a": 1e0000000400}',
    "a float of four hundred digits": b'{"a": ' + b"9" * 400 + b".0}",
    "an exponent of a million digits": b'{"a": 1e' + b"9" * 1_000_000 + b"}",
    "doubled keys": b'{"a": 1, "a": 2}',
    "doubled keys, spelled differently": b'{"a": 1, "\\u0061": 2}',
    "doubled keys inside": b'{"x": [{"a": 1, "a": 1}]}',
    "half of a surrogate pair": b'{"a": "\\ud800"}',
    "half of one as a key": b'{"\\udfff": 1}',
    "half of one as bytes": b'{"a": "\xed\xa0\x80"}',
    "an overlong zero": b'{"a": "\xc0\x80"}',
    "not a number": b'{"a": NaN}',
    "infinity": b'{"a": -Infinity}',
    "UTF-16": '{"a": 1}'.encode("utf-16"),
    "a mark of byte order": b"\xef\xbb\xbf{}",
    "a zero": b'{"a": "\x00"}',
    "more keys than anybody writes": json.dumps(dict.fromkeys(map(str, range(wire.MAX_KEYS + 1)))).encode(),
}


@pytest.mark.parametrize("name", JSON_BOMBS)
def test_a_json_bomb_is_refused(name: str) -> None:
    with pytest.raises(ProtocolError) as refusal:
        strict_json(JSON_BOMBS[name])
    assert len(refusal.value.record().detail) <= MOST


@pytest.mark.parametrize("name", JSON_BOMBS)
def test_a_json_bomb_at_the_door_is_a_400(http: httpx.Client, name: str) -> None:
    assert http.post("/v1/jobs", content=JSON_BOMBS[name]).status_code == 400


def test_numbers_at_the_edge_are_still_numbers() -> None:
    found = strict_json(b"[1e308, -1.7976931348623157e308, 5e-324, 1e-999, 9223372036854775807, -9223372036854775808]")
    assert found == [1e308, -1.7976931348623157e308, 5e-324, 0.0, 2**63 - 1, -(2**63)]


MANY = 200_000


@pytest.mark.parametrize(
    "body",
    [
        {"jobs": [1] * MANY, "documents": [{}]},
        {"jobs": [], "documents": [1] * MANY},
        {"jobs": [{"id": 1, "x": 2}] * MANY, "documents": [{}]},
        {"protocol": [1, 0], "model": {"id": "tiny"}, "saves": {}, "nodes": [1] * MANY},
        {"protocol": [1, 0], "model": {"id": "tiny"}, "saves": {}, "nodes": [{"kind": "set"}] * MANY},
        {"protocol": [1, 0], "model": {"id": "tiny"}, "saves": {}, "runs": [{}] * MANY},
        {"protocol": [1, 0], "model": {"id": "tiny"}, "saves": {}, "runs": [{"id": "r", "invokes": [2] * MANY}]},
    ],
    ids=["jobs", "documents", "fields of jobs", "nodes", "fields of nodes", "runs", "invokes"],
)
def test_of_very_many_mistakes_only_the_first_is_looked_at(
    body: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each mistake takes a thousand bytes: a body of 64 MB of them would take tens of gigabytes."""
    from pydantic import ValidationError

    from telepatch_protocol.graph import Graph
    from telepatch_protocol.jobs import Submission

    with pytest.raises(ValidationError) as refusal:
        (Submission if "jobs" in body else Graph).model_validate(body)
    assert refusal.value.error_count() < 10


def test_a_giant_name_comes_back_short_however_often(http: httpx.Client, graph: Make) -> None:
    name = "x" * 1_000_000
    wrong = [
        graph(nodes=[{"kind": "call", "id": "h", "op": name}]),
        graph(nodes=[{"kind": "get", "id": "h", "site": name}]),
        graph(nodes=[{"kind": "get", "id": "h", "site": f"{name}:output", "invoke": "a"}]),
        graph(nodes=[{"kind": "call", "id": "h", "op": "relu", "args": [f"${name}"]}]),
        graph(nodes=[{"kind": "call", "id": "h", "op": "relu", "args": [{"result": name, "name": name}]}]),
        graph(nodes=[{"kind": "call", "id": "h", "op": "relu", "kwargs": {}, "args": [{"data": name}]}]),
        graph(model={"id": "tiny", "revision": name}),
        graph(options={"adapter": "y" * 60}),
        graph(lines={"h": f"{name}:3"}, nodes=[{"kind": "call", "id": "h", "op": "none"}]),
    ]
    for document in wrong:
        jobs = [{"id": new_job_id()} for _ in range(3)]
        answer = http.post("/v1/jobs", json={"documents": [document], "jobs": jobs})
        assert answer.status_code in (400, 422)
        assert len(answer.content) < 3 * (MOST + 2000), document["nodes"]


def test_a_small_request_cannot_become_a_huge_queue(
    serve: Callable[..., httpx.Client], settings: Any, published: object, graph: Make
) -> None:
    """Each job keeps its own document, so a thousand jobs of one large document would be a thousand large documents."""
    small = serve(settings.model_copy(update={"gateway_documents_bytes": 1_000_000}))
    document = graph(constants={"prompt": "hello", "layer": 1, "x": "y" * 50_000})
    body = {"documents": [document], "jobs": [{"id": new_job_id()} for _ in range(100)]}
    for query in ("", "?dry_run=true"):
        answer = small.post(f"/v1/jobs{query}", json=body)
        assert (answer.status_code, answer.json()["code"]) == (413, "payload_too_large")
        assert "1,000,000 bytes" in answer.json()["detail"]
    assert small.get("/v1/jobs").json()["jobs"] == []
    fine = {"documents": [document], "jobs": body["jobs"][:10]}
    assert small.post("/v1/jobs", json=fine).status_code == 202


def test_attachments_that_overlap_count_as_often_as_they_are_stored(graph: Make, published: Any) -> None:
    import numpy as np

    from telepatch_protocol.tensors import Tensor, encode
    from telepatch_server.admission import Admission
    from telepatch_server.submission import Attached, Received

    tensors = {f"t{at}": Tensor.of(np.zeros(100)) for at in range(20)} | {"big": Tensor.of(np.zeros(100_000))}
    received = Received(None, Attached.of(encode(tensors)), most=3_000_000)  # type: ignore[arg-type]
    admission = Admission(received, "ada", {}, {}, {})
    with pytest.raises(PayloadTooLarge):
        for at in range(20):
            admission._attachment(frozenset({"big", f"t{at}"}))


def repeated(depth: int, n: int) -> dict[str, Any]:
    """A repeat in a repeat in a repeat."""
    body: dict[str, Any] = {
        "nodes": [{"kind": "call", "id": "x0", "op": "mul", "args": ["$c0", 1.0]}],
        "out": {"c0": "$x0"},
    }
    for at in range(depth):
        outer = f"c{at + 1}"
        node = {"kind": "repeat", "id": f"r{at}", "n": n, "carry": {f"c{at}": f"${outer}"}, "body": body}
        body = {"nodes": [node], "out": {outer: f"$r{at}.c{at}"}}
    return body["nodes"][0]


def vast_maps(depth: int) -> dict[str, Any]:
    """A map over ten million elements, as a grid of grids."""
    body: dict[str, Any] = {"nodes": [{"kind": "call", "id": "x", "op": "relu", "args": [1.0]}], "out": {"y": "$x"}}
    for at in range(depth):
        over = {f"e{at}_{axis}": {"range": [1000]} for axis in range(3)}
        node = {"kind": "map", "id": f"m{at}", "over": over, "grid": True, "body": body}
        body = {"nodes": [node], "out": {"y": f"$m{at}.y"}}
    return body["nodes"][0]


def refusal(http: httpx.Client, document: dict[str, Any]) -> dict[str, Any]:
    """Why a document is refused at the door."""
    answer = http.post("/v1/jobs", json={"documents": [document], "jobs": [{"id": new_job_id()}]})
    assert answer.status_code == 422, answer.text[:500]
    error: dict[str, Any] = answer.json()["jobs"][0]["error"] if "jobs" in answer.json() else answer.json()
    return error


@pytest.mark.parametrize("depth", [3, 7])
def test_billions_of_nodes_by_loops_in_loops_are_priced_and_refused(
    http: httpx.Client, graph: Make, depth: int
) -> None:
    nodes = [graph()["nodes"][0], repeated(depth, 10**9)]
    nodes[1]["carry"] = {f"c{depth - 1}": "$h"}
    assert refusal(http, graph(nodes=nodes))["code"] in ("too_large", "bad_argument")


@pytest.mark.parametrize("depth", [1, 2, 4])
def test_maps_of_maps_over_grids_are_refused(http: httpx.Client, graph: Make, depth: int) -> None:
    error = refusal(http, graph(nodes=[graph()["nodes"][0], vast_maps(depth)]))
    assert error["code"] in ("too_large", "bad_argument")


def test_sub_graphs_nest_only_so_deep(http: httpx.Client, graph: Make) -> None:
    nodes = [graph()["nodes"][0], repeated(30, 1)]
    nodes[1]["carry"] = {"c29": "$h"}
    assert refusal(http, graph(nodes=nodes))["code"] in ("too_large", "bad_argument", "protocol_error")


T = 10**12
GIANTS = [
    ("zeros", [[T]], {}),
    ("ones", [[T, T]], {}),
    ("zeros", [[2**62] * 30], {}),
    ("full", [[T], 1.0], {}),
    ("arange", [T], {}),
    ("arange", [0, 1e300, 1e-300], {}),
    ("arange", [0.0, 1.0, 5e-324], {}),
    ("linspace", [0, 1, T], {}),
    ("logspace", [0, 1, T], {}),
    ("eye", [10**7], {}),
    ("rand", [[T]], {"key": 1}),
    ("randn", [[T]], {"key": 1}),
    ("randperm", [T], {"key": 1}),
    ("tril_indices", [10**7, 10**7], {}),
    ("expand", ["$h", [T, 8]], {}),
    ("broadcast_to", ["$h", [T, 8]], {}),
    ("repeat", ["$h", [T, T]], {}),
    ("tile", ["$h", [T, 1]], {}),
    ("repeat_interleave", ["$h", T], {}),
    ("one_hot", ["$i", T], {}),
    ("pad", ["$h", [0, T]], {}),
    ("bincount", ["$i", None, T], {}),
    ("combinations", ["$i", 40], {}),
    ("unfold", ["$h", 1, 1, 1], {}),
    ("cartesian_prod", [["$w"] * 8], {}),
    ("meshgrid", [["$w"] * 12], {}),
    ("kron", ["$k", "$k"], {}),
    ("outer", ["$w", "$w"], {}),
    ("einsum", ["a,b,c,d,e->abcde", ["$w"] * 5], {}),
    ("cdist", ["$k", "$k"], {}),
    ("diag_embed", ["$k"], {}),
    ("block_diag", [["$k"] * 200], {}),
    ("isin", ["$k", "$k"], {}),
    ("matrix_power", ["$q", 10**15], {}),
    ("diff", ["$w", 10**9], {}),
    ("multinomial", ["$p", 10**12, True], {"key": 1}),
    ("interpolate", ["$k"], {"size": T}),
    ("vander", ["$w", T], {}),
    ("stack", [["$k"] * 4000], {}),
    ("cat", [["$k"] * 4000], {}),
]
"""Operations that make very much of very little."""


@pytest.mark.parametrize(("op", "args", "kwargs"), GIANTS, ids=[f"{at}-{one[0]}" for at, one in enumerate(GIANTS)])
def test_an_operation_that_makes_a_giant_is_refused_before_it_is_queued(
    http: httpx.Client, graph: Make, op: str, args: list[Any], kwargs: dict[str, Any]
) -> None:
    made = [
        graph()["nodes"][0],
        {"kind": "call", "id": "i", "op": "arange", "args": [1000]},
        {"kind": "call", "id": "w", "op": "arange", "args": [0.0, 1e6, 1.0]},
        {"kind": "call", "id": "k", "op": "zeros", "args": [[1000, 1000]]},
        {"kind": "call", "id": "q", "op": "zeros", "args": [[30, 30]]},
        {"kind": "call", "id": "p", "op": "ones", "args": [[10]]},
    ]
    node = {"kind": "call", "id": "g", "op": op, "args": args, "kwargs": kwargs}
    tail = {"kind": "call", "id": "s", "op": "sum", "args": ["$g"]}
    for nodes, saved in (([*made, node], "$g"), ([*made, node, tail], "$s")):
        error = refusal(http, graph(nodes=nodes, saves={"g": saved}))
        assert error["code"] not in ("telepatch_error", "service_error")


@pytest.mark.parametrize(
    "constant",
    [
        {"range": [T]},
        {"range": [0, T, 1]},
        {"range": [-(2**63), 2**63 - 1]},
        {"range": [0, 10, 0]},
        {"range": [T, 0, -1]},
    ],
)
def test_a_range_that_is_vast_is_refused(http: httpx.Client, graph: Make, constant: dict[str, Any]) -> None:
    for use in (
        {"kind": "call", "id": "x", "op": "sum", "args": ["$c"]},
        {"kind": "map", "id": "x", "over": {"e": "$c"}, "body": {"out": {"y": "$e"}}},
        {"kind": "get", "id": "x", "site": "blocks.1:resid_post", "index": [":", "$c"]},
    ):
        document = graph(constants={"prompt": "hi", "layer": 1, "c": constant}, nodes=[use], saves={"x": "$x"})
        assert refusal(http, document)["code"] in ("too_large", "bad_argument", "protocol_error", "unknown_name")


def test_cycles_are_refused_and_named(http: httpx.Client, graph: Make) -> None:
    def call(id: str, *args: str) -> dict[str, Any]:
        return {"kind": "call", "id": id, "op": "relu", "args": list(args)}

    ring = [call(f"n{at}", f"$n{(at + 1) % 500}") for at in range(500)]
    cases = [
        [call("x", "$x")],
        [call("x", "$y"), call("y", "$x")],
        ring,
        [{"kind": "repeat", "id": "x", "n": 2, "carry": {"c": "$x.c"}, "body": {"out": {"c": "$c"}}}],
        [{"kind": "cond", "id": "x", "if": "$x", "then": 1, "else": 2}],
        [{"kind": "map", "id": "x", "over": {"e": "$x.y"}, "body": {"out": {"y": "$e"}}}],
        [{"kind": "get", "id": "x", "site": "blocks.{x}:resid_post", "invoke": "a"}],
        [{"kind": "get", "id": "x", "site": "blocks.1:resid_post", "index": ["$x"]}],
    ]
    for nodes in cases:
        document = graph(nodes=nodes, saves={"x": f"${nodes[0]['id']}"})
        assert refusal(http, document)["code"] in ("bad_argument", "causal_loop", "unknown_name")
    first, second = new_job_id(), new_job_id()

    def waits_for(other: str) -> dict[str, Any]:
        form = {"result": other, "name": "h"}
        return graph(constants={"r": form, "prompt": "a", "layer": 1}, nodes=[call("h", "$r")], lines={})

    jobs = [{"id": first, "document": 0}, {"id": second, "document": 1}]
    answer = http.post("/v1/jobs", json={"documents": [waits_for(second), waits_for(first)], "jobs": jobs})
    assert {one["error"]["code"] for one in answer.json()["jobs"]} <= {"causal_loop", "dependency_failed"}


def test_a_chain_as_long_as_a_graph_may_be_is_no_recursion(graph: Make) -> None:
    nodes = [{"kind": "call", "id": "n0", "op": "zeros", "args": [[2]]}]
    nodes += [{"kind": "call", "id": f"n{at}", "op": "relu", "args": [f"$n{at - 1}"]} for at in range(1, 19_000)]
    from telepatch_protocol.order import in_order

    found = wire.from_dict(graph(nodes=nodes[::-1], saves={"x": "$n18999"}))
    assert [node.id for node in in_order(found.nodes)][:2] == ["n0", "n1"]


@pytest.mark.parametrize("depth", [33, 90])
def test_arguments_nest_only_so_deep(http: httpx.Client, graph: Make, depth: int) -> None:
    nested: Any = 1.0
    for _ in range(depth):
        nested = [nested]
    for node in (
        {"kind": "call", "id": "x", "op": "sum", "args": [nested]},
        {"kind": "set", "id": "x", "site": "blocks.1:resid_post", "value": nested},
        {"kind": "get", "id": "x", "site": "blocks.1:resid_post", "index": [nested]},
    ):
        refusal(http, graph(nodes=[graph()["nodes"][0], node]))
    constants = {"prompt": "hi", "layer": 1, "c": nested}
    node = {"kind": "call", "id": "x", "op": "sum", "args": ["$c"]}
    answer = http.post("/v1/jobs", json=graph(constants=constants, nodes=[node], saves={"x": "$x"}))
    assert answer.status_code in (202, 400, 422)
