"""Names that look like others, and texts that a terminal or a log would obey."""

from __future__ import annotations

import io
import json
import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
import structlog

from telepatch.cli.app import run
from telepatch.shown import Shown, printed
from telepatch_broker import logs
from telepatch_broker.connection import connect
from telepatch_broker.people import People
from telepatch_broker.registry import Registry, WorkerInfo
from telepatch_protocol.card import ModelCard
from telepatch_protocol.errors import BadArgument, ErrorRecord, ExecutionError, from_record
from telepatch_protocol.jobs import new_job_id
from telepatch_protocol.printable import printable

Make = Callable[..., dict[str, Any]]

EVIL = "a\x1b[2J\x1b]0;owned\x07b\rc\x08d\x9b31me\u202egnp.exe\u2066f\x00g\u200bh\x7f"
"""Clears the screen, renames the window, goes back over what was written, and turns text round."""

OBEYED = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b\u202a-\u202e\u2066-\u2069]")
"""What no terminal should get from somebody else."""


@pytest.mark.parametrize(
    "name",
    [
        *(
            "blоcks.1",
            "ｂlocks.1",
            "blocks.１",
            "blocks.١",
            "blocks․1",
            "bloc\u212as.1",
            "blocks.1\u200b",
            "\u202e1.skcolb",
        ),
        *(
            "blocks.\u00b9",
            "BLOCKS.1",
            "blocks.1\u0301",
            "ﬂocks.1",
            "blocks.+1",
            "blocks.01",
            "blocks. 1",
            "blocks.1e0",
        ),
    ],
)
def test_a_site_that_looks_like_another_is_none(http: httpx.Client, graph: Make, name: str) -> None:
    """Nothing is normalised: what is not spelled as the card spells it is not there."""
    node = {"kind": "get", "id": "h", "site": f"{name}:resid_post", "invoke": "a"}
    answer = http.post("/v1/jobs", json={"documents": [graph(nodes=[node])], "jobs": [{"id": new_job_id()}]})
    assert answer.status_code == 422
    assert answer.json()["jobs"][0]["error"]["code"] in ("unknown_site", "bad_argument")


@pytest.mark.parametrize(
    "id",
    [
        "а",
        "ｈ",
        "h\u0301",
        "ℎ",
        "h\u200b",
        "é",
        "1h",
        "h ",
        "h\n",
        "",
        "$h",
        "h.x",
        "h" * 65,
        "__proto__ ",
        "class\x00",
    ],
)
def test_ids_are_plain_identifiers(http: httpx.Client, graph: Make, id: str) -> None:
    node = {"kind": "get", "id": id, "site": "blocks.1:resid_post", "invoke": "a"}
    for document in (
        graph(nodes=[node], saves={"x": f"${id}"}),
        graph(saves={id: "$h"}),
        graph(constants={id: 1, "layer": 1}),
    ):
        answer = http.post("/v1/jobs", json={"documents": [document], "jobs": [{"id": new_job_id()}]})
        assert answer.status_code == 422


@pytest.mark.parametrize(
    "name",
    [
        "аda",
        "ａda",
        "ada\u200b",
        "Ada ",
        "ada\n",
        "ada\x1b[1m",
        "\u202eada",
        "ad\u0430",
        "../ada",
        "",
        "ada:bob",
        "a" * 65,
        "-a",
    ],
)
async def test_no_key_is_made_for_a_name_that_looks_like_another(redis_url: str, name: str) -> None:
    client = connect(redis_url)
    people = People(client)
    await people.add("ada")
    with pytest.raises(BadArgument) as refusal:
        await people.add(name)
    assert not OBEYED.search(str(refusal.value))
    assert await people.names() == ["ada"]
    await client.aclose()


@pytest.mark.parametrize(
    "name", ["gpt\u202e2", "gpt\u200b2", "gpt\x9b2", "gpt\x7f", "gpt 2", "gpt{2}", "gpt\x1b", "\u2066", "\xad"]
)
async def test_no_model_and_no_worker_is_named_by_what_cannot_be_seen(
    redis_url: str, published: ModelCard, name: str
) -> None:
    client = connect(redis_url)
    registry = Registry(client)
    with pytest.raises(BadArgument):
        await registry.publish(published.model_copy(update={"id": name, "tokenizer": None}), None)
    with pytest.raises(BadArgument):
        await registry.heartbeat(WorkerInfo(id=name, model="m", host="h", pid=1, device="cpu", started=0.0))
    await client.aclose()


