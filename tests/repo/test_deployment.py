"""The deployment files, checked without a container engine: what they build, start, mount and publish must exist."""

from __future__ import annotations

import configparser
import re
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
DOCKERFILES = sorted((ROOT / "deploy" / "docker").glob("Dockerfile.*"))
UNITS = sorted((ROOT / "deploy" / "systemd").glob("*.service"))
SERVICES = [name for name, service in COMPOSE["services"].items() if "build" in service]


def instructions(dockerfile: Path) -> list[tuple[str, str]]:
    """The instructions of a Dockerfile in order, comments dropped and continued lines joined."""
    text = re.sub(r"^\s*#.*\n", "", dockerfile.read_text(), flags=re.M).replace("\\\n", " ")
    return [(word, rest.strip()) for word, _, rest in (line.partition(" ") for line in text.splitlines() if line)]


def understands(command: str, options: list[str]) -> bool:
    """Whether the command line has the command and each of the options."""
    told = subprocess.run(
        [sys.executable, "-m", "telepatch", command, "--help"],
        capture_output=True,
        text=True,
        check=True,
        env={"COLUMNS": "200", "NO_COLOR": "1"},
    )
    return all(re.search(rf"(?<![\w-]){option}\b", told.stdout) for option in options)


def words_of(command: list[str]) -> tuple[str, list[str]]:
    """The command and its options, of the words after ``telepatch``."""
    return command[0], [word for word in command[1:] if word.startswith("--")]


def test_the_compose_file_follows_the_compose_specification():
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec"]
    told = subprocess.run([*command, str(ROOT / "docker-compose.yml")], capture_output=True, text=True, check=False)
    assert told.returncode == 0, told.stdout


@pytest.mark.parametrize("name", SERVICES)
def test_what_a_service_builds_exists(name):
    build = COMPOSE["services"][name]["build"]
    assert (ROOT / build["context"] / build["dockerfile"]).is_file()
    arguments = build.get("args", {})
    declared = dict(instructions(ROOT / build["dockerfile"]))
    assert all(f"ARG {argument}=" in (ROOT / build["dockerfile"]).read_text() for argument in arguments), declared
    if "CONSTRAINT" in arguments:
        assert (ROOT / arguments["CONSTRAINT"]).is_file()


@pytest.mark.parametrize("name", SERVICES)
def test_the_image_of_a_service_carries_the_version_of_the_package(name):
    assert re.fullmatch(rf"[a-z-]+:{re.escape(version('telepatch'))}(-[a-z]+)?", COMPOSE["services"][name]["image"])


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_starts_a_command_that_exists(name):
    assert understands(*words_of(COMPOSE["services"][name]["command"]))


def test_every_named_volume_is_declared_and_used():
    mounts = [mount.split(":")[0] for service in COMPOSE["services"].values() for mount in service.get("volumes", [])]
    assert set(mounts) == set(COMPOSE["volumes"])


def test_folders_that_are_mounted_belong_to_the_service_in_its_image():
    for name in SERVICES:
        text = (ROOT / COMPOSE["services"][name]["build"]["dockerfile"]).read_text()
        for mount in COMPOSE["services"][name]["volumes"]:
            assert f" {mount.split(':')[1]}" in text, f"{name}: {mount}"


def test_only_the_gateway_is_published_and_by_default_on_loopback():
    ports = {name: service["ports"] for name, service in COMPOSE["services"].items() if "ports" in service}
    assert ports == {"gateway": ["${TELEPATCH_PUBLISH:-127.0.0.1:8000}:8000"]}


def test_the_queue_keeps_a_journal_and_never_evicts():
    command = COMPOSE["services"]["queue"]["command"]
    assert command[command.index("--appendonly") + 1] == "yes"
    assert command[command.index("--maxmemory-policy") + 1] == "noeviction"


def test_everything_waits_for_a_healthy_queue():
    for name in SERVICES:
        assert COMPOSE["services"][name]["depends_on"]["queue"]["condition"] == "service_healthy"


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda file: file.name)
def test_an_image_copies_what_exists_and_does_not_run_as_root(dockerfile):
    found = instructions(dockerfile)
    for word, rest in found:
        if word == "COPY" and not rest.startswith("--from"):
            assert all((ROOT / source).exists() for source in rest.split()[:-1]), rest
        if word == "FROM":
            assert re.fullmatch(r"python:\d+\.\d+\.\d+-slim-\w+( AS \w+)?", rest), f"not pinned: {rest}"
    users = [rest for word, rest in found if word == "USER"]
    assert users
    assert users[-1] not in ("root", "0")


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda file: file.name)
def test_an_image_holds_every_package_of_the_wheel(dockerfile):
    copied = {rest.split()[0] for word, rest in instructions(dockerfile) if word == "COPY"}
    assert copied >= {"protocol", "client", "broker", "server", "worker"}


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda file: file.name)
def test_an_image_starts_a_command_that_exists(dockerfile):
    found = dict(instructions(dockerfile))
    assert found["ENTRYPOINT"] == '["telepatch"]'
    assert understands(*words_of(yaml.safe_load(found["CMD"])))


@pytest.mark.parametrize("unit", UNITS, ids=lambda file: file.name)
def test_a_unit_starts_a_command_that_exists_without_root(unit):
    parsed = configparser.RawConfigParser(strict=False)
    parsed.optionxform = str  # type: ignore[assignment]
    parsed.read(unit)
    program, *command = parsed["Service"]["ExecStart"].split()
    assert Path(program).name == "telepatch"
    assert understands(*words_of(command))
    assert parsed["Service"]["User"] not in ("", "root")


def test_systemd_finds_no_fault_in_the_units_where_there_is_a_systemd(tmp_path):
    analyze = shutil.which("systemd-analyze")
    for unit in UNITS:
        text = unit.read_text().replace("/opt/telepatch/bin/telepatch", sys.executable)
        (tmp_path / unit.name.replace("@.", "@smollm2-135m.")).write_text(text)
    if analyze:  # elsewhere, what this machine can check is checked above
        told = subprocess.run(
            [analyze, "verify", *map(str, tmp_path.iterdir())], capture_output=True, text=True, check=False
        )
        ours = [line for line in told.stderr.splitlines() if "telepatch" in line]
        assert ours == []
