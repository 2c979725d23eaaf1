"""Settings of the gateway."""

from __future__ import annotations

from pathlib import Path

import pytest

from telepatch_protocol.errors import BadArgument
from telepatch_server.settings import Settings


def test_every_field_is_read_from_its_variable() -> None:
    found = Settings.from_environment({"TELEPATCH_PORT": "9000", "TELEPATCH_GATEWAY_JOBS": "7", "HOME": "/"})
    assert (found.port, found.gateway_jobs) == (9000, 7)


def test_an_argument_wins_over_the_environment() -> None:
    assert Settings.from_environment({"TELEPATCH_PORT": "9000"}, port=1).port == 1


def test_an_empty_variable_is_no_setting() -> None:
    assert Settings.from_environment({"TELEPATCH_WORKER_TOKEN": "", "TELEPATCH_KEYS_FILE": ""}).worker_token is None


def test_a_keys_file_of_an_older_version_is_not_passed_over() -> None:
    with pytest.raises(BadArgument, match=r"telepatch keys import /etc/keys\.json.*unset"):
        Settings.from_environment({"TELEPATCH_KEYS_FILE": "/etc/keys.json"})


def test_limits_of_people_are_numbers_names_or_none() -> None:
    usual = Settings().limits
    assert (usual.requests_per_minute, usual.jobs_queued, usual.models) == (12_000, 20_000, None)
    told = {
        "TELEPATCH_GATEWAY_JOBS_QUEUED": "none",
        "TELEPATCH_GATEWAY_MODELS": "a, b",
        "TELEPATCH_GATEWAY_JOB_FLOPS": "1e12",
    }
    found = Settings.from_environment(told).limits
    assert (found.jobs_queued, found.models, found.job_flops) == (None, ("a", "b"), 1e12)
    with pytest.raises(BadArgument, match=r"TELEPATCH_GATEWAY_JOBS_QUEUED.*'many'"):
        Settings.from_environment({"TELEPATCH_GATEWAY_JOBS_QUEUED": "many"})


def test_a_mistyped_variable_stops_the_start_and_the_right_one_is_named() -> None:
    with pytest.raises(BadArgument, match="did you mean TELEPATCH_GATEWAY_WAIT_SECONDS"):
        Settings.from_environment({"TELEPATCH_GATEWAY_WAIT_SECOND": "3"})


def test_variables_of_other_processes_are_none_of_our_business() -> None:
    Settings.from_environment({"TELEPATCH_MODEL": "x", "TELEPATCH_GATEWAY_URL": "http://gateway"})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("TELEPATCH_PORT", "70000"),
        ("TELEPATCH_RESULT_SECONDS", "soon"),
        ("TELEPATCH_GATEWAY_JOBS", "0"),
        ("TELEPATCH_REDIS_URL", "localhost"),
        ("TELEPATCH_REDIS_URL", "redis://localhost:port"),
    ],
)
def test_a_value_that_cannot_be_stops_the_start_by_name(name: str, value: str) -> None:
    with pytest.raises(BadArgument, match=name):
        Settings.from_environment({name: value})


def test_a_secret_is_not_repeated_in_the_refusal() -> None:
    with pytest.raises(BadArgument) as refusal:
        Settings.from_environment({"TELEPATCH_WORKER_TOKEN": "hunter2"})
    assert "hunter2" not in str(refusal.value)
    assert "hunter2-hunter2-hunter2" not in repr(Settings(worker_token="hunter2-hunter2-hunter2"))


def test_a_folder_at_home_is_found() -> None:
    assert Settings(blobs=Path("~/blobs")).blobs == Path.home() / "blobs"
