"""A queue over TLS that asks for a certificate, a user and a password, and results in a bucket: nothing of it is told.

The embedded Valkey is built without TLS, so a process in front of it speaks TLS, as stunnel would.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil
import pytest
import trustme
from tests.broker.bucket import BUCKET, bucket

from telepatch_broker.connection import check, connect, connect_sync
from telepatch_broker.launcher import embedded_valkey
from telepatch_protocol.errors import Unavailable
from telepatch_server.settings import Settings

PASSWORD = "a p@ss:word/with#everything"
GRAPH = {
    "protocol": [1, 0],
    "model": {"id": "gpt2-random"},
    "runs": [{"id": "r", "invokes": [{"id": "a", "ids": list(range(250))}]}],
    "nodes": [
        {"kind": "get", "id": name, "site": "lm_head:output", "invoke": "a"} for name in ("one", "two")
    ],
    "saves": {"one": "$one", "two": "$two"},
}  # fmt: skip


@dataclass
class Private:
    """Where it is, and what lets one in."""

    port: int
    folder: Path

    def variables(self, **changes: str) -> dict[str, str]:
        own = {
            "TELEPATCH_REDIS_URL": f"rediss://ada@localhost:{self.port}/0",
            "TELEPATCH_REDIS_PASSWORD_FILE": str(self.folder / "password"),
            "TELEPATCH_REDIS_CA_FILE": str(self.folder / "ca.pem"),
            "TELEPATCH_REDIS_CERT_FILE": str(self.folder / "cert.pem"),
            "TELEPATCH_REDIS_KEY_FILE": str(self.folder / "key.pem"),
        }
        return own | changes


@pytest.fixture(scope="module")
def private(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Private]:
    folder = tmp_path_factory.mktemp("private")
    authority = trustme.CA()
    authority.cert_pem.write_to_path(folder / "ca.pem")
    trustme.CA().cert_pem.write_to_path(folder / "other.pem")
    own = authority.issue_cert("ada@example.org")
    own.private_key_pem.write_to_path(folder / "key.pem")
    own.cert_chain_pems[0].write_to_path(folder / "cert.pem")
    (folder / "password").write_text(PASSWORD + "\n")
    (folder / "wrong").write_text("guess\n")
    server = authority.issue_cert("localhost")
    server.private_key_pem.write_to_path(folder / "server.key")
    server.cert_chain_pems[0].write_to_path(folder / "server.pem")
    with embedded_valkey(folder / "valkey") as url:
        with connect_sync(url) as client:
            client.acl_setuser(
                "ada", enabled=True, passwords=["+" + PASSWORD], commands=["+@all"], keys=["*"], channels=["*"]
            )
            client.acl_setuser("default", enabled=True, nopass=True, commands=["-@all", "+ping"])
        with tunnel(folder, url.removeprefix("unix://")) as port:
            yield Private(port, folder)


@contextmanager
def tunnel(folder: Path, socket: str) -> Iterator[int]:
    """A process that speaks TLS on a port, for the server of a unix socket."""
    files = [str(folder / name) for name in ("server.pem", "server.key", "ca.pem")]
    program = str(Path(__file__).with_name("tls_tunnel.py"))
    process = subprocess.Popen(
        [sys.executable, program, *files, socket], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    try:
        assert process.stdout is not None
        yield int(process.stdout.readline())
    finally:
        process.kill()
        process.communicate()


async def asked(variables: dict[str, str]) -> None:
    """Whether the queue answers with these variables."""
    client = connect(Settings.from_environment(variables).queue)
    client.connection_pool.connection_kwargs["retry"]._retries = 0
    try:
        await check(client)
        await client.set("telepatch:try", "1", ex=5)
    finally:
        await client.aclose()


async def test_the_queue_answers_to_whoever_has_everything_that_it_asks_for(private: Private) -> None:
    await asked(private.variables())


@pytest.mark.parametrize(
    ("variable", "file"),
    [("TELEPATCH_REDIS_PASSWORD_FILE", "wrong"), ("TELEPATCH_REDIS_CA_FILE", "other.pem")],
)
async def test_a_wrong_password_or_authority_is_told_without_the_password(
    private: Private, variable: str, file: str
) -> None:
    with pytest.raises(Unavailable) as caught:
        await asked(private.variables(**{variable: str(private.folder / file)}))
    assert "guess" not in str(caught.value)
    assert "word" not in str(caught.value).replace("password", "")


async def test_without_a_certificate_of_ones_own_nobody_is_let_in(private: Private) -> None:
    variables = private.variables(TELEPATCH_REDIS_CERT_FILE="", TELEPATCH_REDIS_KEY_FILE="")
    with pytest.raises(Unavailable):
        await asked(variables)


@pytest.fixture
def environment(private: Private) -> Iterator[dict[str, str]]:
    """Of a whole service on that queue, with results in a bucket."""
    plain = {name: value for name, value in os.environ.items() if not name.startswith(("TELEPATCH_", "AWS_"))}
    with bucket() as variables:
        yield {
            **plain,
            **variables,
            **private.variables(TELEPATCH_BLOBS=f"s3://{BUCKET}/telepatch"),
            "OMP_NUM_THREADS": "1",
        }


def telepatch(environment: dict[str, str], output: Path, *words: str) -> subprocess.Popen[bytes]:
    with output.open("wb") as said:
        command = [sys.executable, "-P", "-m", "telepatch", *words]
        return subprocess.Popen(command, env=environment, stdout=said, stderr=subprocess.STDOUT)


def test_a_service_runs_on_it_and_says_the_password_nowhere(environment: dict[str, str], tmp_path: Path) -> None:
    parts = [
        telepatch(environment, tmp_path / "gateway", "gateway", "--port", "0"),
        telepatch(environment, tmp_path / "worker", "worker", "--model", "gpt2-random"),
    ]
    try:
        until = time.monotonic() + 120
        while "listens on" not in (said := (tmp_path / "gateway").read_text()) and time.monotonic() < until:
            assert parts[0].poll() is None, said
            time.sleep(0.1)
        with httpx.Client(base_url=said.rpartition("listens on ")[2].split()[0], timeout=90) as http:
            while http.get("/readyz").status_code != 200 and time.monotonic() < until:
                assert parts[1].poll() is None, (tmp_path / "worker").read_text()
                time.sleep(0.2)
            body = {"documents": [GRAPH], "jobs": [{"id": "01a22e84-91b8-71cd-afeb-fe802039dc2d", "document": 0}]}
            [job] = http.post("/v1/jobs?wait=60", json=body).json()["jobs"]
            assert job["state"] == "completed"
            whole = http.get(f"/v1/jobs/{job['id']}/result").content
            assert len(whole) > 2 * 250 * 257 * 4
            part = http.get(f"/v1/jobs/{job['id']}/result", headers={"Range": "bytes=1000-1999"})
            assert (part.status_code, part.content) == (206, whole[1000:2000])
        checked = subprocess.run(
            [sys.executable, "-P", "-m", "telepatch", "check"],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert checked.returncode == 0, checked.stdout
        lines = " ".join(" ".join(psutil.Process(one.pid).cmdline()) for one in parts)
    finally:
        for one in parts:
            one.terminate()
            one.wait(30)
    told = (
        lines
        + checked.stdout
        + checked.stderr
        + "".join((tmp_path / name).read_text() for name in ("gateway", "worker"))
    )
    assert PASSWORD not in told
    assert "%40ss" not in told
    assert "worker_ready" in told


def test_a_password_on_the_command_line_is_refused(tmp_path: Path) -> None:
    for words in (("gateway",), ("worker", "--model", "gpt2-random"), ("host",), ("up",)):
        command = [sys.executable, "-P", "-m", "telepatch", *words, "--redis-url", "redis://:hush@localhost/0"]
        told = subprocess.run(command, capture_output=True, text=True, check=False)
        assert told.returncode == 2
        assert "TELEPATCH_REDIS_PASSWORD_FILE" in told.stderr
        assert "hush" not in told.stderr
