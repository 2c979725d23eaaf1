"""Chat messages as an input: their form, and how much is known of them before they are rendered."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from telepatch_protocol import wire
from telepatch_protocol.card import ModelCard
from telepatch_protocol.check import check
from telepatch_protocol.errors import BadArgument, ProtocolError
from telepatch_protocol.given import given
from telepatch_protocol.inputs import words_of
from telepatch_protocol.messages import conversations_of

CHAT = Path(__file__).parents[1] / "wire" / "1.0" / "chat.json"
HI = [{"role": "user", "content": "hi"}]


def test_messages_inline_or_in_a_constant_give_rows_of_a_length_not_known_yet(card: ModelCard) -> None:
    found = check(wire.decode(CHAT.read_bytes()), card)
    assert [(size.rows, repr(size.length)) for size in found.inputs.values()] == [(1, "len(a)"), (2, "len(b)")]
    graph = wire.decode(CHAT.read_bytes())
    sized = [(key, 3 if invoke.id == "a" else 4) for invoke, value in given(graph) for key in words_of(invoke, value)]
    known = check(graph, card, lengths=dict(sized))
    assert (known.saves["z"].shape or ())[:2] == (2, 4)


def test_one_conversation_is_one_row_and_a_list_of_them_several() -> None:
    assert conversations_of(HI) == [HI]
    assert conversations_of([HI, HI]) == [HI, HI]


@pytest.mark.parametrize(
    ("given", "settings", "says"),
    [
        (None, {}, "messages are a list"),
        ([], {}, "messages are a list"),
        ([[]], {}, "conversation 0, messages are a list of at least one"),
        ([HI, []], {}, "conversation 1"),
        ([HI[0], "x"], {}, "message 1: a message is"),
        ([{"role": 3}], {}, "no 'role' that is text"),
        (HI, {"add_generation_prompt": "yes"}, "true or false"),
        (HI, {"tools": [3]}, "list of objects"),
        (HI, {"messages": []}, "no setting 'messages'"),
        (HI, {"two words": 1}, "no setting 'two words'"),
        (HI, {"continue_final_message": True, "add_generation_prompt": True}, "choose one"),
    ],
)
def test_what_is_no_conversation_is_told_by_its_place(given: Any, settings: dict[str, Any], says: str) -> None:
    with pytest.raises(BadArgument, match=says):
        conversations_of(given, settings)


def test_settings_of_a_template_go_with_messages_only() -> None:
    text = CHAT.read_text().replace('"messages": "$talk"', '"text": "$talk"')
    with pytest.raises(ProtocolError, match="no messages"):
        wire.decode(text)
