"""Errors as data, and back."""

from __future__ import annotations

import pytest

from telepatch_protocol import errors
from telepatch_protocol.errors import ERRORS, ErrorRecord, ShapeError, TelepatchError, from_record
from telepatch_protocol.within import Within


@pytest.mark.parametrize("code", sorted(ERRORS))
def test_every_error_comes_back_as_its_own_class(code: str):
    within = [Within(kind="map", node="m", element=7, bound={"layer": 3}), Within(kind="fit", node="f", step=12)]
    error = ERRORS[code]("what was found", node="n1", file="study.py", line=3, parent="p", within=within)
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


def test_an_error_shows_which_elements_it_is_in_and_says_nothing_of_them_where_it_is_in_none():
    inner = ShapeError("does not fit").inside(Within(kind="repeat", node="r", step=2))
    outer = Within(kind="map", node="m", element=7, bound={"layer": 3, "pos": 5}, place="study.py:9")
    assert str(inner.inside(outer)) == (
        "does not fit [in element 7 of map 'm' at study.py:9 (layer=3, pos=5), in step 2 of repeat 'r']"
    )
    assert "within" not in ShapeError("no").record().model_dump_json()
