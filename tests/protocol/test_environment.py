"""Settings from variables."""

from __future__ import annotations

from typing import ClassVar

import pytest
from pydantic import Field

from telepatch_protocol.environment import Variables
from telepatch_protocol.errors import BadArgument


class Example(Variables):
    OWN: ClassVar[str] = "TELEPATCH_EXAMPLE_"
    OTHERS: ClassVar[frozenset[str]] = frozenset({"TELEPATCH_EXAMPLE_URL"})
    SECRET: ClassVar[frozenset[str]] = frozenset({"token"})

    port: int = Field(default=8000, ge=0)
    example_jobs: int = 5
    token: str | None = Field(default=None, min_length=8)


def test_variables_are_read_overrides_win_and_empty_ones_count_as_unset():
    found = {
        "TELEPATCH_PORT": "9000",
        "TELEPATCH_EXAMPLE_JOBS": "",
        "TELEPATCH_EXAMPLE_URL": "x",
        "TELEPATCH_ELSE": "1",
    }
    assert Example.read(found, {}) == Example(port=9000)
    assert Example.read(found, {"port": 1}).port == 1


def test_an_unknown_variable_of_ones_own_is_refused_with_the_nearest():
    with pytest.raises(
        BadArgument, match="TELEPATCH_EXAMPLE_JOB, which is no setting; did you mean TELEPATCH_EXAMPLE_JOBS"
    ):
        Example.read({"TELEPATCH_EXAMPLE_JOB": "1"}, {})


def test_a_value_that_cannot_be_is_named_but_a_secret_is_not_repeated():
    with pytest.raises(BadArgument, match=r"TELEPATCH_PORT: .*; found 'many'"):
        Example.read({"TELEPATCH_PORT": "many"}, {})
    with pytest.raises(BadArgument) as caught:
        Example.read({"TELEPATCH_TOKEN": "short"}, {})
    assert "short" not in str(caught.value).replace("shorter", "")
