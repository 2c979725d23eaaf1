"""Values inside a block: operators, methods, indexing, and what Python may not ask of them."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import pytest

import telepatch
from telepatch.model import Model
from telepatch_protocol import wire
from telepatch_protocol.errors import (
    BadArgument,
    DtypeError,
    IndexOutOfRange,
    ShapeError,
    TraceError,
    UnknownOperation,
)
from telepatch_protocol.graph import Call, Graph


def line() -> int:
    """The line that calls this."""
    frame = inspect.currentframe()
    assert frame is not None
    assert frame.f_back is not None
    return frame.f_back.f_lineno


def calls(graph: Graph) -> list[tuple[Any, ...]]:
    """Operations of a graph: name, arguments with constants in place, keywords."""

    def shown(arg: Any) -> Any:
        if isinstance(arg, str) and arg.startswith("$c"):
            return graph.constants[arg[1:]]
        return [shown(one) for one in arg] if isinstance(arg, list) else arg

    return [(node.op, *map(shown, node.args), node.kwargs) for node in graph.nodes if isinstance(node, Call)]


def test_operators_become_operations(model: Model) -> None:
    with model.trace("x") as t:
        a = model.blocks[0].resid_post[:, -1]
        b = model.blocks[1].resid_post[:, -1]
        _ = [a + b, a - b, a * b, a / b, a**2, a // b, a % b, -a, abs(a), a < b, a <= b, a > b, a >= b, a == b, a != b]
        (a @ b.mT).save()
    ops = [name for name, *_ in calls(t.graph)]
    assert ops == [
        "add",
        "sub",
        "mul",
        "div",
        "pow",
        "floor_divide",
        "remainder",
        "neg",
        "abs",
        "lt",
        "le",
        "gt",
        "ge",
        "eq",
        "ne",
        "transpose",
        "matmul",
    ]


def test_reflected_operators_keep_the_order_of_their_operands(model: Model) -> None:
    with model.trace("x") as t:
        a = model.blocks[0].resid_post[:, -1]
        (2.0 - a).save()
        (2 / a).save()
        (2**a).save()
        (np.ones((1, 8), np.float32) - a).save()
    found = calls(t.graph)
    assert found[0][:3] == ("sub", 2.0, "$n0")
    assert found[1][:3] == ("div", 2, "$n0")
    assert found[2][:3] == ("pow", 2, "$n0")
    assert found[3][0] == "sub"
    assert set(found[3][1]) == {"tensor"}
    assert found[3][2] == "$n0"


def test_logical_operators_take_masks(model: Model) -> None:
    with model.trace("x") as t:
        a = model.blocks[0].resid_post[:, -1]
        (((a > 0) & (a < 1)) | ~(a == 2)).save()
    assert [name for name, *_ in calls(t.graph)] == ["gt", "lt", "logical_and", "eq", "logical_not", "logical_or"]


def test_methods_have_torchs_names_and_arguments(model: Model) -> None:
    with model.trace("x") as t:
        a = model.blocks[0].resid_post
        a.softmax(-1).mean(dim=1, keepdim=True).permute(0, 2, 1).reshape(1, -1).to("float64").save()
        a.to(np.float16).save()
        a.float().save()
    found = calls(t.graph)
    assert found[0] == ("softmax", "$n0", -1, {})
    assert found[1] == ("mean", "$n1", {"dim": 1, "keepdim": True})
    assert found[2] == ("permute", "$n2", [0, 2, 1], {})
    assert found[3] == ("reshape", "$n3", [1, -1], {})
    assert found[4] == ("to", "$n4", "float64", {})
    assert found[5] == ("to", "$n0", "float16", {})
    assert found[6] == ("to", "$n0", "float32", {})


def test_functions_of_the_package_are_the_vocabulary(model: Model) -> None:
    with model.trace("x") as t:
        a = model.blocks[0].resid_post[:, -1]
        telepatch.where(a > 0, a, 0.0).save()
        telepatch.cat([a, a], dim=0).save()
        telepatch.stack([a, a]).save()
        telepatch.einsum("bd,bd->b", a, a).save()
        telepatch.ops.softmax(a, dim=-1).save()
        telepatch.zeros(2, 3).save()
    assert [name for name, *_ in calls(t.graph)] == ["gt", "where", "cat", "stack", "einsum", "softmax", "zeros"]


def test_functions_document_themselves() -> None:
    assert str(inspect.signature(telepatch.softmax)).startswith("(input: 'tensor', dim: 'dim'")
    assert "softmax" in (telepatch.softmax.__doc__ or "")
    assert "softmax" in dir(telepatch.ops)
    assert "softmax" in dir(telepatch)


def test_an_operation_outside_a_trace_is_refused() -> None:
    with pytest.raises(TraceError, match="no") as caught:
        telepatch.softmax(np.ones(3), -1)
    assert caught.value.line == line() - 1


def test_an_unknown_function_names_its_neighbours() -> None:
    with pytest.raises(UnknownOperation, match="softmax"):
        _ = telepatch.sofmax
    assert not hasattr(telepatch, "sofmax")


def test_an_unknown_method_names_its_neighbours(model: Model) -> None:
    with model.trace("x"):
        a = model.blocks[0].resid_post.save()
        with pytest.raises(UnknownOperation, match="softmax") as caught:
            a.sofmax(-1)
        assert caught.value.line == line() - 1
        assert caught.value.file == __file__
        assert not hasattr(a, "sofmax")


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        (lambda a: a[:, 5, 99], IndexOutOfRange),
        (lambda a: a @ np.ones((3, 3), np.float32), ShapeError),
        (lambda a: a + a.to("float64"), DtypeError),
        (lambda a: a.softmax(dim=7), ShapeError),
        (lambda a: a.softmax(-1, axis=2), BadArgument),
        (lambda a: a + "text", BadArgument),
        (lambda a: a + object(), BadArgument),
        (lambda a: a["key"], BadArgument),
        (lambda a: a[1.5], BadArgument),
        (lambda a: a[True], BadArgument),
        (lambda a: a.to("float12"), BadArgument),
        (lambda a: a + [a, a], BadArgument),
        (lambda a: a + 2**70, BadArgument),
        (lambda a: a + np.array(["x"]), BadArgument),
    ],
)
def test_what_cannot_be_is_refused_at_its_line(model: Model, wrong: Any, error: type[Exception]) -> None:
    with model.trace("x"):
        a = model.blocks[0].resid_post.save()
        with pytest.raises(error) as caught:
            wrong(a)
    assert caught.value.file == __file__
    assert caught.value.line == wrong.__code__.co_firstlineno


@pytest.mark.parametrize(
    ("wrong", "hint"),
    [
        (lambda a: bool(a), "where"),
        (lambda a: 1 if a > 0 else 2, "where"),
        (lambda a: float(a), "value"),
        (lambda a: int(a), "value"),
        (lambda a: len(a), "shape"),
        (lambda a: list(a[0]), "length"),
        (lambda a: 3 in a, "any"),
        (lambda a: [1, 2][a.sum().to("int64")], "index"),
        (lambda a: np.asarray(a), "operations"),
        (lambda a: f"{a:.3f}" if a.numpy() is None else "", "after"),
    ],
)
def test_python_may_not_ask_for_numbers_inside_a_block(model: Model, wrong: Any, hint: str) -> None:
    with model.trace("x"):
        a = model.blocks[0].resid_post.save()
        with pytest.raises(TraceError, match=hint) as caught:
            wrong(a)
    assert caught.value.line == wrong.__code__.co_firstlineno


def test_values_hash_by_identity(model: Model) -> None:
    with model.trace("x"):
        a, b = model.blocks[0].resid_post.save(), model.blocks[0].resid_post.save()
        assert len({a, b, a}) == 2


def test_iteration_of_known_length_gives_the_parts(model: Model) -> None:
    with model.trace("x") as t:
        first, second = model.blocks[:2][0].resid_post.reshape(2, -1)
        (first + second).save()
    assert [name for name, *_ in calls(t.graph)] == ["reshape", "index", "index", "add"]


def test_shape_gives_integers_where_known_and_sizes_elsewhere(model: Model) -> None:
    with model.trace("x") as t:
        a = model.blocks[0].resid_post
        rows, length, width = a.shape
        assert (rows, width) == (1, 8)
        assert repr(length) == "len(x0)"
        assert a.shape == a.shape
        assert a.ndim == 3
        assert a.dtype == "float32"
        a[:, : length - 1].save()
        a.reshape(length, 8).save()
    assert [name for name, *_ in calls(t.graph)] == ["size", "sub", "index", "reshape"] or "size" in str(calls(t.graph))


def test_lengths_of_ids_are_known(model: Model) -> None:
    with model.trace([1, 2, 3]):
        assert model.blocks[0].resid_post.save().shape == (1, 3, 8)
    with model.trace(np.ones((2, 5), np.int64)):
        assert model.blocks[0].resid_post.save().shape == (2, 5, 8)


def test_all_forms_of_index_reach_the_wire(model: Model) -> None:
    with model.trace([1, 2, 3, 4]) as t:
        a = model.blocks[0].resid_post
        mask = a > 0
        a[0, 1:3, ..., None].save()
        a[:, [0, 2]].save()
        a[mask].save()
        a[:, np.array([0, 1])].save()
        a[:, a.argmax(-1)[0, 0]].save()
        a[:, ::2].save()
    graph = wire.decode(t.graph.to_json())
    assert graph == t.graph
    indices = [node.index for node in graph.nodes if node.kind == "get" and node.index]
    assert [len(index) for index in indices] == [4, 2, 1, 2, 2, 2]
    assert indices[0][2:] == ["...", None]
    assert indices[5] == [":", "::$c8"] or indices[5][1].startswith("::$c")


def test_an_operation_with_several_outputs_gives_them_by_name_position_and_unpacked(model: Model) -> None:
    with model.trace("x") as t:
        top = model.lm_head.output[:, -1].topk(5).save("top")
        values, indices = top
        assert values is top.values is top[0]
        assert indices is top["indices"]
        assert (values.shape, indices.dtype) == ((1, 5), "int64")
        with pytest.raises(UnknownOperation, match="values, indices"):
            _ = top.value
    assert t.graph.saves == {"top_values": "$n1.values", "top_indices": "$n1.indices"}


def test_numpy_functions_become_operations(model: Model) -> None:
    with model.trace("x") as t:
        a = model.blocks[0].resid_post[:, -1]
        np.exp(a).save()
        np.add(a, 1).save()
        np.concatenate([a, a], axis=0).save()
        np.where(a > 0, a, 0.0).save()
        np.mean(a, axis=-1, keepdims=True).save()
        np.einsum("bd,bd->b", a, a).save()
        np.clip(a, 0, 1).save()
        np.max(a, axis=1).save()
        np.add.reduce(a, axis=1).save()
        np.transpose(a).save()
        with pytest.raises(UnknownOperation, match="fft") as caught:
            np.fft.fft(a)
        assert caught.value.line == line() - 1
    names = [name for name, *_ in calls(t.graph)]
    assert names == ["exp", "add", "cat", "gt", "where", "mean", "einsum", "clamp", "amax", "sum", "permute"]


def test_torch_functions_and_tensors_become_operations(model: Model) -> None:
    torch = pytest.importorskip("torch")
    with model.trace("x") as t:
        a = model.blocks[0].resid_post[:, -1]
        torch.softmax(a, dim=-1).save()
        torch.cat([a, a], 0).save()
        (torch.ones(8) * a).save()
        (torch.ones(8) - a).save()
        (a + torch.ones(8, dtype=torch.bfloat16).float()).save()
        torch.nn.functional.relu(a).save()
        a.to(torch.float16).save()
        with pytest.raises(UnknownOperation, match="fft_fft"):
            torch.fft.fft(a)
    names = [name for name, *_ in calls(t.graph)]
    assert names == ["softmax", "cat", "mul", "sub", "add", "relu", "to"]
    sub = calls(t.graph)[3]
    assert "tensor" in sub[1]
    assert sub[2] == "$n0"


def test_numpy_names_that_differ_from_pytorchs_find_their_operation(model: Model) -> None:
    with model.trace("x") as t:
        a = model.blocks[0].resid_post[:, -1]
        np.arctan2(a, 1.0).save()
        np.radians(a).save()
        np.fix(a).save()
        np.fmax(a, 0.0).save()
        np.float_power(a, 2).save()
        np.tile(a, (2, 1)).save()
        np.hstack([a, a]).save()
        np.array_equal(a, a).save()
        np.linalg.slogdet(a.mT @ a).logabsdet.save()
        np.diff(a, n=2, axis=-1).save()
        grid = np.meshgrid(a[0], a[0, :2])
        grid[0].save()
        for other in (np.median, np.nanmedian, np.vander):
            with pytest.raises(UnknownOperation, match="no counterpart"):
                other(a[0])
        with pytest.raises(BadArgument, match="say by name"):
            np.unique(a, True)
    names = [name for name, *_ in calls(t.graph) if name not in ("index", "transpose", "matmul")]
    assert names == [
        *("atan2", "deg2rad", "trunc", "fmax", "float_power", "tile", "hstack", "equal", "slogdet", "diff", "meshgrid"),
    ]
    assert grid[0].shape == (2, 8)


def test_torch_functions_hand_on_only_what_asks_for_something(model: Model) -> None:
    torch = pytest.importorskip("torch")
    functional = torch.nn.functional
    with model.trace([1, 2, 3]) as t:
        a = model.blocks[0].resid_post
        functional.max_pool1d(a, 2).save()
        functional.huber_loss(a, a).save()
        functional.embedding(a.long().abs(), torch.ones(4, 3)).save()
        functional.logsigmoid(a).save()
        functional.pad(a, (1, 1)).save()
        torch.linalg.svdvals(a).save()
        torch.linalg.vector_norm(a).save()
        torch.special.expit(a).save()
        torch.special.entr(a).save()
        torch.cdist(a, a).save()
        torch.hstack([a, a]).save()
        torch.inverse(a[0, :, :3]).save()
        torch.argwhere(a).save()
        first, _ = torch.split(a, 2, dim=1)
        first.save()
        torch.unbind(a, 1)[2].save()
        torch.meshgrid(a[0, 0], a[0, 1])[1].save()
        with pytest.raises(BadArgument, match="has no argument 'max_norm'"):
            functional.embedding(a.long(), torch.ones(4, 3), max_norm=1.0)
        with pytest.raises(UnknownOperation, match="linalg_norm"):
            torch.linalg.norm(a)
    names = [name for name, *_ in calls(t.graph) if name not in ("to", "abs", "index")]
    assert names == [
        *("max_pool1d", "huber_loss", "embedding", "logsigmoid", "pad", "svdvals", "norm", "sigmoid", "entr", "cdist"),
        *("hstack", "inv", "nonzero", "meshgrid"),
    ]


def test_a_bfloat16_tensor_is_sent_as_that(model: Model) -> None:
    torch = pytest.importorskip("torch")
    with model.trace("x") as t:
        telepatch.tensor(torch.ones(3, dtype=torch.bfloat16)).save()
        assert telepatch.tensor(torch.ones(3, dtype=torch.bfloat16)).dtype == "bfloat16"
    assert b"BF16" in t.attachment


def test_double_precision_is_sent_as_single_unless_asked(model: Model) -> None:
    with model.trace("x") as t:
        assert telepatch.tensor(np.ones(3)).dtype == "float32"
        telepatch.tensor(np.ones(3), dtype="float64").save()
        assert telepatch.tensor([1, 2]).dtype == "int64"
    assert b"F64" in t.attachment


def test_equal_arrays_are_attached_once(model: Model) -> None:
    with model.trace("x") as t:
        a = model.blocks[0].resid_post[:, -1]
        (a + np.ones(8) + np.ones(8, np.float32)).save()
    names = {constant["tensor"] for constant in t.graph.constants.values() if isinstance(constant, dict)}
    assert len(names) == 1


def test_infinities_travel_as_words(model: Model) -> None:
    with model.trace("x") as t:
        a = model.blocks[0].resid_post
        a[:, -1] = float("-inf")
        telepatch.where(a > 0, a, float("nan")).save()
    assert "-inf" in t.graph.constants.values()
    assert "nan" in t.graph.constants.values()
    assert wire.decode(t.graph.to_json()) == t.graph


def test_numbers_of_numpy_are_numbers(model: Model) -> None:
    with model.trace("x") as t:
        (model.blocks[np.int64(1)].resid_post[:, np.int32(-1)] * np.float32(2.5)).save()
    assert list(t.graph.constants.values()) == ["x", -1, 1, 2.5]


def test_familiar_names_of_torch_work_where_they_mean_the_same(model: Model) -> None:
    with model.trace([1, 2]) as t:
        a = model.blocks[0].resid_post
        kept = a.clone()
        a[:, -1] = 0
        first, second = kept.unbind(1)
        (first + second).view(-1).save()
        model.lm_head.output.save()
    assert [node.kind for node in t.graph.nodes].count("set") == 1
    assert [name for name, *_ in calls(t.graph)] == ["index", "index", "add", "reshape"]


@pytest.mark.parametrize("wrong", [lambda a: a.add_(1), lambda a: a[:, -1].mul_(2), lambda a: a[0].__setitem__(0, 1)])
def test_methods_that_work_in_place_are_refused(model: Model, wrong: Any) -> None:
    with model.trace("x"):
        a = model.blocks[0].resid_post.save()
        with pytest.raises(TraceError, match="in place") as caught:
            wrong(a)
    assert caught.value.line == wrong.__code__.co_firstlineno


def test_repr_never_waits_inside_a_block(model: Model) -> None:
    with model.trace("x"):
        a = model.blocks[0].resid_post[:, -1].save()
        assert "float32 (1, 8)" in repr(a)
        assert "float32 (1, 8)" in f"{a}"
        assert "test_values.py" in str(a)


@pytest.mark.parametrize("wrong", [lambda a: a & 1, lambda a: a | a, lambda a: ~a, lambda a: np.array([1, 2]) ^ a])
def test_operators_on_bits_are_refused_for_numbers(model: Model, wrong: Any) -> None:
    with model.trace("x"):
        ids = model.lm_head.output.argmax(-1).save()
        with pytest.raises(DtypeError, match="joins masks of booleans; found int64") as caught:
            wrong(ids)
    assert caught.value.line == wrong.__code__.co_firstlineno


def test_masks_of_numpy_and_pytorch_join_masks(model: Model) -> None:
    torch = pytest.importorskip("torch")
    with model.trace("x") as t:
        positive = model.lm_head.output[0, -1] > 0
        (np.ones(50, bool) & positive & torch.ones(50, dtype=torch.bool)).save()
    assert [name for name, *_ in calls(t.graph)] == ["gt", "logical_and", "logical_and"]


def test_unknown_operations_point_at_the_line_that_names_them(model: Model) -> None:
    def helper(value: Any, module: Any) -> Any:
        return module.softmx(value)

    for module in (telepatch, telepatch.ops):
        with pytest.raises(UnknownOperation, match="nearest: softmax") as caught, model.trace("x"):
            helper(model.lm_head.output, module)
        assert caught.value.line == helper.__code__.co_firstlineno + 1


def test_values_are_split_along_known_axes(model: Model) -> None:
    with model.trace("x") as t:
        h = model.blocks[0].resid_post
        query, key, value = h.split([2, 2, 4], dim=-1)
        assert [part.shape[-1] for part in (query, key, value)] == [2, 2, 4]
        assert [part.shape[-1] for part in h.split(3, -1)] == [3, 3, 2]
        assert [part.shape[-1] for part in h.chunk(2, dim=-1)] == [4, 4]
        with pytest.raises(ShapeError, match="do not make up axis -1, which has size 8"):
            h.split([2, 2], dim=-1)
        with pytest.raises(ShapeError, match="one piece or more"):
            h.chunk(0, dim=-1)
        with pytest.raises(TraceError, match="not known yet"):
            h.split(1, dim=1)
        key.save()
    kept = t.graph.saves["s0"].removeprefix("$")
    index = next(node.index for node in t.graph.nodes if node.id == kept)  # type: ignore[union-attr]
    ends = [t.graph.constants[end.removeprefix("$")] for end in str(index[-1]).split(":")]  # type: ignore[index]
    assert ends == [2, 4]


def test_arange_of_one_number_begins_at_zero(model: Model) -> None:
    with model.trace("x") as t:
        telepatch.arange(model.blocks[0].resid_post.shape[1]).save()
    assert [(name, *args) for name, *args in calls(t.graph)][-1][:2] == ("arange", 0)


def test_numpy_names_of_axes_suit_operations_with_one_and_with_several(model: Model) -> None:
    with model.trace("x") as t:
        np.flip(np.cumsum(model.blocks[0].resid_post, axis=1), axis=1).save()
    assert [kwargs for *_, kwargs in calls(t.graph)] == [{"dim": 1}, {"dims": [1]}]


def test_tensors_of_pytorch_are_not_changed_in_place_by_values(model: Model) -> None:
    torch = pytest.importorskip("torch")
    with model.trace("x"):
        value = model.lm_head.output[0, -1].save()
        with pytest.raises(TraceError, match="a = a \\+ value"):
            torch.ones(50).add_(value)
        with pytest.raises(TraceError, match="a = a \\+ value"):
            kept = torch.ones(50)
            kept += value


def test_a_value_that_was_not_saved_shows_it(model: Model) -> None:
    with model.trace("x"):
        kept = model.blocks[0].resid_post[:, -1]
        model.lm_head.output.save()
        assert "not saved" not in repr(kept)
    assert "not saved" in repr(kept)


def test_numpy_functions_keep_numpys_meaning_where_pytorch_means_something_else(model: Model) -> None:
    with model.trace("x") as t:
        h = model.blocks[0].resid_post[0]
        assert np.sort(h, axis=-1).shape == h.shape
        np.std(h, axis=-1)
        np.var(h, axis=-1, ddof=1)
        np.repeat(h[:, 0], 3).save()
    given = [str(kwargs["correction"]).removeprefix("$") for *_, kwargs in calls(t.graph) if "correction" in kwargs]
    assert [t.graph.constants[ref] for ref in given] == [0, 1]
    assert calls(t.graph)[-1][0] == "repeat_interleave"


@pytest.mark.parametrize(
    "wrong",
    [
        lambda a: np.sum(a, where=np.ones(8, bool)),
        lambda a: np.sum(a, initial=3),
        lambda a: np.median(a, axis=-1),
        lambda a: np.linalg.norm(a, 2),
    ],
)
def test_arguments_of_numpy_that_would_be_lost_are_refused(model: Model, wrong: Any) -> None:
    with model.trace("x"):
        h = model.blocks[0].resid_post.save()
        with pytest.raises((BadArgument, UnknownOperation)) as caught:
            wrong(h)
    assert caught.value.line == wrong.__code__.co_firstlineno
