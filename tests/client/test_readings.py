"""Two looks at metrics, and what happened in between."""

from __future__ import annotations

import pytest

from telepatch.cli.readings import Between, Reading

FIRST = r"""
# HELP jobs Jobs
jobs{model="a",state="done"} 10
jobs{model="a",state="new"} 2
jobs{model="b \"c\"\\\n",state="done"} 5
batch_count{worker="w1"} 2
batch_sum{worker="w1"} 8
batch_bucket{worker="w1",le="+Inf"} 2
up 1
free 1.5e+09
"""
SECOND = r"""
jobs{model="a",state="done"} 16
jobs{model="b \"c\"\\\n",state="done"} 1
batch_count{worker="w1"} 3
batch_sum{worker="w1"} 20
batch_count{worker="w2"} 1
batch_sum{worker="w2"} 4
"""


@pytest.fixture
def between() -> Between:
    return Between(Reading.of(FIRST, 10.0), Reading.of(SECOND, 12.0))


def test_samples_are_found_by_name_and_labels():
    reading = Reading.of(FIRST, 0)
    assert reading.total("jobs", model="a") == 12
    assert reading.most("jobs") == 10
    assert reading.total("up") == 1
    assert reading.total("free") == 1.5e9
    assert (reading.total("nothing"), reading.most("nothing")) == (0, 0)
    assert reading.values("jobs", "model") == ["a", 'b "c"\\\n']


def test_a_rate_is_what_came_in_between_and_what_began_anew_counts_from_nothing(between: Between):
    assert between.rate("jobs", model="a", state="done") == 3
    assert between.rate("jobs", state="done") == (6 + 1) / 2
    assert between.rate("nothing") == 0
    assert Between(between.now, between.now).rate("jobs") == 0


def test_a_mean_is_of_what_came_in_between_or_of_all_or_none(between: Between):
    assert between.mean("batch") == (12 + 4) / 2
    assert Between(between.now, between.now).mean("batch") == 24 / 4
    assert between.mean("nothing") is None
