"""What a newer part of the service says is read without what this one does not know; everything else stays strict."""

from __future__ import annotations

import json

import pytest
from pydantic import ValidationError

from telepatch_protocol.card import ModelCard
from telepatch_protocol.jobs import JobStatus, SavedMeta
from telepatch_protocol.understood import understood

STATUS = {
    "id": "a",
    "model": "gpt2",
    "state": "completed",
    "timings": {"submitted": 1.0, "woken": 2.0},
    "saves": {"x": {"dtype": "float32", "shape": [1, None], "unit": "V"}},
    "quota": {"left": 3},
}


@pytest.mark.parametrize("form", [dict, json.dumps, lambda found: json.dumps(found).encode()])
def test_fields_that_are_not_known_are_left_out_wherever_they_stand(form) -> None:
    found = understood(JobStatus, form(STATUS))
    assert (found.id, found.timings.submitted) == ("a", 1.0)
    assert found.saves["x"] == SavedMeta(shape=(1, None), dtype="float32")
    assert "quota" in STATUS


def test_a_card_of_a_newer_worker_is_read() -> None:
    leaf = {"path": "", "axes": ["row", 4], "dtype": "float32", "shard": 2}
    port = {"order": [1], "leaves": [leaf], "traced": True}
    card = {
        "id": "m",
        "revision": "0123456789abcdef",
        "parameters": 1,
        "vocabulary": 0,
        "limits": {"max_positions": 1, "max_people": 5},
        "modules": [{"path": "", "kind": "M", "input": port, "output": port, "place": "gpu"}],
        "lineage": "new",
    }
    found = understood(ModelCard, json.dumps(card))
    assert found.modules[0].output is not None
    assert found.modules[0].output.leaves[0].axes == ("row", 4)


def test_anything_else_that_is_wrong_is_refused() -> None:
    with pytest.raises(ValidationError, match="state"):
        understood(JobStatus, STATUS | {"state": "asleep"})
    with pytest.raises(ValidationError, match="timings"):
        understood(JobStatus, {name: value for name, value in STATUS.items() if name != "timings"})
