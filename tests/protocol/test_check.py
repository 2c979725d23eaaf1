"""What a graph's values will be, and what is refused before anything runs."""

from __future__ import annotations

import pytest

from telepatch_protocol.card import ModelCard
from telepatch_protocol.check import Checked, check
from telepatch_protocol.errors import (
    BadArgument,
    CausalLoop,
    DtypeError,
    IndexOutOfRange,
    ShapeError,
    TelepatchError,
    TooLarge,
    UnknownName,
    UnknownOperation,
    UnknownSite,
)
from telepatch_protocol.graph import Graph, ModelRef, Options
from telepatch_protocol.meta import UNKNOWN, Meta
from telepatch_protocol.sizes import Size
from telepatch_protocol.versions import needed

GET = {"kind": "get", "id": "h", "site": "blocks.1:resid_post", "invoke": "x"}


def graph(
    *nodes: dict, saves: dict | None = None, texts: tuple[str, ...] = ("x",), rows: int = 1, **fields: object
) -> Graph:
    runs = ({"id": "r", "invokes": [{"id": name, "text": [f"words of {name}"] * rows} for name in texts]},)
    document = {
        "model": {"id": "tiny"},
        "runs": runs,
        "nodes": nodes,
        "saves": saves or {"out": f"${nodes[-1]['id']}"},
        **fields,
    }
    return Graph.model_validate(document)


def checked(card: ModelCard, *nodes: dict, length: int | None = 6, rows: int = 1, **fields: object) -> Checked:
    own = {key: value for key, value in fields.items() if key not in ("attachment", "results")}
    document = graph(*nodes, rows=rows, **own)
    texts = [invoke.text[0] for run in document.runs for invoke in run.invokes]
    lengths = {} if length is None else dict.fromkeys(texts, length)
    return check(document, card, lengths=lengths, attachment=fields.get("attachment"), results=fields.get("results"))


def call(id_: str, op: str, *args: object, **kwargs: object) -> dict:
    return {"kind": "call", "id": id_, "op": op, "args": args, "kwargs": kwargs}


def write(value: object, **fields: object) -> dict:
    return {"kind": "set", "id": "w", "site": "blocks.1:resid_post", "invoke": "x", "value": value, **fields}


def test_shapes_are_numbers_where_the_length_is_known_and_symbols_where_not(card: ModelCard):
    assert checked(card, GET).saves["out"] == Meta((1, 6, 8), "float32")
    assert checked(card, GET, length=None).saves["out"] == Meta((1, Size.symbol("len(x)"), 8), "float32")
    assert checked(card, GET, rows=3).saves["out"].shape == (3, 6, 8)


def test_a_starred_read_has_a_leading_axis_of_modules(card: ModelCard):
    stacked = {**GET, "site": "blocks.*:resid_post", "index": [":", ":", -1]}
    assert checked(card, stacked).saves["out"].shape == (4, 1, 8)


def test_a_module_keeps_the_axes_before_its_own(card: ModelCard):
    nodes = ({**GET, "site": "blocks.*:resid_post"}, {"kind": "module", "id": "z", "path": "unembed", "args": ["$h"]})
    assert checked(card, *nodes).saves["out"].shape == (4, 1, 6, 100)
    with pytest.raises(ShapeError, match=r"takes values of shape \(\.\.\., 8\)"):
        checked(card, {**GET, "site": "head:output"}, nodes[1])


def test_a_parameter_needs_no_invoke(card: ModelCard):
    node = {"kind": "get", "id": "w", "site": "layers.0.mlp.up:param.weight"}
    found = checked(card, node)
    assert found.saves["out"] == Meta((32, 8), "float32")
    assert found.schedule.passes == ()


def test_the_invoke_may_be_left_out_where_there_is_only_one(card: ModelCard):
    node = {"kind": "get", "id": "h", "site": "embed:output"}
    assert checked(card, node).schedule.passes[0].invokes == ("x",)
    with pytest.raises(BadArgument, match="needs an invoke; there are: x, y"):
        checked(card, node, texts=("x", "y"))


