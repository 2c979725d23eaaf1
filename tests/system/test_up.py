"""``telepatch up`` as a person uses it: real processes, real signals, a real model, nothing left behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from telepatch_broker.connection import connect
from telepatch_broker.registry import LoadProgress, Registry
from telepatch_protocol.tensors import decode
from telepatch_server.up import overview

READY_S = 120
MODEL = "gpt2-random"
GRAPH = {
    "protocol": [1, 0],
    "model": {"id": MODEL},
    "runs": [{"id": "run", "invokes": [{"id": "prompt", "text": "$words"}]}],
    "nodes": [{"kind": "get", "id": "last", "site": "lm_head:output", "invoke": "prompt", "index": [":", -1]}],
    "saves": {"logits": "$last"},
    "constants": {"words": "hello"},
}


@dataclass
class Service:
    """A running ``telepatch up``, and every process under it."""

    process: subprocess.Popen[str]
    url: str
    home: Path
    family: list[psutil.Process]

    def gone(self, seconds: float = 15) -> bool:
        """Whether every process under it has ended in time."""
        return psutil.wait_procs(self.family, timeout=seconds)[1] == []

    def member(self, word: str) -> psutil.Process:
        """The process that runs ``telepatch WORD``."""
        (found,) = [one for one in self.family if one.is_running() and word in one.cmdline()[3:6]]
        return found


def environment(**more: str) -> dict[str, str]:
    """This one's, without settings of the machine that the tests run on."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("TELEPATCH_")}
    return kept | {"OMP_NUM_THREADS": "1"} | more


def command(*words: str) -> list[str]:
    """A command of Telepatch as a list of words."""
    return [sys.executable, "-P", "-m", "telepatch", *words]


def telepatch(*words: str, **more: str) -> subprocess.CompletedProcess[str]:
    """What a command of Telepatch says and how it ends."""
    return subprocess.run(command(*words), capture_output=True, text=True, check=False, env=environment(**more))


@contextmanager
def up(home: Path) -> Iterator[Service]:
    """A service in a folder of its own; nothing of it outlives the block."""
    ready = home / "ready.json"
    options = ("--port", "0", "--home", str(home), "--announce", str(ready), "--with-parent")
    words = command("up", "--model", MODEL, *options)
    with (home / "said").open("w") as said:
        process = subprocess.Popen(words, stdout=said, stderr=subprocess.STDOUT, text=True, env=environment())
    family: list[psutil.Process] = []
    try:
        deadline = time.monotonic() + READY_S
        while not ready.exists():
            assert process.poll() is None, (home / "said").read_text()
            assert time.monotonic() < deadline, (home / "said").read_text()
            time.sleep(0.1)
        family = psutil.Process(process.pid).children(recursive=True)
        yield Service(process, json.loads(ready.read_text())["url"], home, family)
    finally:
        process.terminate()
        process.wait(60)
        for one in family:
            if one.is_running():
                one.kill()


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """One service for the tests that leave it running."""
    with up(tmp_path_factory.mktemp("up")) as running:
        yield running


def test_it_is_ready_when_it_says_so(service):
    with urllib.request.urlopen(f"{service.url}/readyz") as answer:
        assert answer.status == 200


def test_it_says_how_to_connect(service):
    said = (service.home / "said").read_text()
    assert f'telepatch.connect("{service.url}")' in said
    assert f'lab.model("{MODEL}")' in said


def test_status_shows_the_service_and_its_model(service):
    told = telepatch("status", "--url", service.url)
    assert told.returncode == 0, told.stderr
    assert f"{service.url}: ready" in told.stdout
    assert MODEL in told.stdout


def test_status_takes_the_address_from_the_environment(service):
    assert telepatch("status", TELEPATCH_URL=service.url).returncode == 0


def test_a_graph_file_runs_and_its_saves_are_written(service, tmp_path):
    graph = tmp_path / "graph.json"
    graph.write_text(json.dumps(GRAPH))
    told = telepatch("run", str(graph), "--url", service.url, "--out", str(tmp_path / "saved.safetensors"))
    assert told.returncode == 0, told.stderr
    saved = decode((tmp_path / "saved.safetensors").read_bytes())
    assert saved["logits"].array.shape == (1, 257)
    assert "logits: float32 (1, 257)" in told.stdout


def test_a_graph_from_standard_input_answers_as_json(service):
    words = command("run", "-", "--url", service.url, "--json")
    told = subprocess.run(
        words, input=json.dumps(GRAPH), capture_output=True, text=True, check=False, env=environment()
    )
    assert told.returncode == 0, told.stderr
    assert json.loads(told.stdout)["values"]["logits"]["shape"] == [1, 257]


