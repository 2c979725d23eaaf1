"""The examples are short, all on their page, and find in the demo model what they are for."""

from __future__ import annotations

import ast
import io
import re
import subprocess
import sys
import tokenize
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"
FILES = sorted(path for path in EXAMPLES.glob("*.py"))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_an_example_is_short(file: Path) -> None:
    assert lines_of_code(file.read_text()) < 40


def lines_of_code(text: str) -> int:
    """Lines with anything but comments, docstrings and space in them."""
    documented = {
        line
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Module | ast.FunctionDef) and ast.get_docstring(node) is not None
        for line in range(node.body[0].lineno, (node.body[0].end_lineno or 0) + 1)
    }
    silent = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
    spoken = {
        line
        for token in tokenize.generate_tokens(io.StringIO(text).readline)
        if token.type not in silent
        for line in range(token.start[0], token.end[0] + 1)
    }
    return len(spoken - documented)


def test_the_page_lists_every_example() -> None:
    listed = re.findall(r"\]\((\w+\.py)\)", (EXAMPLES / "README.md").read_text())
    assert sorted(listed) == [file.name for file in FILES]


def said(name: str, url: str) -> str:
    """What an example prints as a program."""
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / f"{name}.py"), url], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_digits_are_associated_as_the_example_says(service_url: str) -> None:
    assert re.search(r"layer 1: effect \+1\.\d\d, p = 0\.000\d", said("image_association", service_url))


FINDINGS = {
    "patching_grid": r"10 ' gave'",
    "path_patching": r"head 4 of block 22",
    "attribution": r"add up to \+6\.5\d; the difference is \+6\.5\d",
    "conditional_steering": r"' sorry' +\+0\.130 fired\n(.*\n)+' proud'",
    "tuned_lens": r"mean divergence 1\d\.\d+ -> [12]\.(.|\n)*block 24: +10\.24 nats(.|\n)*block 24: +2\.",
    "das": r"step 14: loss  0\.\d+, the other country's capital in 100%",
    "lora": r"loss 5\.\d\d -> [01]\..*\n.*goes on with ' \"', adapted ' m'",
    "sae_training": r"step 180: error +5\.\d+, +[12]\d\.\d features",
    "sae_splice": r"loss recovered 9\d",
    "resampling_ablation": r"untouched: \+6\.12",
    "attention_knockout": r"' Tower' ",
    "head_ablation": r"head 3 of block 23: \+3\.17",
}
"""What the examples find in the demo model."""


@pytest.mark.slow
@pytest.mark.parametrize("name", FINDINGS)
def test_an_example_runs_as_a_program_and_finds_what_it_is_for(name: str, demo_url: str) -> None:
    assert re.search(FINDINGS[name], said(name, demo_url))
