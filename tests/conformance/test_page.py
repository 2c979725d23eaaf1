"""docs/nnsight.md shows the rows that the tests run, and its links lead somewhere."""

from __future__ import annotations

import re
from importlib.metadata import version

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


def test_pages_that_are_linked_to_exist():
    for name in re.findall(r"\]\(([a-z]+\.md)\)", PAGE.read_text()):
        assert (PAGE.parent / name).is_file(), name
