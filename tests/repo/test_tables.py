"""Tables that must agree with each other, in the files that frame the repository."""

from __future__ import annotations

import re
import subprocess
import tomllib
from importlib.metadata import entry_points, version
from pathlib import Path

import pytest

import telepatch.cli.discovery as discovery
import telepatch.cli.exits as exits
from telepatch_protocol import errors

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def folders() -> list[str]:
    """Top-level folders of the repository, as git sees them."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode == 0:
        names = {line.split("/")[0] for line in listed.stdout.splitlines() if "/" in line}
    else:  # an exported tree
        names = {entry.name for entry in ROOT.iterdir() if entry.is_dir()} - {"out", "dist", "build"}
    return sorted(name for name in names if not name.startswith("."))


def test_the_plan_names_every_folder_and_no_other():
    plan = (ROOT / "ARCHITECTURE.md").read_text()
    assert sorted(re.findall(r"^\| `([a-z]+)/` \|", plan, re.M)) == folders()


def test_the_newest_version_of_the_change_log_is_the_package():
    newest = re.search(r"^## \[(\d+\.\d+\.\d+)\]", (ROOT / "CHANGELOG.md").read_text(), re.M)
    assert newest is not None
    assert newest[1] == PROJECT["project"]["version"] == version("telepatch")


def test_every_package_is_marked_as_typed():
    for package in PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]:
        assert (ROOT / package / "py.typed").is_file(), package


def test_the_import_contracts_cover_every_package():
    packages = {Path(path).name for path in PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]}
    assert set(PROJECT["tool"]["importlinter"]["root_packages"]) == packages == set(PROJECT["tool"]["mypy"]["packages"])


def test_the_extra_all_is_every_extra_but_the_developers_and_those_that_few_need():
    extras = PROJECT["project"]["optional-dependencies"]
    named = set(re.findall(r"[a-z]+", extras["all"][0].partition("[")[2]))
    assert named == set(extras) - {"all", "dev", "adapters", "quantised", "s3", "train"}


def test_the_installed_commands_are_the_declared_ones_and_all_load():
    declared = PROJECT["project"]["entry-points"]["telepatch.commands"]
    assert {point.name: point.value for point in entry_points(group="telepatch.commands")} == declared
    for name in declared:
        discovery.load(name)


def test_every_error_ends_in_an_exit_code_that_has_a_meaning():
    classes = [cls for cls in vars(errors).values() if isinstance(cls, type) and issubclass(cls, errors.TelepatchError)]
    assert len(classes) > 20
    for cls in classes:
        assert exits.code_for(cls("x")) in exits.MEANINGS


def test_the_makefile_helps_with_every_target():
    text = (ROOT / "Makefile").read_text()
    (phony,) = re.findall(r"^\.PHONY: (.*)$", text, re.M)
    told = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert set(re.findall(r"^  (\w+) ", told, re.M)) == set(phony.split())


def test_a_python_that_is_too_old_is_refused_with_its_version(tmp_path):
    old = tmp_path / "python3"
    old.write_text('#!/bin/sh\n[ "$1" = --version ] && echo "Python 3.8.1"\nexit 1\n')
    old.chmod(0o755)
    command = ["make", "setup", f"PYTHON={old}", f"VENV={tmp_path / 'venv'}"]
    told = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert told.returncode != 0
    assert "needs Python 3.11 or newer" in told.stdout
    assert "3.8.1" in told.stdout


def test_a_python_without_venv_is_named_with_what_to_install(tmp_path):
    bare = tmp_path / "python3"
    bare.write_text('#!/bin/sh\ncase "$2" in *ensurepip*) exit 1;; esac\nexit 0\n')
    bare.chmod(0o755)
    command = ["make", "setup", f"PYTHON={bare}", f"VENV={tmp_path / 'venv'}"]
    told = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert told.returncode != 0
    assert "apt install python3-venv" in told.stdout


@pytest.mark.parametrize(("flavour", "constrained"), [("cpu", True), ("gpu", False)])
def test_only_machines_without_a_gpu_take_the_pinned_pytorch(flavour, constrained, tmp_path):
    command = ["make", "-n", "setup", f"FLAVOUR={flavour}", f"VENV={tmp_path}"]
    told = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert ("-c constraints/cpu.txt -e '.[all,dev]'" in told) is constrained
    assert "-e '.[all,dev]'" in told


@pytest.mark.parametrize("name", ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "deploy/README.md"])
def test_links_between_documents_lead_somewhere(name):
    page = ROOT / name
    for link in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text()):
        target = page.parent / link
        assert target.exists() or target.with_suffix(".md").exists(), f"{name}: {link}"


def test_continuous_integration_runs_the_tests_last():
    lines = [line for line in (ROOT / ".ci" / "run").read_text().splitlines() if line.startswith("make ")]
    assert lines == ["make setup", "make check", "make thin", "make slow", "make test"]
    assert (ROOT / ".ci" / "run").stat().st_mode & 0o111


def test_nothing_imports_what_a_request_must_never_need():
    banned = re.compile(
        r"^\s*(?:import|from)\s+(?:pickle|cloudpickle|dill|marshal|shelve)\b|(?<!safetensors\.)\btorch\.load\(|(?<![\w.])(?:eval|exec)\(",
        re.M,
    )
    for package in PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]:
        for file in (ROOT / package).rglob("*.py"):
            found = banned.search(file.read_text())
            assert found is None, f"{file.relative_to(ROOT)}: {found[0] if found else ''}"


def test_the_environment_is_read_in_settings_alone():
    reading = re.compile(r"\bos\.(?:environ|getenv)\b|from os import .*\b(?:environ|getenv)\b")
    for package in PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]:
        for file in (ROOT / package).rglob("*.py"):
            assert file.name == "settings.py" or not reading.search(file.read_text()), file.relative_to(ROOT)


def test_the_page_about_the_command_line_has_every_command_and_exit_code():
    page = (ROOT / "docs" / "command-line.md").read_text()
    codes = {int(code): text for code, text in re.findall(r"^\| (\d+) \| (.*) \|$", page, re.M)}
    assert codes == exits.MEANINGS
    commands = re.findall(r"^\| `([a-z]+)` \|", page, re.M)
    assert commands == sorted(PROJECT["project"]["entry-points"]["telepatch.commands"])
