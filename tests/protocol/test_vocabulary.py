"""The table of operations: its rows, how arguments are bound, and the page that is written from it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from telepatch_protocol.errors import BadArgument, UnknownOperation
from telepatch_protocol.graph import Call
from telepatch_protocol.indexing import Slice
from telepatch_protocol.meta import Meta
from telepatch_protocol.ops import GROUPS, OPS, bind, find_op
from telepatch_protocol.ops.reference import page
from telepatch_protocol.ops.table import KINDS, REQUIRED
from telepatch_protocol.sizes import Size
from telepatch_protocol.wire import from_dict

X = Meta((2, 3), "float32")


@pytest.mark.parametrize("name", OPS)
def test_an_operation_has_a_readable_signature_and_a_line_of_documentation(name: str) -> None:
    op = OPS[name]
    assert op.params
    assert all(param.kind in KINDS for param in op.params)
    assert len({param.name for param in op.params}) == len(op.params)
    defaults = [param.default is not REQUIRED for param in op.params]
    assert defaults == sorted(defaults) or "key" in op.by_name, "a parameter without default follows one with"
    assert op.doc.endswith(".")


def test_no_operation_stands_under_two_headings() -> None:
    assert sum(map(len, GROUPS.values())) == len(OPS)


def test_the_page_of_operations_is_the_one_written_from_the_table() -> None:
    found = Path(__file__).parents[2] / "docs" / "operations.md"
    assert found.read_text() == page(), "write it anew: python -m telepatch_protocol.ops.reference > docs/operations.md"


def test_the_page_of_operations_shows_each_as_a_node_that_gives_every_argument() -> None:
    lists = [json.loads(block) for block in re.findall(r"^```json\n(.*?)^```", page(), re.DOTALL | re.MULTILINE)]
    nodes = [node for shown in lists for node in shown]
    assert sorted(node["op"] for node in nodes) == sorted(OPS)
    graph = from_dict({"protocol": [1, 0], "model": {"id": "m"}, "nodes": nodes, "saves": {}})
    for call in graph.nodes:
        assert isinstance(call, Call)
        op = OPS[call.op]
        assert len(call.args) + len(call.kwargs) == len(op.params)
        bind(op, tuple(map(_standing, call.args)), {name: _standing(value) for name, value in call.kwargs.items()})


def _standing(value: object) -> object:
    """What an argument on the page stands for, as rules take it: references are values."""
    if isinstance(value, list):
        return [Slice() if one == "1:" else ... if one == "..." else _standing(one) for one in value]
    return X if isinstance(value, str) and value.startswith("$") else value


def test_an_unknown_operation_is_refused_with_the_nearest_names() -> None:
    with pytest.raises(UnknownOperation, match="there is no operation 'log_sotfmax'; nearest: log_softmax"):
        find_op("log_sotfmax")


def test_arguments_bind_by_position_and_by_name_with_defaults_filled_in() -> None:
    found = bind(find_op("topk"), (X, 2), {"largest": False})
    assert found == {"input": X, "k": 2, "dim": -1, "largest": False, "sorted": True}


def test_numbers_that_json_lacks_are_written_as_words() -> None:
    found = bind(find_op("clamp"), (X, "-inf", "inf"), {})
    assert (found["min"], found["max"]) == (-float("inf"), float("inf"))


def test_values_may_follow_one_by_one_where_the_last_parameter_is_a_list_of_them() -> None:
    einsum = find_op("einsum")
    assert bind(einsum, ("i,i->", X, X), {}) == bind(einsum, ("i,i->", [X, X]), {})


def test_a_size_stands_where_an_integer_does() -> None:
    length = Meta((), "int64", Size.symbol("n"))
    assert bind(find_op("zeros"), ([2, length],), {})["size"] == [2, Size.symbol("n")]


def test_an_integer_computed_from_values_stands_as_a_size_that_nothing_is_known_of() -> None:
    found = bind(find_op("zeros"), ([Meta((), "int64")],), {})["size"]
    assert isinstance(found, list)
    assert isinstance(found[0], Size)


@pytest.mark.parametrize(
    ("name", "args", "kwargs", "match"),
    [
        ("exp", (X, X), {}, "takes 1 arguments; 2 were given"),
        ("exp", (), {}, "needs 'input'"),
        ("exp", (X,), {"out": X}, "has no argument 'out'"),
        ("exp", (X,), {"input": X}, "was given 'input' twice"),
        ("exp", (1.0,), {}, "'input' is a tensor; found 1.0"),
        ("exp", ([X],), {}, "'input' is a tensor"),
        ("add", (X, "2"), {}, "'other' is an operand; found '2'"),
        ("sum", (X, 1.0), {}, "'dim' is a dims; found 1.0"),
        ("sum", (X, True), {}, "'dim' is a dims; found True"),
        ("sum", (X,), {"dtype": "float8"}, "'dtype' is a dtype; found 'float8'"),
        ("sum", (X,), {"keepdim": 1}, "'keepdim' is a bool; found 1"),
        ("softmax", (X, None), {}, "'dim' is a dim; found None"),
        ("topk", (X, X), {}, "'k' is an int; found float32"),
        ("topk", (X, True), {}, "'k' is an int; found True"),
        ("reshape", (X, [2, 1.5]), {}, "'shape' is a shape"),
        ("cat", ([],), {}, r"'tensors' is a tensors; found \[\]"),
        ("cat", (X,), {}, "'tensors' is a tensors"),
        ("norm", (X, "fro"), {}, "'p' is a number; found 'fro'"),
        ("gelu", (X, 1), {}, "'approximate' is a text; found 1"),
        ("index", (X, [1.5]), {}, "'index' is an index"),
        ("randn", ([2], []), {}, r"'key' is a key; found \[\]"),
        ("randn", ([2], 0.5), {}, "'key' is a key; found 0.5"),
        ("randn", ([2],), {}, "needs 'key'"),
        ("einsum", ("i->", X, 2.0), {}, "'operands' is a tensors"),
    ],
)
def test_an_argument_of_the_wrong_kind_is_refused_by_name(
    name: str, args: tuple[object, ...], kwargs: dict[str, object], match: str
) -> None:
    with pytest.raises(BadArgument, match=match):
        bind(find_op(name), args, kwargs)


def test_an_index_holds_elements_of_indices() -> None:
    index = bind(find_op("index"), (X, [0, Slice(1), None, ..., [0, 1], X]), {})["index"]
    assert index == (0, Slice(1), None, ..., [0, 1], X)


def test_the_vocabulary_imports_quickly(tmp_path: Path) -> None:
    program = (
        "import time, pydantic, telepatch_protocol.errors; start = time.process_time(); "
        "import telepatch_protocol.ops; print(time.process_time() - start)"
    )
    # Once to compile, then as a person finds it: with bytecode.
    command = [sys.executable, "-X", f"pycache_prefix={tmp_path}", "-c", program]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    times = [float(subprocess.check_output(command, env=environment)) for _ in range(4)]
    assert min(times) < 0.05
