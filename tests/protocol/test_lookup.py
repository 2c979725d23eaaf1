"""What names, constants and indices stand for, scope by scope."""

from __future__ import annotations

from typing import Any

import pytest

from telepatch_protocol.card import ModelCard
from telepatch_protocol.data import Column, Columns
from telepatch_protocol.errors import BadArgument, GraphError, ShapeError, TooLarge, UnknownName
from telepatch_protocol.lookup import Lookup
from telepatch_protocol.meta import Meta
from telepatch_protocol.refs import Ref

FLOATS = Meta((3, 4), "float32")
DIGEST = "ab" * 32


@pytest.fixture
def lookup(card: ModelCard) -> Lookup:
    data = Columns(
        {"words": Column(kind="text", rows=5, longest=9), "labels": Column(kind="tensor", rows=5, dtype="int64")}
    )
    made = Lookup(card, {"t": FLOATS}, lambda job, name: Meta((7, 2), "float32"), {DIGEST: data})
    made.define("outer", FLOATS)
    return made


def test_a_scope_sees_what_is_outside_and_is_forgotten_when_it_ends(lookup: Lookup):
    lookup.enter({"k": 5})
    lookup.define("inner", Meta((), "int64"))
    assert [lookup.lookup(Ref(name)) for name in ("outer", "k", "inner")] == [FLOATS, 5, Meta((), "int64")]
    lookup.leave()
    for name in ("k", "inner"):
        with pytest.raises(UnknownName, match="refers to nothing"):
            lookup.lookup(Ref(name))


def test_no_name_stands_for_two_things_in_sight(lookup: Lookup):
    with pytest.raises(BadArgument, match="two things have the id 'outer'"):
        lookup.enter({"outer": 1})
    lookup.enter({"k": 1})
    for name in ("outer", "k"):
        with pytest.raises(BadArgument, match="two things have the id"):
            lookup.define(name, 1)


def test_the_step_of_an_inner_repeat_hides_that_of_an_outer_one(lookup: Lookup):
    lookup.enter({"step": 1})
    lookup.enter({"step": 2})
    assert lookup.lookup(Ref("step")) == 2
    lookup.leave()
    assert lookup.lookup(Ref("step")) == 1


def test_a_name_that_is_nearly_right_is_offered(lookup: Lookup):
    with pytest.raises(UnknownName, match=r"did you mean '\$outer'"):
        lookup.lookup(Ref("outr"))


def test_outputs_are_named_where_there_are_several(lookup: Lookup):
    lookup.define("m", {"v": FLOATS, "v.lengths": Meta((3,), "int64")})
    assert lookup.lookup(Ref("m", "v.lengths")) == Meta((3,), "int64")
    with pytest.raises(UnknownName, match=r"write one of \$m.v, \$m.v.lengths"):
        lookup.lookup(Ref("m"))
    with pytest.raises(UnknownName, match="it is one value"):
        lookup.lookup(Ref("outer", "v"))


@pytest.mark.parametrize(
    ("form", "stands_for"),
    [
        ({"range": [1, 4]}, [1, 2, 3]),
        ({"tensor": "t"}, FLOATS),
        ({"result": "job", "name": "h"}, Meta((7, 2), "float32")),
        ({"result": "job", "name": "h", "index": [0]}, Meta((2,), "float32")),
    ],
)
def test_constant_forms_stand_for_what_they_name(lookup: Lookup, form: Any, stands_for: object):
    assert lookup.argument(form) == stands_for


@pytest.mark.parametrize(
    ("form", "error"),
    [
        ({"tensor": "no"}, UnknownName),
        ({"tensor": 5}, UnknownName),
        ({"data": "00" * 32}, UnknownName),
        ({"data": "short"}, BadArgument),
        ({"data": DIGEST}, BadArgument),
        ({"result": 5, "name": "h"}, BadArgument),
        ({"what": 5}, BadArgument),
        ({"range": [0, 10**9]}, TooLarge),
    ],
)
def test_forms_that_stand_for_nothing_are_refused(lookup: Lookup, form: Any, error: type[GraphError]):
    with pytest.raises(error):
        lookup.argument(form)


def test_a_column_of_texts_is_there_for_maps_alone(lookup: Lookup):
    lookup.constant("set", {"data": DIGEST})
    assert isinstance(lookup.sequence("$set.words"), Column)
    assert lookup.sequence("$set.labels") == Meta((5,), "int64")
    with pytest.raises(BadArgument, match="iterate over it with map"):
        lookup.argument("$set.words")
    with pytest.raises(BadArgument, match="several columns"):
        lookup.sequence({"data": DIGEST})


def test_a_write_has_no_value(lookup: Lookup):
    lookup.define("w", FLOATS)
    lookup.level.writes.add("w")
    with pytest.raises(BadArgument, match="is a write, which has no value"):
        lookup.lookup(Ref("w"))


@pytest.mark.parametrize("found", [True, -1, 1.5, "2", [1], FLOATS])
def test_a_name_in_a_site_stands_for_a_number_from_zero(lookup: Lookup, found: object):
    lookup.define("layer", found)
    with pytest.raises(BadArgument, match="must be a number of a module"):
        lookup.number("layer")


def test_numbers_and_lists_of_numbers_are_values_where_a_tensor_is_needed(lookup: Lookup):
    assert lookup.written(1) == Meta((), "int64")
    assert lookup.written("nan") == Meta((), "float32")
    assert lookup.written([[1, 2.5]]) == Meta((1, 2), "float32")
    with pytest.raises(BadArgument, match="cannot be written"):
        lookup.written("text")


def test_values_of_too_many_axes_are_refused(lookup: Lookup):
    with pytest.raises(ShapeError, match="33 axes"):
        lookup.define("deep", Meta((1,) * 33, "float32"))
