"""The example of an environment is the table of all settings: every one is there, with its default, and no other."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from pydantic import BaseModel, TypeAdapter

import telepatch.settings
import telepatch_server.settings
import telepatch_worker.settings

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = dict(re.findall(r"^#?(TELEPATCH_[A-Z_]+)=(.*)$", (ROOT / "deploy" / "env.example").read_text(), re.M))
ROOMS: list[type[BaseModel]] = [
    telepatch.settings.Settings,
    telepatch_server.settings.Settings,
    telepatch_server.settings.HostSettings,
    telepatch_worker.settings.Settings,
]
FIELDS = [(room, name) for room in ROOMS for name in room.model_fields]


def variable(field: str) -> str:
    """The name of a setting in the environment."""
    return f"TELEPATCH_{field.upper()}"


def test_the_example_names_every_setting_and_no_other():
    composed = set(re.findall(r"\$\{(TELEPATCH_[A-Z_]+)", (ROOT / "docker-compose.yml").read_text()))
    script = (ROOT / "deploy" / "slurm" / "worker.sbatch").read_text()
    scripted = set(re.findall(r"\$\{(TELEPATCH_SLURM_[A-Z_]+)", script))
    assert set(EXAMPLE) == {variable(name) for _, name in FIELDS} | composed | scripted


@pytest.mark.parametrize(("room", "field"), FIELDS, ids=lambda part: part if isinstance(part, str) else part.__module__)
def test_the_example_shows_the_default_of_a_setting(room, field):
    default, shown = room.model_fields[field].default, EXAMPLE[variable(field)]
    if default is None or isinstance(default, Path):
        assert shown == ("" if default is None else str(default))
    else:
        assert TypeAdapter(room.model_fields[field].annotation).validate_python(shown) == default
