"""Where queue and blobs are: an address that is complete where it is used, and has no password where it is shown."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import pytest

from telepatch_broker.blobs import DirectoryBlobs
from telepatch_broker.places import Places, open_blobs, refuse_password, without_password
from telepatch_protocol.errors import BadArgument


class Some(Places):
    """Settings that have nothing else."""

    OWN: ClassVar[str] = "TELEPATCH_SOME_"
    SECRET: ClassVar[frozenset[str]] = frozenset({"redis_url"})


def places(**variables: str) -> Some:
    return Some.read({f"TELEPATCH_{name.upper()}": value for name, value in variables.items()}, {})


@pytest.fixture
def password(tmp_path: Path) -> str:
    file = tmp_path / "password"
    file.write_text("p@ss/word#1\n")
    return str(file)


@pytest.mark.parametrize(
    ("url", "complete"),
    [
        ("redis://queue:6380/2", "redis://:p%40ss%2Fword%231@queue:6380/2"),
        ("rediss://ada@queue/0", "rediss://ada:p%40ss%2Fword%231@queue/0"),
        ("unix:///run/queue.sock?db=1", "unix://:p%40ss%2Fword%231@/run/queue.sock?db=1"),
    ],
)
def test_the_password_of_a_file_is_in_the_address_that_is_connected_to_and_in_no_other(
    url: str, complete: str, password: str
) -> None:
    found = places(redis_url=url, redis_password_file=password)
    assert found.queue == complete
    assert found.shown_queue == without_password(complete)
    assert "ss%2Fword" not in repr(found) + str(found.shown_queue)


def test_a_password_in_the_address_is_shown_nowhere() -> None:
    found = places(redis_url="rediss://ada:secret@queue:6379/0")
    assert found.queue == "rediss://ada:secret@queue:6379/0"
    assert found.shown_queue == "rediss://ada@queue:6379/0"
    assert "secret" not in repr(found)


def test_certificates_go_into_the_address(tmp_path: Path) -> None:
    for name in ("ca", "cert", "key"):
        (tmp_path / name).write_text("x")
    files = {f"redis_{name}_file": str(tmp_path / name) for name in ("ca", "cert", "key")}
    found = places(redis_url="rediss://queue/0", **files).queue
    assert [part.partition("=")[0] for part in found.partition("?")[2].split("&")] == [
        "ssl_ca_certs", "ssl_certfile", "ssl_keyfile"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("variables", "says"),
    [
        ({"redis_url": "rediss://:x@queue/0", "redis_password_file": "FILE"}, "give one of both"),
        ({"redis_url": "redis://queue/0", "redis_ca_file": "FILE"}, "has to begin with rediss://"),
        ({"redis_url": "rediss://queue/0", "redis_cert_file": "FILE"}, "go together"),
        ({"redis_ca_file": "/nowhere/ca.pem"}, "TELEPATCH_REDIS_CA_FILE: there is no such file"),
        ({"redis_url": "http://queue"}, "TELEPATCH_REDIS_URL"),
        ({"blobs": "s3://UPPER CASE"}, "s3://my-bucket/telepatch"),
        ({"blobs": "s3://"}, "s3://my-bucket/telepatch"),
    ],
)
def test_what_does_not_go_together_is_refused_by_name(variables: dict[str, str], says: str, password: str) -> None:
    with pytest.raises(BadArgument, match=says):
        places(**{name: password if value == "FILE" else value for name, value in variables.items()})


def test_an_empty_password_file_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "empty").write_text("\n")
    with pytest.raises(BadArgument, match=r"empty is empty"):
        _ = places(redis_password_file=str(tmp_path / "empty")).queue


def test_a_password_on_a_command_line_is_refused_without_being_repeated() -> None:
    with pytest.raises(BadArgument, match="TELEPATCH_REDIS_PASSWORD_FILE") as caught:
        refuse_password("redis://:secret@queue/0")
    assert "secret" not in str(caught.value)
    refuse_password("redis://ada@queue/0")
    refuse_password(None)


def test_blobs_are_those_of_a_folder_or_of_a_bucket(tmp_path: Path, monkeypatch: Any) -> None:
    assert isinstance(open_blobs(places(blobs=str(tmp_path)).blobs), DirectoryBlobs)
    assert places(blobs="~/results").blobs == Path("~/results").expanduser()
    assert places(blobs="s3://bucket/results/").blobs == "s3://bucket/results"
