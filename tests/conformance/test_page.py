"""docs/nnsight.md shows the rows that the tests run, and its links lead somewhere."""

from __future__ import annotations

import re
import sys
from importlib.metadata import version

import nnsight
from nnsight import TransformersModel
from nnsight.intervention.source import SourceEnvoy
from nnsight.intervention.tracer import InterleavingTracer
from nnsight_page import GROUPS, PAGE, _anchor, written


def test_the_page_is_what_the_tests_run():
    page = PAGE.read_text()
    assert written(page) == page, "run python tests/conformance/nnsight_page.py"


def test_the_page_is_about_the_nnsight_that_is_installed():
    assert f"nnsight {version('nnsight')}" in PAGE.read_text()


def test_every_row_has_a_line_and_a_section_of_its_own():
    page = PAGE.read_text()
    titles = [row.title for group in GROUPS for row in group.rows]
    assert len({_anchor(title) for title in titles}) == len(titles)
    assert re.findall(r"^### (.*)$", page, re.MULTILINE) == titles
    assert set(re.findall(r"\(#([^)]*)\) \|", page)) == {_anchor(title) for title in titles}


MACHINERY = {
    *("AUTO_CLASS", "OVERLOAD_PREFIX", "Info", "build", "capture", "compile", "execute", "parse", "traceback"),
    *("interleave", "from_model_key", "to_model_key", "describe_checkpoint", "estimate_bytes", "max_tp_size"),
    *("Object", "NNsightDeprecationWarning", "deprecated", "LanguageModel"),  # hints, warnings, and a deprecated alias
}
"""Public names that are no capability of their own."""


def _public() -> set[str]:
    """Everything that nnsight lets people say: of models, modules and operations, of tracers, and at the top."""
    classes = [one for top in (TransformersModel, InterleavingTracer, SourceEnvoy) for one in top.__mro__]
    own = {name for one in classes if one.__module__.startswith("nnsight") for name in vars(one)}
    top = {name for name in nnsight.__all__ if str(getattr(getattr(nnsight, name), "__module__", "")) in sys.modules}
    top = {name for name in top if getattr(nnsight, name).__module__.startswith("nnsight")}
    remote = {"compare", "is_model_running", "login", "ndif_status", "register", "status", "whoami"}
    return {name for name in own | top | remote if not name.startswith("_")}


def test_every_public_name_of_nnsight_is_on_the_page():
    words = set(re.findall(r"\w+", PAGE.read_text()))
    assert not _public() - words - MACHINERY
    assert _public() >= MACHINERY


def test_pages_that_are_linked_to_exist():
    for name in re.findall(r"\]\(([a-z]+\.md)\)", PAGE.read_text()):
        assert (PAGE.parent / name).is_file(), name
