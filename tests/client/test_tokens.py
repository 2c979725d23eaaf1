"""Tokens of texts and of a trace's inputs, and positions by the words that stand there."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import pytest

import telepatch
from telepatch.lab import Lab
from telepatch.model import Model
from telepatch.tokens import TokenRows, Tokens
from telepatch_protocol.errors import BadArgument, TraceError


def line() -> int:
    """The line that calls this."""
    frame = inspect.currentframe()
    assert frame is not None
    assert frame.f_back is not None
    return frame.f_back.f_lineno


TEXT = "When Mary saw Maryann, John Smith — née Ådam — saw Mary"
PIECES = [
    "[B]",
    "When",
    " Mary",
    " saw",
    " Mary",
    "ann",
    ",",
    " John",
    " Sm",
    "ith",
    " — n",
    "é",
    "é",
    "e Ådam — saw",
    " Mary",
]


def tokens() -> Tokens:
    """As a tokenizer tells them that cuts spaces off, adds a token in front, and splits one letter into two tokens."""
    offsets, at = [], 0
    for piece in PIECES:
        begin = 0 if piece == "[B]" else TEXT.index(piece, at)
        end = 0 if piece == "[B]" else begin + len(piece)
        at = begin if piece == "é" and offsets[-1][0] != begin else end
        offsets.append((begin + (len(piece) - len(piece.lstrip())), end))
    return Tokens.of({"ids": list(range(len(PIECES))), "pieces": PIECES, "offsets": offsets, "text": TEXT})


@pytest.mark.parametrize(
    ("text", "at", "whole"),
    [
        ("When", 1, slice(1, 2)),
        ("John Smith", 9, slice(7, 10)),
        ("Smith", 9, slice(8, 10)),
        (" Smith", 9, slice(8, 10)),
        ("mit", 9, slice(8, 10)),
        ("Maryann", 5, slice(4, 6)),
        ("née", 13, slice(10, 14)),
        ("é", 12, slice(11, 13)),
        ("Ådam", 13, slice(13, 14)),
        (TEXT, 14, slice(1, 15)),
    ],
)
def test_a_piece_of_text_is_found_where_it_ends_whatever_the_tokens_are(text: str, at: int, whole: slice) -> None:
    assert tokens().find(text) == at
    assert tokens().span(text) == whole


def test_of_several_occurrences_one_is_chosen_or_all_are_shown() -> None:
    assert tokens().find_all("Mary") == [2, 4, 14]
    assert tokens().find_all("nobody") == []
    assert [tokens().find("Mary", which) for which in (0, 1, -1)] == [2, 4, 14]
    with pytest.raises(BadArgument, match=r"3 times, at 2 \(' Mary'\), 4 .*which=-1.*find_all") as caught:
        tokens().find("Mary")
    assert (caught.value.file, caught.value.line) == (__file__, line() - 1)
    with pytest.raises(BadArgument, match="no which=3"):
        tokens().find("Mary", 3)


@pytest.mark.parametrize("wrong", ["", 3, None])
def test_what_is_no_text_is_refused(wrong: Any) -> None:
    with pytest.raises(BadArgument, match="piece of the text"):
        tokens().find(wrong)


def test_what_is_not_there_is_refused_with_the_tokens_that_are() -> None:
    with pytest.raises(BadArgument, match=r"'Bob' does not occur .* 1:'When' 2:' Mary'"):
        tokens().find("Bob")


def test_without_offsets_the_pieces_are_the_text() -> None:
    found = Tokens.of({"pieces": ["<s>", "ab", "c"]}, [1, 5, 6])
    assert (found.ids, found.text, found.find("bc")) == ((1, 5, 6), "<s>abc", 2)


def test_rows_agree_on_a_position_or_are_asked_one_by_one() -> None:
    rows = TokenRows([tokens(), tokens()])
    assert rows.find("John") == 7
    rows.append(Tokens.of({"ids": [1], "pieces": ["John"]}))
    with pytest.raises(BadArgument, match="7, 7, 0"):
        rows.find("John")


def test_the_tokens_of_a_prompt_are_asked_for_once_and_give_positions(lab: Lab, gateway: Any) -> None:
    model = lab.model("tiny")
    for layer in range(3):
        with model.trace("a Mary") as t:
            at = t.tokens.find("Mary")
            assert type(at) is int
            model.blocks[layer].resid_post[:, at].save()
            assert t.graph.nodes[0].index == [":", "$c1"]  # type: ignore[union-attr]
            assert t.graph.constants["c1"] == 5
    assert t.tokens.find("Mary") == 5
    assert len(gateway.tokenized) == 1


def test_each_input_has_its_own_tokens(lab: Lab) -> None:
    model = lab.model("tiny")
    with model.trace() as t:
        with t.invoke("xy") as first:
            assert t.tokens.find("y") == 1
            best = model.lm_head.output.argmax(-1).save()
        with t.invoke(["yx", "yz"]) as second:
            assert t.tokens.find("y") == 0
        with t.invoke([[ord("q"), ord("y")]]) as third:
            pass
        with t.invoke(best) as fourth, pytest.raises(TraceError, match="once it runs"):
            fourth.tokens  # noqa: B018
        with pytest.raises(TraceError, match="4 inputs"):
            t.tokens  # noqa: B018
    assert (first.tokens.find("y"), second.tokens.find("y"), third.tokens.find("y")) == (1, 0, 1)
    with pytest.raises(TraceError, match="once its block"):
        model.trace().invoke("x").tokens  # noqa: B018


def test_a_card_without_a_connection_knows_no_tokens(model: Model) -> None:
    with model.trace("x") as t:
        model.lm_head.output.save()
    with pytest.raises(TraceError, match="without a connection"):
        t.tokens  # noqa: B018


HI = [{"role": "user", "content": "Hi"}]


def test_messages_travel_as_they_are_with_the_settings_of_the_template(model: Model) -> None:
    with model.trace(HI) as t:
        model.lm_head.output.save()
    (invoke,) = t.graph.runs[0].invokes
    assert (invoke.messages, invoke.chat, t.graph.constants["c0"]) == ("$c0", None, HI)
    for given in ({"prompt": telepatch.Chat(HI, add_generation_prompt=False, thinking=True)}, {"messages": HI}):
        with model.trace(**given) as t:
            model.lm_head.output.save()
    with model.trace(telepatch.Chat(HI, add_generation_prompt=False, thinking=np.bool_(True))) as t:
        model.lm_head.output.save()
    assert t.graph.runs[0].invokes[0].chat == {"add_generation_prompt": False, "thinking": True}
    with model.trace([HI, HI]) as t:
        assert model.lm_head.output.shape[0] == 2
        model.lm_head.output.save()


def test_messages_have_tokens(lab: Lab) -> None:
    model = lab.model("tiny")
    with model.trace(HI) as t:
        assert t.tokens.text == "Hi>"
        assert t.tokens.find("i") == 1
        model.lm_head.output.save()
    assert model.tokenize(telepatch.Chat(HI, add_generation_prompt=False)).text == "Hi"
    assert [row.text for row in model.tokenize([HI, HI])] == ["Hi>", "Hi>"]


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (lambda: telepatch.Chat([]), "messages are a list"),
        (lambda: telepatch.Chat([{"content": "x"}]), "message 0 has no 'role'"),
        (lambda: telepatch.Chat([HI, [{"role": "user"}, {"role": 2}]]), "conversation 1, message 1"),
        (lambda: telepatch.Chat(HI, add_generation_prompt=1), "true or false"),  # type: ignore[arg-type]
        (lambda: telepatch.Chat(HI, tools="x"), "list of objects"),  # type: ignore[arg-type]
        (lambda: telepatch.Chat(HI, add_generation_prompt=True, continue_final_message=True), "choose one"),
        (lambda: telepatch.Chat([{"role": "user", "content": object()}]), "found object"),
    ],
)
def test_messages_that_cannot_be_are_refused_at_the_authors_line(wrong: Any, says: str) -> None:
    with pytest.raises(BadArgument, match=says) as caught:
        wrong()
    assert (caught.value.file, caught.value.line) == (__file__, wrong.__code__.co_firstlineno)


def test_a_model_without_a_template_refuses_messages_by_name(model: Model) -> None:
    mute = Model(model.card.model_copy(update={"chat": None}))
    with pytest.raises(BadArgument, match="'tiny' has no chat template"), mute.trace(HI):
        pass
    with pytest.raises(BadArgument, match="'tiny' has no chat template"):
        mute.tokenize(HI)


def test_inputs_given_as_ids_are_compared_where_they_must_be_aligned(model: Model) -> None:
    with pytest.raises(telepatch.ShapeError, match="'x0' has 3 tokens; 'x2' has 2 tokens") as caught:  # noqa: SIM117
        with model.trace(aligned=True) as t:
            with t.invoke([1, 2, 3]):
                model.lm_head.output.save()
            with t.invoke("of a length not known yet"):
                pass
            wrong = line() + 1
            with t.invoke([1, 2]):
                pass
    assert (caught.value.file, caught.value.line) == (__file__, wrong)
