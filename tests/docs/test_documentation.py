"""The code in README.md and docs/guide.md runs as it stands, against a service with the demo model."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tomllib
import urllib.request
from pathlib import Path

import httpx
import pytest

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


def test_the_python_of_the_readme_runs(demo_url: str, tmp_path: Path):
    assert said("README.md", demo_url, tmp_path)


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
    assert [card.kind for card in cards] == ["vision", "module", "module", "causal", "causal"]


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


@pytest.mark.skipif(shutil.which("curl") is None, reason="no curl here")
def test_the_protocols_first_document_runs(demo_url: str, tmp_path: Path):
    document, *_ = blocks("docs/protocol.md", "json")
    (tmp_path / "graph.json").write_text(document)
    (command,) = blocks("docs/protocol.md", "sh")
    done = subprocess.run(
        ["sh", "-c", command.replace(ADDRESS, demo_url)], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    (job,) = json.loads(done.stdout)["jobs"]
    assert job["state"] == "completed"
    assert set(job["values"]) == {"ids", "values"}


def test_the_protocols_generation_steers_and_stops(demo_url: str):
    (document,) = [block for block in blocks("docs/protocol.md", "json") if '"generate"' in block]
    request = urllib.request.Request(
        f"{demo_url}/v1/jobs?wait=60&format=json", document.encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request) as answer:
        (job,) = json.load(answer)["jobs"]
    assert job["state"] == "completed", job
    values = {name: found["values"] for name, found in job["values"].items()}
    fired = [score[0] > 1.0 for score in values["score"]].index(True)
    assert len(values["score"]) == fired + 4
    assert (values["since"], values["reasons"]) == (4, [4])


WORKED = {"grid": [4, 4], "best": [2], "c": None, "attribution": None, "seen": None, "W": [576, 2], "loss": [20]}
"""What the protocol's worked examples save, with shapes where they do not depend on the model."""


def test_the_protocols_worked_examples_of_sub_graphs_run(demo_url: str):
    documents = [block for block in blocks("docs/protocol.md", "json")[1:] if '"generate"' not in block]
    saved = {}
    for document in documents:
        answer = httpx.post(f"{demo_url}/v1/jobs", params={"wait": 60}, json=json.loads(document), timeout=90)
        assert answer.status_code == 200, answer.text
        (job,) = answer.json()["jobs"]
        assert job["state"] == "completed", job
        assert "values" in job, f"too much to stand in the answer: {list(json.loads(document)['saves'])}"
        saved |= job["values"]
    assert set(saved) == set(WORKED)
    for name, shape in WORKED.items():
        assert shape is None or saved[name]["shape"] == shape
