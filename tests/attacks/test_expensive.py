"""Requests that are small and would keep the gateway busy: what it takes grows with what was sent, and no faster."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from tests.server.conftest import byte_tokenizer, document, model_card

from telepatch_broker import blobs, events, keys
from telepatch_protocol import indexing, refs, sites, wire
from telepatch_protocol.card import Limits, ModelCard
from telepatch_protocol.check import check
from telepatch_protocol.errors import TelepatchError
from telepatch_protocol.price import price
from telepatch_server.prompts import check_ids, tokens_of
from telepatch_server.ranges import part_of
from telepatch_server.routes.data import place_of
from telepatch_server.uses import uses_of

FEW, TIMES = 100, 8
FAR_FROM_SQUARED = 30
"""Eight times as much may take so many times as long: 8 if it is linear, 64 if it is quadratic."""

CARD: ModelCard = model_card(byte_tokenizer()).model_copy(
    update={"limits": Limits(max_positions=64, max_rows=100_000, max_nodes=100_000, max_passes=100_000)}
)


def call(id: str, op: str, *args: Any) -> dict[str, Any]:
    return {"kind": "call", "id": id, "op": op, "args": list(args)}


def read(id: str, layer: int = 1, **more: Any) -> dict[str, Any]:
    return {"kind": "get", "id": id, "site": f"blocks.{layer}:resid_post", "invoke": "a", **more}


def write(id: str, value: Any = 0) -> dict[str, Any]:
    return {"kind": "set", "id": id, "site": "blocks.1:resid_post", "invoke": "a", "value": value}


def chain(n: int) -> dict[str, Any]:
    nodes = [read("n0"), *(call(f"n{at}", "relu", f"$n{at - 1}") for at in range(1, n))]
    return document(nodes=nodes[::-1], saves={"x": f"$n{n - 1}"}, lines={})


def fan(n: int) -> dict[str, Any]:
    nodes = [read("h"), *(call(f"n{at}", "relu", "$h") for at in range(n))]
    return document(nodes=[*nodes, call("s", "stack", [f"$n{at}" for at in range(n)])], saves={"x": "$s"}, lines={})


def reads(n: int) -> dict[str, Any]:
    return document(nodes=[read(f"n{at}", at % 4) for at in range(n)], saves={f"x{at}": f"$n{at}" for at in range(n)})


def writes(n: int) -> dict[str, Any]:
    return document(nodes=[*(write(f"w{at}", at) for at in range(n)), read("h")], saves={"x": "$h"}, lines={})


def in_turns(n: int) -> dict[str, Any]:
    nodes = [one for at in range(n) for one in (read(f"g{at}"), write(f"w{at}", f"$g{at}"))]
    return document(nodes=nodes, saves={"x": "$g0"}, lines={})


def many_runs(n: int) -> dict[str, Any]:
    runs = [{"id": f"r{at}", "invokes": [{"id": f"i{at}", "ids": [1, 2]}]} for at in range(n)]
    nodes = [read(f"n{at}", invoke=f"i{at}") for at in range(n)]
    return document(runs=runs, nodes=nodes, saves={f"x{at}": f"$n{at}" for at in range(n)}, lines={})


def waiting_runs(n: int) -> dict[str, Any]:
    """Each run waits for a value at the very end of a chain."""
    first = {"id": "r", "invokes": [{"id": "a", "ids": [1]}]}
    late = [{"id": f"r{at}", "invokes": [{"id": f"i{at}", "ids": f"$n{n - 1}"}]} for at in range(n)]
    nodes = [call("n0", "ones", [1, 1])] + [call(f"n{at}", "relu", f"$n{at - 1}") for at in range(1, n)]
    nodes[-1] = {**call(f"n{n - 1}", "to", f"$n{n - 2}"), "kwargs": {"dtype": "int64"}}
    nodes += [read(f"g{at}", invoke=f"i{at}") for at in range(n)]
    return document(runs=[first, *late], nodes=nodes, saves={"x": "$g0"}, lines={})


def many_invokes(n: int) -> dict[str, Any]:
    invokes = [{"id": f"i{at}", "text": f"hello {at}"} for at in range(n)]
    nodes = [read(f"n{at}", invoke=f"i{at}") for at in range(n)]
    return document(runs=[{"id": "r", "invokes": invokes}], nodes=nodes, saves={"x": "$n0"}, lines={})


def many_constants(n: int) -> dict[str, Any]:
    constants = {"prompt": "a", "layer": 1} | {f"c{at}": at for at in range(n)}
    nodes = [read("h"), *(call(f"n{at}", "add", "$h", f"$c{at}") for at in range(n))]
    return document(constants=constants, nodes=nodes, saves={"x": "$n0"}, lines={})


def unknown_names(n: int) -> dict[str, Any]:
    return document(nodes=[read(f"n{at}") for at in range(n)] + [call("z", "relu", "$missing")], saves={"x": "$z"})


def doubled_ids(n: int) -> dict[str, Any]:
    return document(nodes=[*(read(f"n{at}") for at in range(n)), read(f"n{n - 1}")], saves={"x": "$n0"})


def long_literals(n: int) -> dict[str, Any]:
    return document(nodes=[read("h"), call("x", "add", [[0.5] * n] * 8, 1)], saves={"x": "$x"}, lines={})


def long_indices(n: int) -> dict[str, Any]:
    return document(nodes=[read("h", index=[":", [0] * n])], saves={"x": "$h"}, lines={})


def wide_maps(n: int) -> dict[str, Any]:
    """As many kinds of elements as there are elements."""
    body = {"runs": [{"id": "q", "invokes": [{"id": "b", "text": "$e"}]}]}
    body |= {"nodes": [{**read("g"), "invoke": "b", "index": [":", -1]}], "out": {"y": "$g"}}
    node = {"kind": "map", "id": "m", "over": {"e": ["x" * (1 + at % 60) for at in range(n)]}, "body": body}
    return document(runs=[], nodes=[node], saves={"x": "$m.y"}, constants={}, lines={})


def logs(n: int) -> dict[str, Any]:
    nodes = [read("h", index=[0, 0, 0]), *({"kind": "log", "id": f"l{at}", "values": {"v": "$h"}} for at in range(n))]
    return document(nodes=nodes, saves={"x": "$h"}, lines={})


def gradients(n: int) -> dict[str, Any]:
    nodes = [read("h"), call("s", "sum", "$h")]
    nodes += [{"kind": "grad", "id": f"g{at}", "of": "$s", "wrt": ["$h"]} for at in range(n)]
    return document(nodes=nodes, saves={"x": "$g0.0"}, lines={})


SHAPES = [
    *(chain, fan, reads, writes, in_turns, many_runs, waiting_runs, many_invokes, many_constants, unknown_names),
    *(doubled_ids, long_literals, long_indices, wide_maps, logs, gradients),
]


class Tokenizing:
    """What `tokens_of` needs of a model."""

    def __init__(self) -> None:
        from telepatch_server.words import Words

        self.card = CARD
        self._words = Words(byte_tokenizer())

    def tokenizer(self) -> Any:
        return self._words


def whole_door(found: dict[str, Any]) -> None:
    """All that a document goes through before it is queued."""
    with suppress(TelepatchError):
        graph = wire.from_dict(found)
        uses_of(graph)
        tokens = tokens_of(graph, Tokenizing())  # type: ignore[arg-type]
        check_ids(graph, CARD, {})
        price(check(graph, CARD, lengths={text: len(ids) for text, ids in tokens.items()}), CARD)


def seconds(work: Callable[[], object]) -> float:
    """The shortest of three tries, without pauses of the collector."""
    found = []
    gc.collect()
    gc.disable()
    try:
        for _ in range(3):
            begun = time.thread_time()
            work()
            found.append(time.thread_time() - begun)
    finally:
        gc.enable()
    return min(found)


def growth(make: Callable[[int], Any], work: Callable[[Any], object], few: int) -> float:
    """How many times as long it takes with so many times as much."""
    small, large = make(few), make(few * TIMES)
    work(small)
    return seconds(lambda: work(large)) / max(seconds(lambda: work(small)), 1e-4)


@pytest.mark.parametrize("make", SHAPES, ids=lambda make: make.__name__)
def test_a_document_takes_time_by_its_size_and_not_by_its_square(make: Callable[[int], dict[str, Any]]) -> None:
    assert growth(make, whole_door, FEW) < FAR_FROM_SQUARED


def fails(read: Callable[..., object], *given: Any) -> None:
    with suppress(TelepatchError, ValueError):
        read(*given)


TEXTS: dict[str, tuple[Callable[[str], object], Callable[[int], str]]] = {
    "a site of dots": (sites.parse, lambda n: "a." * n + ":output"),
    "a site of colons": (sites.parse, lambda n: ":" * n),
    "a site of braces": (sites.parse, lambda n: "{" * n + ":output"),
    "a site of spaces": (sites.parse, lambda n: " " * n + "x:output"),
    "a site whose leaf goes on": (sites.parse, lambda n: "x:outputs." + "0." * n),
    "a reference": (refs.parse, lambda n: "$" + "a" * n + "!"),
    "a reference of dots": (refs.parse, lambda n: "$a" + ".0" * n + "!"),
    "a slice of digits": (lambda text: indexing.parse([text], lambda ref: 1), lambda n: "1" * n + ":"),
    "a slice of colons": (lambda text: indexing.parse([text], lambda ref: 1), lambda n: ":" * n),
    "a slice of references": (lambda text: indexing.parse([text], lambda ref: 1), lambda n: "$a." * n + ":"),
    "a blob": (blobs.check_name, lambda n: "a" * n + "/"),
    "a name": (lambda text: keys.check_name("model", text), lambda n: "a" * n),
    "an id": (keys.check_id, lambda n: "0123abcd-" * n),
    "a place": (events.check_place, lambda n: "1" * n + "-" + "1" * n),
    "a range of bytes": (lambda text: part_of(text, 10), lambda n: " " * n + "bytes=" + "1" * n),
    "a range of spaces": (lambda text: part_of(text, 10), lambda n: "bytes" + " " * n + "x"),
    "a part of an upload": (lambda text: place_of({"content-range": text}), lambda n: " " * n + "bytes 0-" + " " * n),
    "digits": (wire.read_json, lambda n: "[" + "1" * n + "]"),
    "digits behind the point": (wire.read_json, lambda n: "[0." + "1" * n + "]"),
    "digits of an exponent": (wire.read_json, lambda n: "[1e-" + "1" * n + "]"),
    "escapes": (wire.read_json, lambda n: '"' + "\\ud83d\\ude00" * n + '"'),
    "brackets": (wire.read_json, lambda n: "[" * n),
    "brackets in a row": (wire.read_json, lambda n: "[" + "[]," * n + "[]]"),
}


@pytest.mark.parametrize("name", TEXTS)
def test_a_text_is_read_once_and_not_over_and_over(name: str) -> None:
    read, make = TEXTS[name]
    assert growth(make, lambda text: fails(read, text), 4_000) < FAR_FROM_SQUARED


@pytest.mark.parametrize("op", ["einsum", "flatten", "unknown" * 10])
def test_an_equation_or_name_that_is_long_is_refused_quickly(op: str) -> None:
    def make(n: int) -> dict[str, Any]:
        return document(
            nodes=[read("h"), call("x", op, ",".join(["abc"] * n), ["$h"] * n)], saves={"x": "$x"}, lines={}
        )

    assert growth(make, whole_door, FEW) < FAR_FROM_SQUARED