@pytest.mark.parametrize(
    ("nodes", "error", "says"),
    [
        (({**GET, "index": [":", 6]},), IndexOutOfRange, "index 6 is past the end of axis 1 .* size 6"),
        (({**GET, "index": [0, 0, 0, 0]},), IndexOutOfRange, "3 axes"),
        (({**GET, "invoke": "y"},), UnknownName, "no invoke 'y'; there are: x"),
        (({**GET, "site": "layers.1.attn:nothing"},), UnknownSite, "ports here"),
        ((GET, call("c", "softmaxx", "$h", -1)), UnknownOperation, "softmax"),
        ((GET, call("c", "softmax", "$hh", -1)), UnknownName, "did you mean '\\$h'"),
        ((GET, call("c", "softmax", "$h", 3)), ShapeError, "dim is 3, but shape"),
        ((GET, call("c", "softmax", "$h", -1, axis=2)), BadArgument, "no argument 'axis'"),
        ((GET, call("c", "softmax", "$h", "last")), BadArgument, "'dim' is a dim; found 'last'"),
        ((GET, call("c", "add", "$h", [1, 2, 3])), ShapeError, "broadcast"),
        ((GET, call("c", "matmul", "$h", "$h")), ShapeError, "matmul"),
        ((write([1, 2, 3]), GET), ShapeError, "cannot be written"),
        ((write("text"), GET), BadArgument, "cannot be written"),
        ((write(0, site="layers.0.mlp.up:param.weight"), GET), BadArgument, "weights never change"),
        ((write(0, site="layers.0.attn:inputs.position_ids"), GET), BadArgument, "only be read"),
        ((write(0, site="blocks.*:resid_post", index=[0]), GET), BadArgument, "begins with ':'"),
        ((GET, GET), BadArgument, "same id 'h'"),
        (({**GET, "index": [[[]]]},), BadArgument, "holds no integers"),
        (({**GET, "index": [None] * 30},), ShapeError, "33 axes"),
        ((GET, call("c", "add", "$c", 1)), BadArgument, "node 'c' needs its own value"),
        ((GET, call("c", "add", "$h", {"range": [0, 5, 0]})), BadArgument, "steps by 0"),
        ((GET, {"kind": "module", "id": "m", "path": "layers", "args": ["$h"]}), BadArgument, "only holds others"),
        (({**GET, "id": "x"},), BadArgument, "two things have the id 'x'"),
        ((call("a", "neg", "$b"), call("b", "neg", "$a")), BadArgument, "need each other"),
    ],
)
def test_what_cannot_run_is_refused_with_its_name(card: ModelCard, nodes: tuple[dict, ...], error: type, says: str):
    with pytest.raises(error, match=says):
        checked(card, *nodes)


def test_an_error_has_the_node_and_the_authors_line(card: ModelCard):
    with pytest.raises(UnknownOperation) as caught:
        checked(card, GET, call("c", "nope", "$h"), lines={"c": "study.py:12", "h": "study.py:11"})
    assert (caught.value.node, caught.value.file, caught.value.line) == ("c", "study.py", 12)


def test_a_late_value_written_early_is_a_causal_loop_at_the_authors_line(card: ModelCard):
    late = {**GET, "id": "late", "site": "blocks.3:resid_post"}
    with pytest.raises(CausalLoop) as caught:
        checked(card, late, write("$late"), GET, lines={"w": "study.py:3"}, saves={"late": "$late"})
    assert (caught.value.line, caught.value.parent) == (3, "late")


def test_numbers_lists_and_infinities_can_be_written(card: ModelCard):
    for value in (0, 1.5, True, "-inf", [1, 2, 3, 4, 5, 6, 7, 8], "$h0"):
        assert checked(card, {**GET, "id": "h0", "site": "embed:output"}, write(value), GET).saves


def test_a_write_that_no_read_sees_is_a_warning_at_its_line(card: ModelCard):
    found = checked(card, GET, write(0, site="blocks.3:resid_post"), saves={"h": "$h"}, lines={"w": "study.py:9"})
    assert found.warnings == ("write 'w' at study.py:9 is seen by no read",)


def test_nodes_may_stand_in_any_order(card: ModelCard):
    found = checked(card, call("c", "neg", "$h"), GET, saves={"c": "$c"})
    assert [node.id for node in found.scope.order] == ["h", "c"]


