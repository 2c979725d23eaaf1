"""How limits are written."""

from __future__ import annotations

from typing import Any

import pytest

from telepatch_broker.limits import LIMITS, limit_of
from telepatch_protocol.errors import BadArgument


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("jobs_queued", "500", 500), ("jobs_queued", "1_000", 1000), ("job_flops", "1e15", 1e15),
        ("models", "a, b", ("a", "b")), ("models", "a", ("a",)), ("models", "none", None),
        ("bytes_stored", " NONE ", None),
    ],
)  # fmt: skip
def test_a_limit_is_read_as_it_is_written(name: str, text: str, value: Any) -> None:
    assert limit_of(name, text) == value


@pytest.mark.parametrize(
    ("name", "text"), [("jobs_queued", "0"), ("jobs_queued", "-5"), ("jobs_queued", "many"), ("job_tokens", "1.5")]
)
def test_a_limit_that_cannot_be_is_named_with_what_can(name: str, text: str) -> None:
    with pytest.raises(BadArgument, match=f"{name} cannot be '{text}'.*'none'"):
        limit_of(name, text)


def test_an_unknown_limit_is_named_with_those_there_are() -> None:
    with pytest.raises(BadArgument, match=", ".join(LIMITS)):
        limit_of("jobs", "1")
