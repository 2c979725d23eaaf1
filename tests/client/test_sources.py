"""Operations inside forwards, and standard names that are views, as an author spells them."""

from __future__ import annotations

import pytest

from telepatch.model import Model
from telepatch_protocol.card import Flow, Leaf, ModelCard, Operation, SourceCard, Target, View
from telepatch_protocol.errors import BadArgument, UnknownSite
from telepatch_protocol.graph import Get, Set


def flow(*places: tuple[int, int], axes: tuple[object, ...] = ("row", "pos", 8), path: str = "") -> Flow:
    return Flow(at=places, leaves=(Leaf.model_validate({"path": path, "axes": axes, "dtype": "float32"}),))


PAIR = Flow(at=((3, 0),), leaves=(*flow((3, 0), path="0").leaves, *flow((3, 0), path="1").leaves), arity=2)
SQUARE = ("row", 2, "pos", "pos")
BLOCK = SourceCard(
    operations=(
        Operation(name="attend_0", line=3, text="a, b = attend(x)", input=flow((0, 0), path="0"), output=PAIR),
        Operation(name="attend_0.source.w_0", line=2, text="w = q @ k", eager=True, output=flow((0, 1), axes=SQUARE)),
        Operation(name="x_1", line=4, text="x = a + residual", output=flow((3, 1))),
        Operation(name="norm_0", line=5, text="x = self.norm(x)", output=flow((3, 2), (4, 0))),
    )
)
PORTS = {
    "resid_pre": "input",
    "resid_post": "output",
    "resid_mid": "source.x_1.output",
    "q": Target(path="norm", port="output", view=View(split=(2, 4))),
    "z": Target(path="attn_impl", port="output", view=View(split=(2, 4))),
    "pattern": Target(port="source.attend_0.source.w_0.output"),
}


@pytest.fixture
def own(card: ModelCard) -> Model:
    modules = tuple(one.model_copy(update={"source": "Block"}) if one.kind == "Block" else one for one in card.modules)
    aliases = card.aliases.model_copy(update={"ports": {"blocks.*": PORTS}})
    changes = {"modules": modules, "aliases": aliases, "sources": {"Block": BLOCK}}
    return Model(ModelCard.model_validate({**card.model_dump(), **changes}))


def test_an_operation_is_read_and_written_by_its_name(own: Model) -> None:
    with own.trace("x") as t:
        layer = own.blocks[2]
        layer.source.x_1.output[:, -1] = 0
        layer.source.x_1.output *= 2
        layer.source.attend_0.input = 1.0
        layer.source.attend_0.outputs[1].save()
        layer.source.attend_0.source.w_0.output.save()
        own.unembed.output.save()
    sites = [node.site.rpartition(":")[2] for node in t.graph.nodes if isinstance(node, Get | Set)]
    assert sites[:-1] == [
        "source.x_1.output",
        "source.x_1.output",
        "source.x_1.output",
        "source.attend_0.input",
        "source.attend_0.outputs.1",
        "source.attend_0.source.w_0.output",
    ]


def test_views_have_the_shape_of_heads_before_anything_runs(own: Model) -> None:
    with own.trace(ids=[[1, 2, 3]]):
        assert own.blocks[0].z.shape == (1, 3, 2, 4)
        assert own.blocks[:].z.shape == (4, 1, 3, 2, 4)
        assert own.blocks[0].pattern.shape == (1, 2, 3, 3)
        own.blocks[0].z[:, -1, 1] = 0
        own.blocks[0].resid_mid.save()
        own.unembed.output.save()


def test_a_standard_name_of_an_operation_stays_standard_on_the_wire(own: Model) -> None:
    with own.trace(ids=[[1, 2, 3]]) as t:
        own.blocks[0].pattern.save()
    assert t.graph.nodes[0].site.endswith(":pattern")


def test_printing_the_source_shows_every_operation_with_its_line(own: Model) -> None:
    shown = repr(own.blocks[1].source)
    assert "attend_0    3  a, b = attend(x)" in shown
    assert "      w_0    2  w = q @ k   (eager attention)" in shown
    assert [repr(one).partition(",")[0] for one in own.blocks[1].source] == ["attend_0", "x_1", "norm_0"]
    assert "1 float32 (row, pos, 8)" in repr(own.blocks[1].source.attend_0)
    assert dir(own.blocks[1].source.attend_0.source) == ["w_0"]


def test_an_operation_that_happens_several_times_is_taken_by_call(own: Model) -> None:
    with pytest.raises(UnknownSite, match="happens 2 times in one forward; say which call"):
        own.blocks[1].source.norm_0.output.shape  # noqa: B018
    with own.trace("x") as t:
        own.blocks[1].source.norm_0.calls[1].output.save()
    (node,) = (node for node in t.graph.nodes if isinstance(node, Get))
    assert node.call == 1


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda layer: layer.source.x_2, "did you mean 'x_1'"),
        (lambda layer: layer.attn.source, "no operations that can be reached"),
        (lambda layer: layer.source.x_1.source, "no operations that can be reached"),
        (lambda layer: layer.source.x_1.input, "it has: output"),
    ],
)
def test_what_is_not_there_is_refused_with_what_is(own: Model, wrong, message) -> None:
    with pytest.raises(UnknownSite, match=message):
        wrong(own.blocks[0])


def test_an_operation_itself_cannot_be_assigned(own: Model) -> None:
    with pytest.raises(UnknownSite, match=r"x_1\.output = value"):
        own.blocks[0].source.x_1 = 0
    with pytest.raises(UnknownSite, match="write input or output"):
        own.blocks[0].source.x_1.value = 0


def test_an_item_of_what_an_operation_returns_as_a_tuple_is_asked_for_as_such(own: Model) -> None:
    with own.trace("x"):
        with pytest.raises(BadArgument, match=r"outputs\[0\]"):
            own.blocks[0].source.attend_0.output[0]
        own.blocks[0].source.attend_0.output[:1].save()
