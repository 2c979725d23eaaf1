"""Settings of a worker: unknown or bad ones stop the start."""

from __future__ import annotations

from pathlib import Path

import pytest

from telepatch_protocol.errors import BadArgument
from telepatch_worker.settings import Settings, let_threads_sleep


def test_the_environment_is_read_and_what_is_given_wins():
    found = Settings.from_environment({"TELEPATCH_MODEL": "one", "TELEPATCH_WORKER_BATCH_JOBS": "8"}, model="two")
    assert (found.model, found.worker_batch_jobs) == ("two", 8)


def test_an_empty_variable_is_the_default():
    assert Settings.from_environment({"TELEPATCH_MODEL": ""}).model is None


def test_folders_at_home_are_found_also_where_they_are_defaults():
    found = Settings.from_environment({"TELEPATCH_CACHE": "~/there"})
    assert found.cache == Path.home() / "there"
    assert found.blobs.is_absolute()


def test_the_models_of_the_checkout_are_found_from_anywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert (Settings.from_environment({}).models / "gpt2-random.toml").is_file()
    (tmp_path / "models").mkdir()
    assert Settings.from_environment({}).models == Path("models")


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"TELEPATCH_WORKER_BATCH_JOB": "3"}, "did you mean TELEPATCH_WORKER_BATCH_JOBS"),
        ({"TELEPATCH_WORKER_BATCH_JOBS": "0"}, "TELEPATCH_WORKER_BATCH_JOBS: .*found '0'"),
        ({"TELEPATCH_WORKER_DEVICE": "tpu"}, "TELEPATCH_WORKER_DEVICE"),
        ({"TELEPATCH_GATEWAY_URL": "http://there"}, "TELEPATCH_WORKER_TOKEN"),
    ],
)
def test_what_cannot_be_is_refused_by_name(environment, message):
    with pytest.raises(BadArgument, match=message):
        Settings.from_environment(environment)


def test_a_bad_secret_is_not_repeated():
    with pytest.raises(BadArgument) as caught:
        Settings.from_environment({"TELEPATCH_WORKER_TOKEN": "short"})
    assert "short" not in str(caught.value).replace("should", "")


def test_idle_threads_sleep_unless_the_environment_says_otherwise():
    empty, said = {}, {"OMP_WAIT_POLICY": "ACTIVE"}
    let_threads_sleep(empty)
    let_threads_sleep(said)
    assert (empty, said) == ({"OMP_WAIT_POLICY": "PASSIVE"}, {"OMP_WAIT_POLICY": "ACTIVE"})
