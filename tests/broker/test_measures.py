"""Numbers: counted, sent as JSON, written as Prometheus reads them."""

from __future__ import annotations

import json

import pytest
from prometheus_client.parser import text_string_to_metric_families

from telepatch_broker.measures import Measure, Tally, exposition, read
from telepatch_broker.worker_measures import TABLE

EGGS = Measure("eggs_total", "counter", "Eggs laid", ("hen", "colour"))
WEIGHT = Measure("weight", "histogram", "Weight of an egg", ("hen",), (50.0, 60.0))
HENS = Measure("hens", "gauge", "Hens that are there")


def samples(text: str) -> dict[tuple[str, ...], float]:
    return {
        (one.name, *one.labels.values()): one.value
        for family in text_string_to_metric_families(text)
        for one in family.samples
    }


def test_what_was_counted_survives_json_and_reads_as_it_was():
    tally = Tally([EGGS, WEIGHT])
    tally.add("eggs_total", label="white")
    tally.add("eggs_total", 2, label="white")
    for weight in (49.0, 50.0, 55.0, 70.0):
        tally.observe("weight", weight)
    told = json.loads(json.dumps(tally.snapshot()))
    eggs, weights = read(EGGS, told["eggs_total"]), read(WEIGHT, told["weight"])
    text = exposition(
        [
            (EGGS, [(("clara", label), number) for label, number in eggs.items()]),
            (WEIGHT, [(("clara",), number) for number in weights.values()]),
            (HENS, [((), 1)]),
        ]
    )
    found = samples(text)
    assert found["eggs_total", "clara", "white"] == 3
    assert found["weight_bucket", "clara", "50"] == 2
    assert found["weight_bucket", "clara", "60"] == 3
    assert found["weight_bucket", "clara", "+Inf"] == found["weight_count", "clara"] == 4
    assert found["weight_sum", "clara"] == 224
    assert found[("hens",)] == 1


def test_labels_with_quotes_and_line_ends_are_read_as_they_were():
    text = exposition([(EGGS, [(('a "hen"\n\\', "white"), 1)])])
    assert samples(text) == {("eggs_total", 'a "hen"\n\\', "white"): 1}


@pytest.mark.parametrize("told", [None, 3, {"": {"counts": [1], "sum": 1}}, {"": "many"}, {"": 7}])
def test_numbers_of_another_version_are_left_out(told: object):
    assert read(WEIGHT, told) == {}


def test_every_measure_of_a_worker_says_of_which_worker_it_is():
    for measure in TABLE:
        assert measure.labels[:2] == ("model", "worker")
        assert len(measure.labels) <= 3
        assert measure.name.startswith("telepatch_worker_")
        assert measure.name.endswith("_total") == (measure.kind == "counter")
        assert bool(measure.buckets) == (measure.kind == "histogram")
