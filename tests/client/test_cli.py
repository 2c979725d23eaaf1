"""The frame of the command line: what it lists, what it imports, how it ends."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
from importlib.metadata import entry_points, version

import pytest

from telepatch.cli import exits
from telepatch.cli.app import run

COMMANDS = sorted(point.name for point in entry_points(group="telepatch.commands"))
GRAPH = {"protocol": [1, 0], "model": {"id": "gpt2-random"}, "saves": {}}


@pytest.fixture(autouse=True)
def plain_terminal(monkeypatch):
    """Help as plain text that does not depend on where the tests run."""
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("TERM", "dumb")
    for name in ("TELEPATCH_URL", "TELEPATCH_API_KEY", "TELEPATCH_KEYS_FILE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def nobody() -> str:
    """An address where nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}"


def test_help_lists_every_command_of_every_room(capsys):
    assert run(["--help"]) == exits.OK
    told = capsys.readouterr().out
    assert all(re.search(rf"^. {name} ", told, re.M) for name in COMMANDS), told


def test_help_says_what_each_exit_code_means(capsys):
    run(["--help"])
    told = " ".join(capsys.readouterr().out.split())
    assert all(f"{code} {text}" in told for code, text in exits.MEANINGS.items())


@pytest.mark.parametrize("name", [name for name in COMMANDS if name != "version"])
def test_the_help_of_a_command_shows_examples_of_it(name, capsys):
    assert run([name, "--help"]) == exits.OK
    assert len(re.findall(rf"telepatch {name}\b", capsys.readouterr().out)) >= 3


def test_version_says_the_version_of_the_package_and_of_the_protocol(capsys):
    assert run(["version"]) == exits.OK
    assert re.match(rf"telepatch {re.escape(version('telepatch'))}\nprotocol  \d+\.\d+\n", capsys.readouterr().out)


def test_version_imports_no_other_room_and_nothing_heavy():
    program = "import sys; from telepatch.cli.app import run; run(['version']); print(' '.join(sys.modules))"
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    loaded = set(told.splitlines()[-1].split())
    assert "telepatch.cli.version" in loaded
    assert loaded.isdisjoint({"torch", "fastapi", "redis", "httpx", "telepatch_server", "telepatch_worker"})


def test_an_unknown_command_is_a_usage_error_that_names_the_near_one(capsys):
    assert run(["stauts"]) == exits.USAGE
    assert "status" in capsys.readouterr().err


def test_a_service_that_is_not_there_ends_with_unreachable_and_its_address(nobody, capsys):
    assert run(["status", "--url", nobody]) == exits.UNREACHABLE
    told = capsys.readouterr().err
    assert nobody in told
    assert told.count("\n") == 1


def test_an_address_that_is_none_is_a_usage_error(capsys):
    assert run(["status", "--url", "gopher://x"]) == exits.USAGE
    assert "gopher" in capsys.readouterr().err


def test_a_graph_file_that_is_not_there_is_a_usage_error(capsys, tmp_path):
    assert run(["run", str(tmp_path / "none.json")]) == exits.USAGE
    assert "none.json" in capsys.readouterr().err


def test_a_file_that_holds_no_graph_is_refused_before_anything_is_sent(capsys, tmp_path, nobody):
    (tmp_path / "graph.json").write_text('{"protocol": [1, 0], "weights": 1}')
    assert run(["run", str(tmp_path / "graph.json"), "--url", nobody]) == exits.REFUSED
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--attachment", "--out"])
def test_a_file_of_tensors_that_cannot_be_is_a_usage_error(option, capsys, tmp_path, nobody):
    (tmp_path / "graph.json").write_text(json.dumps(GRAPH))
    words = ["run", str(tmp_path / "graph.json"), option, str(tmp_path / "none" / "x.safetensors"), "--url", nobody]
    assert run(words) == exits.USAGE
    assert "x.safetensors" in capsys.readouterr().err


def test_a_graph_that_is_no_text_is_refused(capsys, tmp_path, nobody):
    (tmp_path / "graph.json").write_bytes(b"\xff")
    assert run(["run", str(tmp_path / "graph.json"), "--url", nobody]) == exits.REFUSED
    assert "Traceback" not in capsys.readouterr().err


def test_an_attachment_that_is_no_safetensors_file_is_refused_before_anything_is_sent(capsys, tmp_path, nobody):
    (tmp_path / "graph.json").write_text(json.dumps(GRAPH))
    (tmp_path / "bad.safetensors").write_bytes(b"not tensors")
    words = ["run", str(tmp_path / "graph.json"), "--attachment", str(tmp_path / "bad.safetensors"), "--url", nobody]
    assert run(words) == exits.REFUSED


@pytest.mark.parametrize(
    ("command", "library", "extra"),
    [("gateway", "uvicorn", "server"), ("up", "redis", "server"), ("worker", "torch", "worker")],
)
def test_a_command_whose_library_is_missing_says_what_to_install(command, library, extra):
    program = (
        f"import sys; sys.modules[{library!r}] = None; from telepatch.cli.app import run; sys.exit(run([{command!r}]))"
    )
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert told.returncode == exits.MISSING, told.stderr
    assert f"{command} needs {library}" in told.stderr
    assert f"pip install 'telepatch[{extra}]'" in told.stderr


def test_without_typer_the_command_says_what_to_install():
    program = "import sys; sys.modules['typer'] = None; from telepatch.__main__ import main; main()"
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert told.returncode == exits.USAGE
    assert told.stderr == "telepatch: the command line needs one more step: pip install 'telepatch[cli]'\n"
