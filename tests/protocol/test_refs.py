"""References and literals in arguments."""

from __future__ import annotations

import pytest

from telepatch_protocol import refs
from telepatch_protocol.errors import BadArgument
from telepatch_protocol.refs import Ref


def test_a_dollar_makes_a_reference_and_two_make_a_dollar():
    assert refs.parse("$h") == Ref("h")
    assert refs.parse("$top.values") == Ref("top", "values")
    assert refs.parse("$$5") is None
    assert refs.literal("$$5") == "$5"
    assert refs.resolve(refs.escape("$5"), lambda ref: None) == "$5"


@pytest.mark.parametrize("text", ["$", "$1a", "$a b", "$a.", "$é"])
def test_a_dollar_before_anything_else_is_refused(text: str):
    with pytest.raises(BadArgument, match="not a reference"):
        refs.parse(text)


def test_references_are_found_at_any_depth_but_not_without_end():
    assert list(refs.walk(["$a", [1, ["$b.x"]]])) == [Ref("a"), Ref("b", "x")]
    deep: list = []
    for _ in range(100):
        deep = [deep]
    with pytest.raises(BadArgument, match="deeper"):
        list(refs.walk(deep))


def test_an_object_that_is_no_constant_form_is_refused():
    with pytest.raises(BadArgument, match="no constant"):
        list(refs.walk({"eval": "1"}))
