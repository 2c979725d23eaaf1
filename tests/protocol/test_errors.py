"""Errors as data, and back."""

from __future__ import annotations

import pytest

from telepatch_protocol import errors
from telepatch_protocol.errors import ERRORS, ErrorRecord, ShapeError, TelepatchError, from_record


@pytest.mark.parametrize("code", sorted(ERRORS))
def test_every_error_comes_back_as_its_own_class(code: str):
    error = ERRORS[code]("what was found", node="n1", file="study.py", line=3, parent="p")
    back = from_record(error.record().model_dump())
    assert type(back) is ERRORS[code]
    assert back.record() == error.record()


def test_the_tree_in_the_docstring_names_every_class():
    drawn = {
        word
        for word in (errors.__doc__ or "").replace("─", " ").split()
        if word in {cls.__name__ for cls in ERRORS.values()}
    }
    assert drawn == {cls.__name__ for cls in ERRORS.values()}


def test_a_code_of_a_newer_service_becomes_the_base_class():
    assert type(from_record(ErrorRecord(code="from_the_future", detail="x"))) is TelepatchError


def test_an_error_shows_the_authors_line_first_and_keeps_the_first_place_it_is_given():
    error = ShapeError("does not fit").at(node="a", file="study.py", line=4).at(node="b", file="other.py", line=9)
    assert str(error) == "study.py:4: does not fit"
    assert (error.node, error.line) == ("a", 4)