def test_constants_stand_for_numbers_lists_ranges_tensors_and_results(card: ModelCard):
    constants = {
        "n": 1,
        "last": -1,
        "r": {"range": [0, 3]},
        "t": {"tensor": "v"},
        "old": {"result": "j", "name": "h", "index": [0]},
    }
    nodes = (
        {**GET, "site": "blocks.{n}:resid_post", "index": [":", "$last"]},
        call("a", "add", "$h", "$t"),
        call("b", "add", "$a", "$old"),
        call("c", "index", "$b", [":", "$r"]),
    )
    found = checked(
        card,
        *nodes,
        constants=constants,
        attachment={"v": Meta((8,), "float32")},
        results=lambda job, name: Meta((2, 8), "float32") if (job, name) == ("j", "h") else UNKNOWN,
    )
    assert found.saves["out"].shape == (1, 3)
    assert found.scope.places["h"][0].place.path == "layers.1"


def test_mixed_float_dtypes_are_refused_with_the_conversion(card: ModelCard):
    with pytest.raises(DtypeError, match="to\\('float32'\\)"):
        checked(
            card,
            GET,
            call("c", "add", "$h", "$t"),
            constants={"t": {"tensor": "v"}},
            attachment={"v": Meta((8,), "bfloat16")},
        )


@pytest.mark.parametrize(
    ("constants", "error"),
    [
        ({"c": {"tensor": "gone"}}, UnknownName),
        ({"c": {"rang": [1]}}, BadArgument),
        ({"c": {"range": [0, 10**9]}}, TooLarge),
        ({"c": {"range": ["a"]}}, BadArgument),
    ],
)
def test_a_constant_that_stands_for_nothing_is_refused(card: ModelCard, constants: dict, error: type):
    with pytest.raises(error):
        checked(card, GET, constants=constants)


def test_token_ids_give_rows_and_lengths(card: ModelCard):
    def shape(ids: object) -> object:
        runs = [{"id": "r", "invokes": [{"id": "x", "ids": ids}]}]
        return (
            check(
                Graph.model_validate({"model": {"id": "tiny"}, "runs": runs, "nodes": [GET], "saves": {"h": "$h"}}),
                card,
            )
            .saves["h"]
            .shape
        )

    assert shape([1, 2, 3]) == (1, 3, 8)
    assert shape([[1, 2], [3, 4], [5, 6]]) == (3, 2, 8)
    for wrong in ([1.5], ["a"], [[1], [2, 3]], [], [[]], [[[1]]], [True]):
        with pytest.raises(TelepatchError):
            shape(wrong)


def test_inputs_over_the_models_limits_are_refused(card: ModelCard):
    with pytest.raises(ShapeError, match=r"65 tokens; .* takes 1 to 64"):
        checked(card, GET, length=65)
    with pytest.raises(TooLarge, match="2000 rows"):
        checked(card, GET, rows=2000)


def test_aligned_runs_need_inputs_of_one_length(card: ModelCard):
    document = graph(GET, texts=("x", "y")).model_copy(update={"options": Options(aligned=True)})
    with pytest.raises(ShapeError, match="aligned"):
        check(document, card, lengths={"words of x": 4, "words of y": 5})
    assert check(document, card, lengths={"words of x": 4, "words of y": 4})


def test_a_graph_for_another_revision_or_without_saves_or_too_large_is_refused(card: ModelCard):
    with pytest.raises(BadArgument, match="revision r0"):
        check(graph(GET).model_copy(update={"model": ModelRef(id="tiny", revision="r0")}), card)
    with pytest.raises(BadArgument, match="saves nothing"):
        check(graph(GET).model_copy(update={"saves": {}}), card)
    small = card.model_copy(update={"limits": card.limits.model_copy(update={"max_nodes": 0})})
    with pytest.raises(TooLarge, match="1 nodes"):
        check(graph(GET), small)


def test_a_save_of_an_unnamed_output_says_which_there_are(card: ModelCard):
    top = call("top", "topk", "$h", 2)
    with pytest.raises(UnknownName, match=r"\$top.values, \$top.indices"):
        checked(card, GET, top, saves={"t": "$top"})
    assert checked(card, GET, top, saves={"t": "$top.indices"}).saves["t"] == Meta((1, 6, 2), "int64")


