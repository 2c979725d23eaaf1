"""Lines in logs: JSON, whole, and without anybody's data."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest
import structlog

from telepatch_broker import logs

SECRET = "the prompt that nobody may see"


@pytest.fixture
def written() -> Iterator[io.StringIO]:
    """What is logged; nothing of it outlives the test."""
    stream, root = io.StringIO(), logging.getLogger()
    before = root.handlers[:], root.level
    yield stream
    root.handlers, root.level = before
    logs.sign()
    structlog.reset_defaults()


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_line_is_one_json_object_with_time_level_and_fields(written: io.StringIO):
    logs.configure(stream=written)
    structlog.get_logger().info("job_ended", job="j", ms={"queued": 1.5})
    [line] = lines(written)
    assert line.pop("timestamp").endswith("Z")
    assert line == {"event": "job_ended", "job": "j", "ms": {"queued": 1.5}, "level": "info"}


def test_the_level_decides_what_is_written(written: io.StringIO):
    logs.configure("warning", stream=written)
    structlog.get_logger().info("unimportant")
    structlog.get_logger().warning("important")
    assert [line["event"] for line in lines(written)] == ["important"]


def test_people_get_lines_that_are_no_json(written: io.StringIO):
    logs.configure(format="console", stream=written)
    structlog.get_logger().info("job_ended", job="j")
    assert "job_ended" in written.getvalue()
    assert not written.getvalue().startswith("{")


@pytest.mark.parametrize("format", ["json", "console"])
def test_of_an_exception_its_kind_and_place_are_written_and_its_message_is_not(written: io.StringIO, format: Any):
    logs.configure("debug", format, written)
    try:
        raise ValueError(SECRET)
    except ValueError:
        structlog.get_logger().exception("step_failed")
    assert SECRET not in written.getvalue()
    assert "ValueError" in written.getvalue()
    assert "test_logs.py" in written.getvalue()


def test_of_what_the_system_refuses_the_reason_is_written(written: io.StringIO):
    logs.configure(stream=written)
    structlog.get_logger().error("not_stored", exc_info=OSError(28, "No space left on device"))
    assert lines(written)[0]["reason"] == "No space left on device"


def test_libraries_are_heard_from_warnings_on_and_only_their_first_line(written: io.StringIO):
    logs.configure("debug", stream=written)
    logging.getLogger("httpx").info("POST %s", SECRET)
    logging.getLogger("asyncio").error("Task exception was never retrieved\nfuture: ValueError(%r)", SECRET)
    [line] = lines(written)
    assert (line["event"], line["logger"]) == ("Task exception was never retrieved", "asyncio")
    assert SECRET not in written.getvalue()


def test_what_a_process_is_signed_with_stands_in_every_line(written: io.StringIO):
    logs.configure(stream=written)
    logs.sign(worker="w1", model="tiny")
    structlog.get_logger().info("one")
    logging.getLogger("rq").warning("two")
    assert [(line["worker"], line["model"]) for line in lines(written)] == [("w1", "tiny")] * 2


def test_configuring_twice_writes_lines_once(written: io.StringIO):
    logs.configure(stream=written)
    logs.configure(stream=written)
    logging.getLogger("rq").warning("once")
    assert len(lines(written)) == 1
