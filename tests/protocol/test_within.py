"""Where inside nodes with sub-graphs something went wrong, in words."""

from __future__ import annotations

from telepatch_protocol.meta import Meta
from telepatch_protocol.within import Within, bound_of


def test_what_names_stand_for_is_short_and_leaves_out_what_is_computed():
    found = bound_of({"layer": 3, "on": True, "text": "a" * 500, "ids": list(range(99)), "h": Meta((2,), "float32")})
    assert (found["layer"], found["on"], "h" in found) == (3, "True", False)
    assert found["ids"] == "[0, 1, 2, 3, 4, 5, 6, 7, ...]"
    assert len(str(found["text"])) <= 60


def test_each_part_is_said_by_what_tells_it_from_others():
    fit = Within(kind="fit", node="f", step=12)
    assert str(fit) == "step 12 of fit 'f'"
    assert str(fit.model_copy(update={"part": "after"})) == "'after' of step 12 of fit 'f'"
    assert str(fit.model_copy(update={"element": 7, "bound": {"x": 2}})) == "element 7 of step 12 of fit 'f' (x=2)"