@pytest.mark.parametrize(
    ("changes", "node"),
    [
        ({"constants": {"c": {"tensor": "nowhere"}}}, "s"),
        ({"constants": {"c": {"range": [0, 3, 0]}}}, "s"),
        ({"runs": ({"id": "r", "invokes": [{"id": "x", "ids": []}]},)}, "x"),
        ({"saves": {"out": "$t"}}, "t"),
        ({"nodes": (GET, call("s", "add", "$t", 1), call("t", "neg", "$s"))}, "t"),
    ],
)
def test_errors_outside_of_nodes_have_the_authors_line_too(card: ModelCard, changes: dict, node: str):
    nodes = (GET, call("s", "add", "$h", "$c"), call("t", "topk", "$h", 2))
    lines = {"h": "study.py:1", "s": "study.py:2", "t": "study.py:3", "x": "study.py:4"}
    document = graph(*nodes, constants={"c": 1}, lines=lines).model_dump(exclude_none=True) | changes
    with pytest.raises(TelepatchError) as refusal:
        check(Graph.model_validate(document), card)
    error = refusal.value
    assert (error.node, f"{error.file}:{error.line}") == (node, lines[node])


def test_a_path_that_only_begins_as_an_alias_is_shown_the_aliases(card: ModelCard):
    modules = {alias: path for alias, path in card.aliases.modules.items() if alias != "blocks"}
    bare = card.model_copy(update={"aliases": card.aliases.model_copy(update={"modules": modules})})
    with pytest.raises(UnknownSite, match=r"fits no alias .* blocks\.\*"):
        checked(bare, {**GET, "site": "blocks.-1:resid_post"})


def test_lines_may_hold_anything(card: ModelCard):
    for line in ("study.py:²", "study.py:" + "9" * 5000, "study.py", ":3", ""):
        with pytest.raises(UnknownSite):
            checked(card, {**GET, "site": "nothing:output"}, lines={"h": line})


def test_a_write_has_no_value_to_save_or_to_use(card: ModelCard):
    for nodes, saves in (((GET, write(0)), {"w": "$w"}), ((write(0), call("c", "neg", "$w")), {"c": "$c"})):
        with pytest.raises(BadArgument, match="is a write, which has no value"):
            checked(card, *nodes, saves=saves)


def test_a_long_chain_of_nodes_is_checked_without_recursion(card: ModelCard):
    chain = [call(f"n{number}", "neg", f"$n{number + 1}") for number in range(3000)]
    found = checked(card, *chain, {**GET, "id": "n3000"}, saves={"out": "$n0"})
    assert len(found.scope.order) == 3001


def log(id_: str, **values: object) -> dict:
    return {"kind": "log", "id": id_, "values": values}


def test_a_log_tells_small_values_and_has_none(card: ModelCard):
    small = {**GET, "index": [0, -1]}
    assert checked(card, small, log("l", h="$h", one=1), saves={"h": "$h"}, protocol=(1, 1)).warnings == ()
    assert check(graph(small, log("l", h="$h")).model_copy(update={"saves": {}}), card, lengths={"words of x": 6})
    with pytest.raises(BadArgument, match="the graph saves nothing and logs nothing"):
        check(graph(small).model_copy(update={"saves": {}}), card)
    with pytest.raises(BadArgument, match="'\\$l' gives nothing out"):
        checked(card, small, log("l", h="$h"), saves={"l": "$l"})
    with pytest.raises(BadArgument, match="'words' is no value"):
        checked(card, log("l", text="words"), saves={})
    with pytest.raises(TooLarge, match=r"'h' is logged with 1,920 numbers; at most 1,024 are; save it"):
        checked(card, GET, log("l", h="$h"), length=60, rows=4, saves={"h": "$h"})


def test_a_fit_logs_by_its_emit_alone(card: ModelCard):
    body = {"nodes": [call("loss", "mul", "$w", "$y"), log("l", y="$y")], "out": {"loss": "$loss"}}
    fit = {"kind": "fit", "id": "f", "over": {"y": [1.0, 2.0]}, "batch_size": 1, "steps": 1}
    fit |= {"params": {"w": {"init": 1.0}}, "optimiser": {"name": "sgd", "lr": 0.1}, "body": body}
    with pytest.raises(BadArgument, match="log 'l' stands in fit 'f', whose steps are told by its 'emit'"):
        checked(card, fit, saves={"w": "$f.w"})


def test_a_document_with_a_log_at_any_depth_says_that_it_needs_1_1():
    each = {"kind": "map", "id": "m", "over": {"k": [1]}, "body": {"nodes": [log("l", k="$k")], "out": {"k": "$k"}}}
    assert needed(graph(each, saves={"k": "$m.k"})) == (1, 1)
