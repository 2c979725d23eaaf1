"""What people say who come from nnsight is answered with what says the same, at their line."""

from __future__ import annotations

import pytest

from telepatch.model import Model
from telepatch_protocol.errors import UnknownName, UnknownSite


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("stop", "ends by itself"),
        ("barrier", "in any direction"),
        ("iter", "model.generate"),
        ("result", "model.output"),
        ("invok", "it has invoke"),
    ],
)
def test_a_trace_has_no_such_word_and_says_what_has(model: Model, name: str, hint: str) -> None:
    with model.trace("x") as t:
        assert not hasattr(t, name)
        with pytest.raises(UnknownName, match=hint) as caught:
            getattr(t, name)
        assert (caught.value.file or "").endswith("test_elsewhere.py")
        model.unembed.output.save()


@pytest.mark.parametrize(("name", "hint"), [("stop", "stop_if"), ("iter", "every step"), ("all", "every step")])
def test_a_generation_says_how_its_steps_are_chosen_and_ended(model: Model, name: str, hint: str) -> None:
    with model.generate("x", max_new_tokens=2) as t, pytest.raises(UnknownName, match=hint):
        getattr(t, name)


def test_a_module_is_skipped_by_assigning_its_output(model: Model) -> None:
    with model.trace("x"):
        with pytest.raises(UnknownSite, match=r"module\.output = value"):
            model.blocks[1].skip(model.blocks[1].output)
        model.unembed.output.save()