def test_an_error_spells_out_what_a_terminal_would_obey() -> None:
    error = from_record(ErrorRecord(code="execution_error", detail=EVIL, node="h", file=f"{EVIL}.py", line=3))
    assert not OBEYED.search(str(error))
    assert "\\x1b[2J" in str(error)
    assert error.detail == EVIL, "what was said is still there for programs"
    many = from_record(ErrorRecord(code="bad_argument", detail="first\n\tsecond"))
    assert str(many) == "first\n\tsecond"


def hostile(publish: Callable[..., None], card: ModelCard) -> None:
    """A model whose worker has a sense of humour."""
    publish(
        card.model_copy(update={"id": "evil", "tokenizer": None, "title": f"[red]{EVIL}[/red] [/nope] [link=x]"}), None
    )


def test_the_status_of_a_service_obeys_nothing_that_others_wrote(
    http: httpx.Client, publish: Any, published: ModelCard, worker: Any, graph: Make, submit: Make, capsys: Any
) -> None:
    hostile(publish, published)
    worker.behave = lambda job: ExecutionError(f"{EVIL}[bold]")
    http.post("/v1/jobs?wait=10", json=submit(graph()))
    assert run(["status", "--url", str(http.base_url), "--jobs", "5"]) in (0, 3)
    shown = capsys.readouterr().out
    assert not OBEYED.search(shown.replace("\n", ""))
    assert "[red]" in shown.replace("\n", ""), "markup of others is text"


def test_a_graph_of_somebody_else_that_is_run_here_obeys_nothing(
    http: httpx.Client, graph: Make, worker: Any, tmp_path: Path, capsys: Any
) -> None:
    file = tmp_path / "graph.json"
    worker.behave = lambda job: ExecutionError(EVIL)
    documents = [
        graph(lines={"h": f"{EVIL}.py:3"}),
        graph(nodes=[{"kind": "call", "id": "h", "op": EVIL.replace("\x00", "")}], lines={"h": f"{EVIL}.py:3"}),
        graph(model={"id": EVIL}),
        graph(options={"adapter": EVIL}),
        graph(saves={EVIL: "$h"}),
        graph(nodes=[{"kind": "get", "id": "h", "site": f"{EVIL}:output", "invoke": "a"}]),
    ]
    for document in documents:
        file.write_text(json.dumps(document))
        assert run(["run", str(file), "--url", str(http.base_url)]) != 0
        told = capsys.readouterr()
        assert told.err
        assert not OBEYED.search((told.out + told.err).replace("\n", ""))


def test_what_a_job_shows_is_one_line_and_moves_no_cursor(capsys: Any) -> None:
    printed(Shown({"line": f"{EVIL}.py:1\nforged: all is well", "at": [1], "values": {"x": EVIL, "y": 1.0}}))
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert not OBEYED.search(told.replace("\n", ""))


@pytest.mark.parametrize("format", ["json", "console"])
def test_no_log_has_lines_that_somebody_else_wrote(format: logs.Format) -> None:
    out = io.StringIO()
    before, root = structlog.get_config(), logging.getLogger()
    handlers, level = root.handlers[:], root.level
    try:
        logs.configure(format=format, stream=out)
        log = structlog.get_logger("attacks")
        try:
            raise ValueError(f"{EVIL}\n2026-01-01 [info] forged")
        except ValueError as error:
            log.error("unexpected error", method=f"{EVIL}\nforged", exc_info=error)
        logging.getLogger("library").warning("heard %s", f"{EVIL}\nforged")
    finally:
        structlog.configure(**before)
        root.handlers, root.level = handlers, level
    told = out.getvalue()
    assert told.count("\n") == 2
    assert not OBEYED.search(told.replace("\n", ""))


def test_what_can_be_seen_is_left_alone() -> None:
    for text in ("naïve café", "日本語", "👩\u200d🔬", "नमस्ते", "می\u200cخواهم", "a\tb\nc", "{}[]$\\"):
        assert printable(text) == text
    assert printable("a\nb\tc", lines=False) == "a\\nb\\tc"
