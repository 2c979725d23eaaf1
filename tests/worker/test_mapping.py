"""The elements of a map: what each is bound to, and which run together."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from telepatch_protocol.graph import Map
from telepatch_worker.engine import BatchLimits
from telepatch_worker.frame import Context, Frame
from telepatch_worker.mapping import Elements

GPT2 = "gpt2-random"


@pytest.fixture
def elements(gpt2, build):
    """The elements of a map over what is given, and how many rows and tokens may run at once."""

    def of(
        over: dict[str, Any], *, rows: int = 256, tokens: int = 16_384, grid: bool = False, ids: Any = "$p"
    ) -> Elements:
        read = build.get("z", "lm_head:output", [0, -1], invoke="x")
        body = {"runs": [{"id": "r", "invokes": [{"id": "x", "ids": ids}]}], "nodes": [read], "out": {"z": "$z"}}
        node = {"kind": "map", "id": "m", "over": over, "grid": grid, "body": body}
        plan = gpt2.plan(build.task(GPT2, {}, node, saves={"z": "$m.z"}))
        device = torch.device("cpu")
        context = Context(
            plan, gpt2.model, gpt2.card, device, lambda: None, lambda error: None, rows, tokens, lambda told: None, None
        )
        found = plan.root.nodes["m"]
        assert isinstance(found, Map)
        return Elements(Frame(plan.root, context), found)

    return of


def bound(elements: Elements, at: int) -> dict[str, Any]:
    return elements._bound(at)


def test_lists_go_together_and_a_grid_takes_every_combination(elements):
    side = elements({"p": [[1], [2]], "k": [7, 8]})
    assert (side.lead, bound(side, 1)) == ((2,), {"p": [2], "k": 8})
    grid = elements({"p": [[1], [2]], "k": [7, 8, 9]}, grid=True)
    assert grid.lead == (2, 3)
    assert [bound(grid, at)["k"] for at in range(6)] == [7, 8, 9, 7, 8, 9]
    assert [bound(grid, at)["p"] for at in range(6)] == [[1]] * 3 + [[2]] * 3


def test_elements_of_similar_length_run_together_and_every_one_once(elements):
    found = list(elements({"p": [[1], [1] * 9, [1] * 2, [1] * 8, [1] * 3]}, rows=2).chunks())
    assert found == [[1, 3], [4, 2], [0]]


def test_a_chunk_holds_no_more_rows_than_fit(elements):
    assert [len(one) for one in elements({"p": [[1, 2]] * 10}, rows=4).chunks()] == [4, 4, 2]


def test_a_chunk_holds_no_more_positions_than_fit_with_padding(elements):
    found = list(elements({"p": [[1] * 10, [1], [1], [1]]}, tokens=20).chunks())
    assert found == [[0, 1], [2, 3]]


def test_an_element_that_is_too_large_for_a_chunk_runs_alone(elements):
    assert list(elements({"p": [[1] * 10, [1]]}, tokens=5).chunks()) == [[0], [1]]


def test_rows_of_an_input_of_several_count_each(elements):
    pairs = [[[1, 2], [3, 4]]] * 3
    assert [len(one) for one in elements({"p": pairs}, rows=4).chunks()] == [2, 1]


def test_elements_that_differ_in_planning_have_plans_of_their_own(elements):
    found = elements({"p": [[1, 2], [3, 4], [5]]})
    plans = [found.frame(at).plan for at in range(3)]
    assert plans[0] is plans[1]
    assert plans[0] is not plans[2]


def test_a_batch_limit_is_what_a_map_goes_by(gpt2, build, monkeypatch):
    seen: list[int] = []
    plain = Elements.chunks
    monkeypatch.setattr(gpt2, "limits", BatchLimits(rows=3))
    monkeypatch.setattr(Elements, "chunks", lambda self: (seen.append(len(one)) or one for one in plain(self)))
    body = {"nodes": [build.call("n", "neg", "$k")], "out": {"n": "$n"}}
    node = {"kind": "map", "id": "m", "over": {"k": [1, 2, 3, 4]}, "body": body}
    [outcome] = gpt2.run([build.task(GPT2, {}, node, saves={"n": "$m.n"})])
    assert outcome.saved["n"].tolist() == [-1, -2, -3, -4]
    assert seen == [3, 1]
