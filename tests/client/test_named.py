"""Inputs of models without tokens, as an author writes them: named tensors, images, audio, and bare arrays."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from telepatch.model import Model
from telepatch.trace import Trace
from telepatch_protocol.card import Holds, InputCard, ModelCard, Pixels
from telepatch_protocol.errors import BadArgument, DtypeError, NotYetSupported, ShapeError, TelepatchError, UnknownName

COLOUR = InputCard(axes=("row", 3, 8, 6), pixels=Pixels())
GREY = InputCard(axes=("row", 1, 8, 6), pixels=Pixels())
SOUND = InputCard(axes=("row", "pos"))


@pytest.fixture
def eye(card: ModelCard) -> Model:
    return served(card, "vision", pixel_values=COLOUR)


def served(card: ModelCard, kind: str, **inputs: InputCard) -> Model:
    return Model(card.model_copy(update={"kind": kind, "inputs": inputs, "vocabulary": 0, "tokenizer": None}))


def sent(model: Model, *args: Any, **form: Any) -> np.ndarray[Any, Any]:
    """The tensor that a trace with such an input sends as its main input."""
    with model.trace(*args, **form) as t:
        model.lm_head.output.save()
    return tensor(t, next(iter(model.card.inputs)))


def tensor(t: Trace, name: str) -> np.ndarray[Any, Any]:
    (invoke,) = t.graph.runs[0].invokes
    assert invoke.inputs is not None
    constant = t.graph.constants[str(invoke.inputs[name]).removeprefix("$")]
    assert isinstance(constant, dict)
    return np.asarray(t._tensors[str(constant["tensor"])].array)


def pictures(*shape: int) -> np.ndarray[Any, Any]:
    return (np.arange(np.prod(shape)) % 251).astype(np.uint8).reshape(shape)


def test_named_tensors_go_as_they_are(eye: Model) -> None:
    given = pictures(2, 3, 8, 6)
    found = sent(eye, inputs={"pixel_values": given})
    assert found.dtype == np.uint8
    assert np.array_equal(found, given)
    assert np.array_equal(sent(eye, {"pixel_values": given}), given)


def test_ids_that_lack_the_places_of_an_image_are_refused_where_they_are_given(card: ModelCard) -> None:
    ids = InputCard(axes=("row", "pos"), dtype="int64", below=9, holds=Holds(number=8, times=2))
    mixed = served(card, "module", input_ids=ids)
    assert sent(mixed, inputs={"input_ids": np.array([[1, 8, 8, 2]])}).tolist() == [[1, 8, 8, 2]]
    for wrong in (np.array([[8, 8], [8, 1]]), [[8, 8, 1], [1, 8, 1]]):
        with pytest.raises(BadArgument, match="'input_ids': row 1 has 8 1 times; each row has it 2 times"):
            sent(mixed, inputs={"input_ids": wrong})


def test_a_bare_array_is_the_one_input_of_a_model_without_tokens(card: ModelCard, eye: Model) -> None:
    assert np.array_equal(sent(eye, pictures(2, 3, 8, 6)), pictures(2, 3, 8, 6))
    sound = served(card, "audio", input_values=SOUND)
    wave = np.linspace(0, 1, 20)[None]
    assert sent(sound, wave).dtype == np.float32
    assert np.allclose(sent(sound, audio=wave), wave)
    assert sent(sound, [[0, 1, 2]]).dtype == np.float32


def test_images_with_channels_last_are_turned_and_a_list_is_rows(eye: Model) -> None:
    first, second = pictures(8, 6, 3), pictures(8, 6, 3)[::-1]
    assert np.array_equal(sent(eye, images=first), first.transpose(2, 0, 1))
    found = sent(eye, images=[first, second])
    assert np.array_equal(found, np.stack([first, second]).transpose(0, 3, 1, 2))
    assert np.array_equal(sent(eye, images=pictures(4, 3, 8, 6)), pictures(4, 3, 8, 6))


def test_grey_images_need_no_channel(card: ModelCard) -> None:
    grey = served(card, "vision", pixel_values=GREY)
    assert sent(grey, images=pictures(8, 6)).shape == (1, 8, 6)
    assert sent(grey, images=pictures(5, 8, 6)).shape == (5, 1, 8, 6)
    assert sent(grey, images=pictures(5, 1, 8, 6)).shape == (5, 1, 8, 6)
    assert sent(grey, images=pictures(5, 8, 6, 1)).shape == (5, 1, 8, 6)


def test_images_of_a_drawing_library_are_read(card: ModelCard, eye: Model) -> None:
    class Picture:
        """Numbers in the way in which Pillow gives them away."""

        def __init__(self, array: np.ndarray[Any, Any]) -> None:
            self.__array_interface__ = array.__array_interface__
            self.kept = array

    found = sent(eye, images=[Picture(pictures(8, 6, 3)), Picture(pictures(8, 6, 3))])
    assert found.shape == (2, 3, 8, 6)
    assert sent(eye, images=Picture(pictures(8, 6, 3))).shape == (3, 8, 6)


def test_several_inputs_are_several_invokes(eye: Model) -> None:
    with eye.trace() as t:
        for rows in (1, 4):
            with t.invoke(images=pictures(rows, 3, 8, 6)):
                eye.lm_head.output.save()
    assert [invoke.form for invoke in t.graph.runs[0].invokes] == ["inputs", "inputs"]


def test_the_shape_of_a_read_is_known_at_once(card: ModelCard) -> None:
    sound = served(card, "audio", input_values=SOUND)
    with sound.trace(audio=np.zeros((2, 30), np.float32)):
        assert sound.lm_head.output.shape == (2, 30, 50)
        sound.lm_head.output.save()


@pytest.mark.parametrize(
    ("form", "kind", "says"),
    [
        ({"images": pictures(2, 3, 8, 7)}, ShapeError, r"\(rows, 3, 8, 6\), found \(2, 3, 8, 7\)"),
        ({"images": [pictures(8, 6, 3), pictures(8, 7, 3)]}, BadArgument, "have one shape; found"),
        ({"images": pictures(3, 8, 6).astype(np.int64)}, DtypeError, "found int64"),
        ({"images": [[1, 2]]}, DtypeError, "found a list of integers"),
        ({"audio": np.zeros((1, 4))}, BadArgument, "takes no audio; it takes pixel_values"),
        ({"inputs": {"pixels": pictures(3, 8, 6)}}, UnknownName, "did you mean 'pixel_values'"),
        ({"inputs": [1]}, BadArgument, "a dict from names to arrays"),
        ({"text": "hello"}, BadArgument, "gives text; model 'tiny' takes pixel_values"),
        ({"ids": [1, 2]}, BadArgument, "gives ids; model 'tiny' takes pixel_values"),
        ({"images": pictures(3, 8, 6), "text": "x"}, BadArgument, "one input is given at a time"),
    ],
)
def test_what_the_model_cannot_take_is_refused_at_the_authors_line(
    eye: Model, form: dict[str, Any], kind: type[TelepatchError], says: str
) -> None:
    with pytest.raises(kind, match=says), eye.trace(**form):
        eye.lm_head.output.save()


def test_a_value_that_the_trace_computes_is_refused_with_what_does_the_same(eye: Model) -> None:
    with pytest.raises(NotYetSupported, match=r"model\.input = value"), eye.trace() as t:
        with t.invoke(images=pictures(3, 8, 6)):
            half = eye.input / 2
        with t.invoke(inputs={"pixel_values": half}):
            eye.lm_head.output.save()


def test_images_for_a_model_of_tokens_are_refused(model: Model) -> None:
    with pytest.raises(BadArgument, match="takes no images; it takes token ids"), model.trace(images=pictures(8, 6)):
        model.lm_head.output.save()


def test_images_and_audio_are_scanned_as_they_are_traced(card: ModelCard, eye: Model) -> None:
    with eye.scan(images=pictures(4, 3, 8, 6)):
        assert eye.lm_head.output.shape[0] == 4
    with served(card, "audio", input_values=SOUND).scan(audio=np.zeros((2, 20), np.float32)):
        pass
