"""The studies find in the demo model what they say they find."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import pytest

STUDIES = Path(__file__).parents[2] / "studies"


@pytest.fixture
def study(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A study by its file's name."""
    monkeypatch.syspath_prepend(str(STUDIES))
    before = set(sys.modules)
    yield lambda name: __import__(name)
    for name in set(sys.modules) - before:
        if name in ("logit_lens", "activation_patching", "attribution_patching", "drawing"):
            del sys.modules[name]


def is_picture(file: Path) -> bool:
    return file.read_bytes().startswith(b"\x89PNG") and file.stat().st_size > 10_000


def test_the_logit_lens_sees_the_answer_at_the_last_block(study: Any, demo_url: str, tmp_path: Path, capsys: Any):
    assert is_picture(study("logit_lens").main(demo_url, tmp_path))
    last = capsys.readouterr().out.strip().splitlines()[-1]
    assert re.match(r"\s*29\s+' Mary'\s+9\d%.*9\d\.\d%", last), last


def test_patching_restores_the_answer_where_the_prompts_differ_and_later_at_the_end(
    study: Any, demo_url: str, tmp_path: Path, capsys: Any
):
    assert is_picture(study("activation_patching").main(demo_url, tmp_path, every=9))
    said = capsys.readouterr().out
    assert "clean +6.12, corrupted -5.49" in said
    rows = [line.split() for line in said.splitlines() if line.strip().endswith(("0", "9", "18", "27"))]
    restored = {int(row[0]): (int(row[-2].rstrip("%")), int(row[-1])) for row in rows if row[0].isdigit()}
    assert restored[9][0] >= 95
    assert restored[13][0] >= 90
    assert restored[13][1] == 27
    assert all(share <= 20 for place, (share, _) in restored.items() if place not in (9, 13))


def test_attribution_follows_the_patches_and_falls_short_of_the_early_ones(
    study: Any, demo_url: str, tmp_path: Path, capsys: Any
):
    assert is_picture(study("attribution_patching").main(demo_url, tmp_path, every=9))
    said = capsys.readouterr().out
    (overall,) = re.findall(r"correlation over 56 patches: (\S+)", said)
    assert 0.8 < float(overall) < 0.95
    found = [row.split() for row in said.splitlines() if re.match(r" +\d+ ", row)]
    rows = {int(row[0]): (float(row[-2]), float(row[-1])) for row in found}
    assert rows.keys() == {0, 9, 18, 27}
    assert all(measured > 11 for measured, _ in rows.values())
    assert all(2 < estimated < 4 for _, estimated in (rows[0], rows[9]))
    assert abs(rows[27][0] - rows[27][1]) < 0.3
