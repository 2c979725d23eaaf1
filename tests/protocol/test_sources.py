"""Operations inside forwards and standard ports on a card: what is found, when it happens, and what is refused."""

from __future__ import annotations

import pytest

from telepatch_protocol import sites
from telepatch_protocol.card import Flow, Leaf, ModelCard, Operation, SourceCard, Target, View
from telepatch_protocol.check import check
from telepatch_protocol.errors import BadArgument, ShapeError, UnknownSite
from telepatch_protocol.wire import from_dict

WIDE = ("row", "pos", 8)


def flow(*at: tuple[int, int], axes: tuple[object, ...] = WIDE, engine: bool = False, arity: int | None = None) -> Flow:
    paths = ("0", "1") if arity else ("",)
    leaves = [{"path": path, "axes": axes, "dtype": "float32", "engine": engine} for path in paths]
    return Flow(at=at, leaves=tuple(map(Leaf.model_validate, leaves)), arity=arity)


INSIDE = SourceCard(
    operations=(
        Operation(name="twice_0", line=2, text="twice(x)", input=flow((0, 0)), output=flow((0, 3), arity=2)),
        Operation(name="twice_0.source.w_0", line=1, text="w = 2 * x", eager=True, output=flow((0, 1))),
        Operation(name="mask_0", line=3, text="mask = ...", output=flow((0, 4), engine=True)),
        Operation(name="turn_0", line=4, text="turn(x)", output=flow((0, 5), (1, 0))),
    )
)
PORTS = {
    "middle": "source.twice_0.outputs.1",
    "q": Target(path="attn", port="output", view=View(split=(2, 4))),
    "second": Target(path="attn", port="output", view=View(split=(4, 2), pick=(0, 1))),
    "only": Target(port="source.twice_0.source.w_0.output"),
}


@pytest.fixture
def own(card: ModelCard) -> ModelCard:
    """The card of the decoder, with operations in `norm`, which fires twice, and in its blocks."""
    keyed = ("norm", *(f"layers.{number}" for number in range(4)))
    modules = [one.model_copy(update={"source": "Inside"}) if one.path in keyed else one for one in card.modules]
    aliases = card.aliases.model_copy(update={"ports": {"blocks.*": PORTS}})
    changes = {"modules": modules, "aliases": aliases, "sources": {"Inside": INSIDE}}
    return ModelCard.model_validate_json(ModelCard.model_validate({**card.model_dump(), **changes}).model_dump_json())


def find(card: ModelCard, text: str, call: int | None = None) -> sites.Found:
    return sites.find(card, sites.parse(text), call)[0]


def test_operations_happen_between_the_events_of_modules_in_their_order(own: ModelCard):
    begun = find(own, "layers.1:input").order
    texts = ["input", "source.twice_0.input", "source.twice_0.source.w_0.output", "source.twice_0.output"]
    orders = [find(own, f"layers.1:{text}").order for text in texts]
    assert orders == sorted(orders)
    assert len(set(orders)) == 4
    assert begun < orders[-1] < begun + 1


def test_every_call_of_a_module_has_its_operations(own: ModelCard):
    first, second = (find(own, "norm:source.twice_0.output", call).order for call in (0, 1))
    assert 50 < first < 51
    assert 52 < second < 53
    with pytest.raises(UnknownSite, match=r"'norm:source' happens 2 times in one forward"):
        find(own, "norm:source.twice_0.output")
    turns = [find(own, "norm:source.turn_0.output", call).order for call in range(4)]
    assert turns == sorted(turns)
    with pytest.raises(UnknownSite, match="no call 4"):
        find(own, "norm:source.turn_0.output", 4)


def test_a_view_has_the_place_of_the_tensor_and_axes_of_its_own(own: ModelCard):
    native, whole, part = (find(own, text) for text in ("layers.2.attn:output", "blocks.2:q", "blocks.2:second"))
    assert native.place == whole.place == part.place
    assert native.order == whole.order == part.order
    assert (native.leaf.axes, whole.leaf.axes, part.leaf.axes) == (WIDE, (*WIDE[:2], 2, 4), (*WIDE[:2], 2))
    assert (native.view, whole.view, part.view) == (None, View(split=(2, 4)), View(split=(4, 2), pick=(0, 1)))


def test_a_standard_port_may_be_an_operation(own: ModelCard):
    assert find(own, "blocks.0:middle") == find(own, "layers.0:source.twice_0.outputs.1")
    assert find(own, "blocks.0:only").eager
    assert not find(own, "blocks.0:middle").eager
    assert len(sites.find(own, sites.parse("blocks.*:middle"))) == 4


@pytest.mark.parametrize(
    ("site", "message"),
    [
        ("layers.1:source.twice_1.output", "did you mean 'twice_0'.*it has: twice_0, mask_0, turn_0"),
        ("layers.1:source.twice_0", "write 'source.twice_0.input' or 'source.twice_0.output'"),
        (
            "layers.1:source.twice_0.outputs.2",
            "no leaf '2' in its source.twice_0.outputs; there are: outputs.0, outputs.1",
        ),
        ("layers.1:source.twice_0.output.0", "'outputs.0' names a leaf"),
        ("layers.1:source.mask_0.input", "no tensor flows through the input of operation 'mask_0'.*it has: output"),
        ("layers.1.attn:source.twice_0.output", "offers no operations inside its forward"),
        ("layers.1:source", "has no operation ''"),
        ("blocks.1:q.0", "one tensor and has no parts"),
    ],
)
def test_what_is_not_there_is_refused_with_what_is(own: ModelCard, site: str, message: str):
    with pytest.raises(UnknownSite, match=message):
        find(own, site)


END = {"kind": "get", "site": "head:output"}


def checked(card: ModelCard, *nodes: dict[str, object]):
    found = [{"id": f"n{at}", "invoke": "a", **node} for at, node in enumerate([*nodes, END])]
    saves = {str(node["id"]): f"${node['id']}" for node in found if node["kind"] == "get"}
    runs = [{"id": "r", "invokes": [{"id": "a", "ids": [1, 2, 3]}]}]
    graph = from_dict({"protocol": [1, 0], "model": {"id": "tiny"}, "runs": runs, "nodes": found, "saves": saves})
    return check(graph, card, attachment={}, results=lambda job, name: None)


def test_a_graph_is_checked_in_the_shape_of_the_view(own: ModelCard):
    found = checked(
        own,
        {"kind": "set", "site": "blocks.1:q", "index": [":", ":", 1], "value": [1.0, 2.0, 3.0, 4.0]},
        {"kind": "get", "site": "blocks.1:q"},
    )
    assert found.saves["n1"].shape == (1, 3, 2, 4)
    with pytest.raises(ShapeError, match=r"\(3,\) cannot be written to 'blocks.1:q' of shape \(1, 3, 4\)"):
        checked(own, {"kind": "set", "site": "blocks.1:q", "index": [":", ":", 1], "value": [1.0, 2.0, 3.0]})


def test_what_belongs_to_the_engine_inside_a_forward_is_only_read(own: ModelCard):
    with pytest.raises(BadArgument, match="belongs to the engine"):
        checked(own, {"kind": "set", "site": "layers.1:source.mask_0.output", "value": 0.0})


def test_a_job_that_needs_eager_attention_is_told_so(own: ModelCard):
    (warning,) = checked(own, {"kind": "get", "site": "blocks.1:only"}).warnings
    assert "eager attention" in warning
    assert not checked(own, {"kind": "get", "site": "blocks.1:middle"}).warnings
