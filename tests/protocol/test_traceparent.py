"""Where in a trace something belongs, and whether anybody keeps traces."""

from __future__ import annotations

import pytest

from telepatch_protocol.traceparent import exporters, sane, trace_of

GOOD = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def test_a_traceparent_is_taken_as_it_is_and_names_its_trace():
    assert sane(GOOD) == GOOD
    assert trace_of(GOOD) == "0af7651916cd43dd8448eb211c80319c"


@pytest.mark.parametrize(
    "text",
    [
        None,
        "",
        GOOD.upper(),
        GOOD + "\n",
        GOOD[:-1],
        "01" + GOOD[2:],
        f"00-{'0' * 32}-{'1' * 16}-01",
        f"00-{'1' * 32}-{'0' * 16}-01",
    ],
)
def test_what_is_no_traceparent_is_none(text: str | None):
    assert sane(text) is None


@pytest.mark.parametrize(
    ("found", "where"),
    [
        ({}, ()),
        ({"OTEL_SERVICE_NAME": "x"}, ()),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318"}, ("otlp",)),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://c:4318/v1/traces"}, ("otlp",)),
        ({"OTEL_TRACES_EXPORTER": "console, otlp"}, ("console", "otlp")),
        ({"OTEL_TRACES_EXPORTER": "none", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318"}, ()),
        ({"OTEL_SDK_DISABLED": "True", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318"}, ()),
    ],
)
def test_traces_go_where_the_standard_variables_say(found: dict[str, str], where: tuple[str, ...]):
    assert exporters(found) == where