def test_a_dry_run_prints_the_price_and_leaves_no_job(service, tmp_path):
    graph = tmp_path / "graph.json"
    graph.write_text(json.dumps(GRAPH))
    before = telepatch("status", "--url", service.url).stdout
    told = telepatch("run", str(graph), "--url", service.url, "--dry-run")
    assert told.returncode == 0, told.stderr
    assert json.loads(told.stdout)["rows"] == 1
    assert telepatch("status", "--url", service.url).stdout == before


def test_a_graph_that_the_service_refuses_ends_with_4_and_the_reason(service, tmp_path):
    graph = tmp_path / "graph.json"
    graph.write_text(json.dumps(GRAPH | {"model": {"id": "no-such-model"}}))
    told = telepatch("run", str(graph), "--url", service.url)
    assert told.returncode == 4
    assert "no-such-model" in told.stderr


def test_a_second_service_in_the_same_folder_is_refused(service):
    told = telepatch("up", "--model", MODEL, "--port", "0", "--home", str(service.home))
    assert told.returncode == 3
    assert "another telepatch up uses" in told.stderr


def test_one_ctrl_c_ends_all_of_it_in_order(tmp_path):
    with up(tmp_path) as service:
        service.process.send_signal(signal.SIGINT)
        assert service.process.wait(60) == 0
        assert service.gone()
        assert not list(tmp_path.rglob("*.sock"))


def test_a_killed_service_leaves_no_process_behind(tmp_path):
    with up(tmp_path) as service:
        assert len(service.family) >= 3
        service.process.kill()
        assert service.gone()


@pytest.mark.parametrize("part", ["gateway", "worker"])
def test_a_part_that_dies_ends_the_others_and_is_named(tmp_path, part):
    with up(tmp_path) as service:
        service.member(part).kill()
        assert service.process.wait(60) == 1
        assert service.gone()
        assert f"{part}" in (said := (tmp_path / "said").read_text()).rpartition("telepatch: ")[2].splitlines()[0], said
        assert "SIGKILL" in said


def test_a_model_without_a_card_ends_it_with_the_names_that_there_are(tmp_path):
    told = telepatch("up", "--model", "gpt2-radnom", "--port", "0", "--home", str(tmp_path))
    assert told.returncode == 2
    assert "worker gpt2-radnom ended with exit code 2" in told.stderr
    assert MODEL in told.stderr


def test_a_service_started_by_a_program_ends_with_that_program(tmp_path):
    words = command("up", "--model", MODEL, "--port", "0", "--home", str(tmp_path), "--with-parent")
    program = f"import subprocess, sys; print(subprocess.Popen({words!r}).pid, flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment()
    ) as starter:
        assert starter.stdout is not None
        service = psutil.Process(int(starter.stdout.readline()))
        deadline = time.monotonic() + 30
        while len(family := service.children(recursive=True)) < 3 and time.monotonic() < deadline:
            time.sleep(0.1)
        starter.kill()
    assert psutil.wait_procs([service, *family], timeout=60)[1] == []


def test_it_can_be_ended_while_it_still_loads(tmp_path):
    words = command("up", "--model", MODEL, "--port", "0", "--home", str(tmp_path))
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, env=environment())
    log = tmp_path / "logs" / f"worker-{MODEL}.log"
    deadline = time.monotonic() + 30
    while not log.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    family = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 0
    assert len(family) >= 3
    assert psutil.wait_procs(family, timeout=15)[1] == []


def test_the_demo_runs_its_studies_against_a_service_and_lists_what_they_wrote(service, tmp_path):
    for name in ("logit_lens", "activation_patching"):
        study = f"def main(url, out):\n    print('at', url)\n    (out / '{name}.png').write_bytes(b'picture')\n"
        (tmp_path / f"{name}.py").write_text(study)
    out = tmp_path / "out"
    told = telepatch("demo", "--url", service.url, "--studies", str(tmp_path), "--out", str(out))
    assert told.returncode == 0, told.stderr
    assert told.stdout.count(f"at {service.url}") == 2
    assert all(str(out / f"{name}.png") in told.stdout for name in ("logit_lens", "activation_patching"))


async def test_a_model_that_is_loaded_for_the_first_time_is_shown_with_its_stage(redis_url):
    client = connect(redis_url)
    await Registry(client).progress("fresh", "w1", LoadProgress(worker="w1", stage="convert", done=30, total=100))
    await client.aclose()
    (found,) = await overview(redis_url, ("models/fresh.toml",))
    assert (found.id, found.workers) == ("fresh", ())
    assert [(part.stage, part.done) for part in found.loading] == [("convert", 30)]
