"""The code in README.md and docs/guide.md runs as it stands, against a service with the demo model."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import httpx
import pytest

from telepatch_protocol.graph import KINDS

ROOT = Path(__file__).parents[2]
ADDRESS = "http://127.0.0.1:8000"


def blocks(file: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", (ROOT / file).read_text(), re.DOTALL | re.MULTILINE)


def said(file: str, demo_url: str, tmp_path: Path) -> str:
    """What the Python of a page prints, run in order as one program."""
    (tmp_path / "page.py").write_text("\n".join(blocks(file, "python")).replace(ADDRESS, demo_url))
    done = subprocess.run([sys.executable, "page.py"], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_the_python_of_the_readme_runs(demo_url: str, tmp_path: Path):
    assert said("README.md", demo_url, tmp_path)


@pytest.mark.slow
def test_the_python_of_the_guide_runs_and_shows_the_line_of_an_error(demo_url: str, tmp_path: Path):
    found = said("docs/guide.md", demo_url, tmp_path)
    lines = (tmp_path / "page.py").read_text().splitlines()
    line = 1 + next(number for number, text in enumerate(lines) if "too_far = " in text)
    assert f"page.py:{line}: index 99 is past the end of axis 1" in found


def test_the_python_of_the_page_about_models_runs(service_url: str, tmp_path: Path):
    assert said("docs/models.md", service_url, tmp_path).startswith("(4, 5, 32) [")


def test_the_cards_of_the_page_about_models_are_cards():
    from telepatch_worker.cards import CardFile

    cards = [CardFile.model_validate(tomllib.loads(text)) for text in blocks("docs/models.md", "toml")]
    assert [card.kind for card in cards] == ["vision", "module", "module", *["causal"] * 4]


def test_the_edit_of_the_page_about_http_is_one():
    from telepatch_protocol.wire import decode_edit

    (command,) = [block for block in blocks("docs/http.md", "sh") if "/v1/edits/" in block]
    assert set(decode_edit(command.split("'")[1]).arguments) == {"direction", "scale"}


@pytest.mark.skipif(shutil.which("curl") is None, reason="no curl here")
def test_the_readmes_curl_gives_five_tokens(demo_url: str):
    (command,) = [block for block in blocks("README.md", "sh") if block.startswith("curl")]
    done = subprocess.run(["sh", "-c", command.replace(ADDRESS, demo_url)], capture_output=True, text=True, check=True)
    (job,) = json.loads(done.stdout)["jobs"]
    assert job["state"] == "completed"
    assert len(job["values"]["tokens"]["values"]) == 5


WORKED: dict[str, dict[str, list[int] | None]] = {
    "graph": {"ids": [1, 5], "values": [1, 5]},
    "edits": {"plain": [1], "damped": [1]},
    "lens": {"lens": [30]},
    "logs": {"late": []},
    "grid": {"grid": [4, 4]},
    "repeat": {"best": [2]},
    "cond": {"c": []},
    "grad": {"attribution": [30, 1, 4], "seen": [1, 576]},
    "generation": {"tokens": None, "score": None, "since": [], "reasons": [1]},
    "training": {"W": [576, 2], "loss": [20]},
}
"""What the protocol's worked examples save, with shapes; a generation ends when it does."""


@pytest.fixture(scope="module")
def worked(demo_url: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict]:
    """What each worked example of the protocol saved, by the name under which its command finds it."""
    folder = tmp_path_factory.mktemp("worked")
    documents, commands = blocks("docs/protocol.md", "json"), blocks("docs/protocol.md", "sh")
    saved = {}
    for document, command in zip(documents, commands, strict=True):
        name = re.findall(r"@(\w+)\.json", command)[0]
        (folder / f"{name}.json").write_text(document)
        saved[name] = completed(command.replace(ADDRESS, demo_url), folder)
    return saved


def completed(command: str, folder: Path) -> dict:
    """The values of the one job that a command sends: by the shell, or as curl would send it where there is none."""
    if shutil.which("curl") is not None:
        done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=True, cwd=folder)
        answer = json.loads(done.stdout)
    else:
        words = shlex.split(command)
        assert words[:3] == ["curl", "-s", "-H"]
        header, value = words[3].split(": ")
        body = (folder / words[5].removeprefix("@")).read_bytes()
        answer = httpx.post(words[6], content=body, headers={header: value}, timeout=60).json()
    (job,) = answer["jobs"]
    assert job["state"] == "completed", job
    assert "values" in job, f"too much to stand in the answer: {job}"
    return job["values"]


def test_the_protocols_worked_examples_have_every_kind_of_node():
    documents = "".join(blocks("docs/protocol.md", "json"))
    kinds = set(re.findall(r'"kind": "(\w+)"', documents)) | ({"generate"} if '"generate": {' in documents else set())
    assert kinds >= set(KINDS)


def test_the_commands_of_the_protocols_worked_examples_give_what_they_save(worked: dict[str, dict]):
    assert worked.keys() == WORKED.keys()
    for name, shapes in WORKED.items():
        assert worked[name].keys() == shapes.keys()
        for save, shape in shapes.items():
            assert shape is None or worked[name][save]["shape"] == shape, (name, save)


def test_the_protocols_examples_find_what_they_are_for(worked: dict[str, dict]):
    assert worked["edits"]["damped"]["values"] == [0.0]
    assert worked["edits"]["plain"]["values"] != [0.0]
    first, *_, last = worked["training"]["loss"]["values"]
    assert last < first


def test_the_protocols_generation_steers_and_stops(worked: dict[str, dict]):
    values = {name: found["values"] for name, found in worked["generation"].items()}
    fired = [score[0] > 1.0 for score in values["score"]].index(True)
    assert len(values["score"]) == fired + 4
    assert (values["since"], values["reasons"]) == (4, [4])
