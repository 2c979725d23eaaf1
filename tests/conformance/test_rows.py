"""Every row of docs/nnsight.md: both spellings run on the same weights and give the same numbers."""

from __future__ import annotations

import asyncio
import inspect

import pytest
from comparing import assert_same, plain, says_something
from rows import GROUPS
from table import Row, Without, shown

ROWS = [row for group in GROUPS for row in group.rows if isinstance(row, Row)]
REASONS = [row for group in GROUPS for row in group.rows if isinstance(row, Without)]


@pytest.mark.filterwarnings("ignore::telepatch.SlowLoop")  # one row after another is what this looks like
@pytest.mark.parametrize("row", ROWS, ids=str)
def test_both_spellings_give_the_same_numbers(row, twins):
    models = [row.model] if row.other is None else [row.model, row.other]
    wanted = plain(row.nnsight(*(twins.nnsight(one, bare=row.bare, eager=row.eager) for one in models)))
    assert says_something(wanted)
    found = row.telepatch(*(twins.telepatch(one) for one in models))
    assert_same(plain(asyncio.run(found) if inspect.iscoroutine(found) else found), wanted)


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_what_the_table_says_stands_in_the_code_that_runs(row):
    for says, function in zip(row.says, (row.nnsight, row.telepatch), strict=True):
        for part in says.split(" ... "):
            assert part in shown(function), part


def test_no_two_rows_have_one_name():
    names = [row.title for row in [*ROWS, *REASONS]]
    assert len(names) == len(set(names))


def test_every_reason_says_what_to_do_instead():
    assert all(row.why.endswith(".") and row.instead.endswith(".") for row in REASONS)
