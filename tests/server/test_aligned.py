"""Inputs that must be equally long."""

from __future__ import annotations

import json
from typing import Any

import httpx
import numpy as np
import pytest

from telepatch_protocol.jobs import new_job_id
from telepatch_protocol.tensors import Tensor, encode


def pair(first: dict[str, Any], second: dict[str, Any], *, aligned: bool = True) -> dict[str, Any]:
    """A graph over two inputs."""
    return {
        "protocol": [1, 0],
        "model": {"id": "tiny"},
        "constants": {"t": {"tensor": "t"}},
        "runs": [{"id": "r", "invokes": [{"id": "clean"} | first, {"id": "other"} | second]}],
        "nodes": [{"kind": "get", "id": "h", "site": "blocks.0:output", "invoke": "clean"}],
        "saves": {"h": "$h"},
        "options": {"aligned": aligned},
        "lines": {"other": "study.py:9"},
    }


def error_of(http: httpx.Client, document: dict[str, Any]) -> dict[str, Any]:
    """Why it is refused; empty if it is not."""
    body = {"documents": [document], "jobs": [{"id": new_job_id()}], "dry_run": True}
    parts = {
        "submission": (None, json.dumps(body)),
        "attachment": ("a", encode({"t": Tensor.of(np.ones((2, 3), int))})),
    }
    found: dict[str, Any] = http.post("/v1/jobs", files=parts).json()["jobs"][0].get("error") or {}
    return found


@pytest.mark.parametrize(
    ("first", "second", "says"),
    [
        ({"text": "abc"}, {"text": "abcd"}, "'clean' has 3 tokens (a|b|c); 'other' has 4 tokens (a|b|c|d)"),
        ({"text": ["abc", "xyz"]}, {"ids": [65, 66]}, "'clean' has 3 tokens (a|b|c); 'other' has 2 tokens (A|B)"),
        ({"text": "ab"}, {"ids": "$t"}, "'other' has 3 tokens"),
        ({"text": "a" * 30}, {"text": "b" * 31}, "|..."),
    ],
)
def test_inputs_of_different_lengths_are_shown_side_by_side(
    http: httpx.Client, first: dict[str, Any], second: dict[str, Any], says: str
) -> None:
    found = error_of(http, pair(first, second))
    assert found["code"] == "shape_error"
    assert says in found["detail"]
    assert (found["node"], found["file"], found["line"]) == ("other", "study.py", 9)
    assert error_of(http, pair(first, second, aligned=False)) == {}


def test_inputs_of_one_length_go_through(http: httpx.Client) -> None:
    assert error_of(http, pair({"text": "abc"}, {"ids": "$t"})) == {}
