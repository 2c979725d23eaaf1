"""Maps, repeats and choices: the same numbers as written out one by one, in fewer forwards."""

from __future__ import annotations

import pytest
import torch

from telepatch_protocol.errors import (
    BadArgument,
    DtypeError,
    ExecutionError,
    IndexOutOfRange,
    ShapeError,
    TooLarge,
    UnknownSite,
)
from telepatch_worker.engine import BatchLimits

GPT2 = "gpt2-random"
A, B = [5, 6, 7, 8, 9], [20, 21, 22, 23, 24]


def mapped(over, nodes, out, *, inputs=None, **more):
    runs = [{"id": "rr", "invokes": [{"id": name, "ids": ids} for name, ids in (inputs or {}).items()]}]
    body = {"runs": runs if inputs else [], "nodes": nodes, "out": out}
    return {"kind": "map", "id": "m", "over": over, "body": body, **more}


@pytest.fixture
def forwards(gpt2, monkeypatch):
    """How many rows each forward had."""
    rows: list[int] = []
    plain = gpt2.model.forward

    def counted(inputs, parts, dropped, **more):
        rows.append(sum(seat.rows.count for part in parts for seat in part.seats.values()))
        plain(inputs, parts, dropped, **more)

    monkeypatch.setattr(gpt2.model, "forward", counted)
    return rows


def patching(build):
    clean = build.get("ref", "blocks.*:resid_post")
    body = [
        build.call("h", "index", "$ref", ["$layer", ":", "$pos"]),
        build.set("blocks.{layer}:resid_post", "$h", [":", "$pos"], invoke="x"),
        build.get("z", "lm_head:output", [":", -1], invoke="x"),
    ]
    grid = mapped({"layer": "$layers", "pos": "$positions"}, body, {"z": "$z"}, inputs={"x": B}, grid=True)
    constants = {"layers": {"range": [0, 4]}, "positions": {"range": [0, 5]}}
    return build.task(GPT2, {"a": A}, clean, grid, saves={"grid": "$m.z"}, constants=constants)


def test_a_patching_grid_is_what_one_job_for_each_patch_gives(gpt2, build, saved, forwards):
    grid = saved(gpt2, patching(build))["grid"]
    assert grid.shape == (4, 5, 1, 257)
    assert forwards == [1, 20]
    for layer in range(4):
        for pos in range(5):
            one = build.task(
                GPT2,
                {"a": A, "x": B},
                build.get("h", f"blocks.{layer}:resid_post", [":", pos]),
                build.set(f"blocks.{layer}:resid_post", "$h", [":", pos], invoke="x"),
                build.get("z", "lm_head:output", [":", -1], invoke="x"),
            )
            torch.testing.assert_close(grid[layer, pos], saved(gpt2, one)["z"], rtol=1e-5, atol=1e-5)


def test_inputs_of_very_different_lengths_run_apart_so_that_little_is_padding(gpt2, build, saved, forwards):
    rows = [[1] * length for length in (3, 200, 4, 190, 5)]
    task = build.task(
        GPT2,
        {},
        mapped(
            {"ids": "$all"}, [build.get("z", "lm_head:output", [0, -1], invoke="x")], {"z": "$z"}, inputs={"x": "$ids"}
        ),
        saves={"z": "$m.z"},
        constants={"all": rows},
    )
    found = saved(gpt2, task)["z"]
    assert forwards == [2, 3]
    for ids, one in zip(rows, found, strict=True):
        alone = build.task(GPT2, {"x": ids}, build.get("z", "lm_head:output", [0, -1], invoke="x"))
        torch.testing.assert_close(one, saved(gpt2, alone)["z"], rtol=1e-5, atol=1e-5)


def test_an_exact_map_runs_each_element_in_a_forward_of_its_own(gpt2, build, saved, forwards):
    task = build.task(
        GPT2,
        {},
        mapped({"ids": "$all"}, [build.get("z", "lm_head:output", invoke="x")], {"z": "$z"}, inputs={"x": "$ids"}),
        saves={"z": "$m.z"},
        constants={"all": [A, B]},
        options={"exact": True},
    )
    found = saved(gpt2, task)["z"]
    assert forwards == [1, 1]
    for row, ids in enumerate((A, B)):
        alone = build.task(GPT2, {"x": ids}, build.get("z", "lm_head:output", invoke="x"), options={"exact": True})
        assert torch.equal(found[row], saved(gpt2, alone)["z"])


def test_a_map_runs_in_as_few_forwards_as_the_budget_allows(gpt2, build, saved, forwards, monkeypatch):
    monkeypatch.setattr(gpt2, "limits", BatchLimits(tokens=1000, rows=8))
    whole = saved(gpt2, patching(build))["grid"]
    assert forwards == [1, 8, 8, 4]
    monkeypatch.setattr(gpt2, "limits", BatchLimits())
    torch.testing.assert_close(whole, saved(gpt2, patching(build))["grid"], rtol=1e-5, atol=1e-5)


PROMPTS = [[5, 6, 7], [8], [9, 10, 11, 12, 13, 14], [15, 16, 17], [18, 19]]


def of_prompts(build, reduce, nodes=None, out=None, **more):
    nodes = nodes or [build.get("h", "blocks.2:resid_post", [0], invoke="x")]
    node = mapped({"ids": "$all", **more}, nodes, out or {"h": "$h"}, inputs={"x": "$ids"}, reduce=reduce)
    return build.task(GPT2, {}, node, saves={"h": "$m.h"}, constants={"all": PROMPTS})


def residuals(gpt2, build, saved):
    return [
        saved(gpt2, build.task(GPT2, {"x": ids}, build.get("h", "blocks.2:resid_post", [0], invoke="x")))["h"]
        for ids in PROMPTS
    ]


def test_prompts_of_any_length_are_concatenated_with_their_lengths(gpt2, build, saved):
    task = of_prompts(build, {"h": "cat"})
    graph = task.graph.model_copy(update={"saves": {"h": "$m.h", "n": "$m.h.lengths"}})
    found = saved(gpt2, type(task)(task.id, graph))
    torch.testing.assert_close(found["h"], torch.cat(residuals(gpt2, build, saved)), rtol=1e-5, atol=1e-5)
    assert found["n"].tolist() == [3, 1, 6, 3, 2]


@pytest.mark.parametrize(
    ("how", "fold"),
    [
        ("stack", torch.stack),
        ("sum", lambda rows: torch.stack(rows).sum(0)),
        ("mean", lambda rows: torch.stack(rows).mean(0)),
        ("max", lambda rows: torch.stack(rows).amax(0)),
        ("min", lambda rows: torch.stack(rows).amin(0)),
    ],
)
def test_outputs_are_folded_as_asked(gpt2, build, saved, how, fold):
    last = [build.get("h", "blocks.2:resid_post", [0, -1], invoke="x")]
    found = saved(gpt2, of_prompts(build, {"h": how}, last))["h"]
    wanted = fold([one[-1] for one in residuals(gpt2, build, saved)])
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)


def test_a_weighted_mean_is_over_all_tokens_and_not_over_means(gpt2, build, saved):
    nodes = [
        build.get("r", "blocks.2:resid_post", [0], invoke="x"),
        build.call("h", "mean", "$r", 0),
        build.call("n", "size", "$r", 0),
    ]
    task = of_prompts(build, {"h": "weighted", "weight": "sum"}, nodes, {"h": "$h", "weight": "$n"})
    wanted = torch.cat(residuals(gpt2, build, saved)).mean(0)
    torch.testing.assert_close(saved(gpt2, task)["h"], wanted, rtol=1e-5, atol=1e-5)


def test_sums_of_bfloat16_keep_counting(gpt2, build, saved):
    ones = [build.call("h", "to", "$one", "bfloat16")]
    node = mapped({"one": "$ones"}, ones, {"h": "$h"}, reduce={"h": "sum"})
    found = saved(gpt2, build.task(GPT2, {}, node, saves={"h": "$m.h"}, constants={"ones": {"range": [1000, 2000]}}))
    assert found["h"].dtype == torch.float32
    assert found["h"].item() == pytest.approx(sum(range(1000, 2000)), rel=4e-3)


def test_texts_are_tokenized_element_by_element(gpt2, build, saved):
    invokes = [{"id": "x", "text": "$prompt"}]
    body = {
        "runs": [{"id": "rr", "invokes": invokes}],
        "nodes": [build.get("z", "lm_head:output", [0, -1], invoke="x")],
        "out": {"z": "$z"},
    }
    node = {"kind": "map", "id": "m", "over": {"prompt": "$prompts"}, "body": body}
    words = ["one", "three", "a longer text"]
    found = saved(gpt2, build.task(GPT2, {}, node, saves={"z": "$m.z"}, constants={"prompts": words}))["z"]
    for row, text in enumerate(words):
        ids = gpt2.tokenize(text)
        alone = build.task(GPT2, {"x": ids}, build.get("z", "lm_head:output", [0, -1], invoke="x"))
        torch.testing.assert_close(found[row], saved(gpt2, alone)["z"], rtol=1e-5, atol=1e-5)


def test_token_ids_may_be_computed_and_are_taken_from_a_value(gpt2, build, saved):
    nodes = [
        build.call("own", "index", "$table", ["$at"]),
        build.get("z", "lm_head:output", [0, -1], invoke="x"),
    ]
    node = mapped({"at": "$which"}, nodes, {"z": "$z"}, inputs={"x": "$own"})
    table = torch.tensor([A, B, [1, 2, 3, 4, 5]])
    task = build.task(
        GPT2,
        {},
        node,
        saves={"z": "$m.z"},
        constants={"which": [2, 0], "table": {"tensor": "t"}},
        attachment={"t": table},
    )
    found = saved(gpt2, task)["z"]
    for row, ids in enumerate(([1, 2, 3, 4, 5], A)):
        alone = build.task(GPT2, {"x": ids}, build.get("z", "lm_head:output", [0, -1], invoke="x"))
        torch.testing.assert_close(found[row], saved(gpt2, alone)["z"], rtol=1e-5, atol=1e-5)


def test_a_value_of_a_late_layer_is_the_input_of_a_second_run(gpt2, build, saved):
    """Greedy decoding by hand: the token that one run finds is the input of the next one."""
    graph = build.graph(
        GPT2,
        {"a": A},
        build.get("z", "lm_head:output", [0, -1]),
        build.call("next", "argmax", "$z", -1),
        build.call("more", "cat", ["$prompt", "$row"], 0),
        build.call("row", "reshape", "$next", [1]),
        build.get("y", "lm_head:output", [0, -1], invoke="b"),
        constants={"prompt": {"tensor": "p"}},
        saves={"y": "$y", "next": "$next"},
    )
    runs = [*graph.to_dict()["runs"], {"id": "again", "invokes": [{"id": "b", "ids": "$more"}]}]
    task = build.task(GPT2, {}, attachment={"p": torch.tensor(A)}, saves={"x": "$x"}, constants={"x": 0})
    task = type(task)(task.id, type(graph).model_validate(graph.to_dict() | {"runs": runs}), attachment=task.attachment)
    found = saved(gpt2, task)
    alone = build.task(GPT2, {"b": [*A, int(found["next"])]}, build.get("y", "lm_head:output", [0, -1], invoke="b"))
    torch.testing.assert_close(found["y"], saved(gpt2, alone)["y"], rtol=1e-5, atol=1e-5)


def test_maps_nest(gpt2, build, saved):
    inner = {
        "kind": "map",
        "id": "inner",
        "over": {"scale": "$scales"},
        "body": {
            "runs": [{"id": "ri", "invokes": [{"id": "x", "ids": "$ids"}]}],
            "nodes": [
                build.set("blocks.1.mlp:output", "$scale", invoke="x"),
                build.get("z", "lm_head:output", [0, -1], invoke="x"),
            ],
            "out": {"z": "$z"},
        },
    }
    node = mapped({"ids": "$all"}, [inner], {"z": "$inner.z"})
    scales = [0.0, 1.0, 2.0]
    task = build.task(GPT2, {}, node, saves={"z": "$m.z"}, constants={"all": PROMPTS, "scales": scales})
    found = saved(gpt2, task)["z"]
    assert found.shape == (5, 3, 257)
    for row, ids in enumerate(PROMPTS):
        for column, scale in enumerate(scales):
            one = build.task(
                GPT2,
                {"x": ids},
                build.set("blocks.1.mlp:output", scale, invoke="x"),
                build.get("z", "lm_head:output", [0, -1], invoke="x"),
            )
            torch.testing.assert_close(found[row, column], saved(gpt2, one)["z"], rtol=1e-5, atol=1e-5)


def test_a_map_goes_over_the_lists_that_the_map_around_it_goes_over(gpt2, build, saved):
    read = [build.get("z", "blocks.{layer}:resid_post", [0, -1], invoke="x")]
    body = {"runs": [{"id": "ri", "invokes": [{"id": "x", "ids": A}]}], "nodes": read, "out": {"z": "$z"}}
    inner = {"kind": "map", "id": "inner", "over": {"layer": "$layers"}, "body": body}
    node = mapped({"layers": "$pairs"}, [inner], {"z": "$inner.z"})
    found = saved(gpt2, build.task(GPT2, {}, node, saves={"z": "$m.z"}, constants={"pairs": [[0, 1], [3, 2]]}))["z"]
    stack = saved(gpt2, build.task(GPT2, {"a": A}, build.get("h", "blocks.*:resid_post", [":", 0, -1])))["h"]
    torch.testing.assert_close(found, stack[torch.tensor([[0, 1], [3, 2]])], rtol=1e-5, atol=1e-5)


def test_values_flow_from_a_map_into_a_later_run(gpt2, build, saved):
    """The mean of other prompts' activations, written into a prompt of its own."""
    last = [build.get("h", "blocks.1:resid_post", [0, -1], invoke="x")]
    node = mapped({"ids": "$all"}, last, {"h": "$h"}, inputs={"x": "$ids"}, reduce={"h": "mean"})
    task = build.task(
        GPT2,
        {"a": A},
        node,
        build.set("blocks.1:resid_post", "$m.h", [":", -1]),
        build.get("z", "lm_head:output", [0, -1]),
        saves={"z": "$z"},
        constants={"all": PROMPTS},
    )
    mean = torch.stack(
        [
            saved(gpt2, build.task(GPT2, {"x": ids}, build.get("h", "blocks.1:resid_post", [0, -1], invoke="x")))["h"]
            for ids in PROMPTS
        ]
    ).mean(0)
    alone = build.task(
        GPT2,
        {"a": A},
        build.set("blocks.1:resid_post", "$v", [":", -1]),
        build.get("z", "lm_head:output", [0, -1]),
        constants={"v": {"tensor": "v"}},
        attachment={"v": mean},
        saves={"z": "$z"},
    )
    torch.testing.assert_close(saved(gpt2, task)["z"], saved(gpt2, alone)["z"], rtol=1e-5, atol=1e-5)


def test_maps_of_several_jobs_share_forwards(gpt2, build, saved, forwards):
    tasks = [of_prompts(build, {"h": "cat"}) for _ in range(3)]
    outcomes = gpt2.run(tasks)
    assert forwards == [15]
    for one in outcomes:
        torch.testing.assert_close(one.saved["h"], torch.cat(residuals(gpt2, build, saved)), rtol=1e-5, atol=1e-5)


# Repeats


def repeat(n, carry, nodes, out, **more):
    runs = more.pop("runs", [])
    return {
        "kind": "repeat",
        "id": "r",
        "n": n,
        "carry": carry,
        "body": {"runs": runs, "nodes": nodes, "out": out},
        **more,
    }


def test_a_repeat_carries_values_and_stacks_the_others(gpt2, build, saved):
    nodes = [build.call("half", "mul", "$y", 0.5), build.call("twice", "mul", "$step", 2)]
    node = repeat(4, {"y": 1.0}, nodes, {"y": "$half", "twice": "$twice"})
    found = saved(gpt2, build.task(GPT2, {}, node, saves={"y": "$r.y", "twice": "$r.twice"}))
    assert found["y"].item() == 0.0625
    assert found["twice"].tolist() == [0, 2, 4, 6]


def test_a_repeat_that_never_runs_gives_what_it_began_with_and_nothing_else(gpt2, build, saved):
    nodes = [build.call("half", "mul", "$y", 0.5), build.call("first", "index", "$half", [0])]
    node = repeat("$n", {"y": "$x"}, nodes, {"y": "$half", "seen": "$half"})
    x = torch.ones(3, 2, dtype=torch.float64)
    task = build.task(
        GPT2,
        {},
        node,
        saves={"y": "$r.y", "seen": "$r.seen"},
        constants={"n": 0, "x": {"tensor": "x"}},
        attachment={"x": x},
    )
    found = saved(gpt2, task)
    assert torch.equal(found["y"], x)
    assert (found["seen"].shape, found["seen"].dtype) == ((0, 3, 2), torch.float64)


def test_a_computed_number_of_times_over_what_it_was_priced_by_ends_the_job_with_both_numbers(gpt2, build, saved):
    nodes = [build.call("half", "mul", "$y", 0.5)]

    def task(**more):
        node = repeat("$n", {"y": 8.0}, nodes, {"y": "$half"}, **more)
        count = build.call("n", "amax", "$t")
        return build.task(GPT2, {}, count, node, saves={"y": "$r.y"}, constants={"t": [2, 3]}, protocol=[1, 1])

    assert saved(gpt2, task(most=3))["y"].item() == 1
    with pytest.raises(BadArgument, match="is to run 3 times; 0 to 2 are allowed; say 'most', up to"):
        saved(gpt2, task(most=2))


def test_a_repeat_ends_when_its_condition_no_longer_holds(gpt2, build, saved):
    nodes = [build.call("half", "mul", "$y", 0.5), build.call("more", "gt", "$half", 0.01)]
    node = repeat(100, {"y": 1.0}, nodes, {"y": "$half", "seen": "$half", "go": "$more"}, **{"while": "$go"})
    found = saved(gpt2, build.task(GPT2, {}, node, saves={"y": "$r.y", "seen": "$r.seen"}))
    assert found["y"].item() == pytest.approx(0.0078125)
    assert found["seen"].tolist() == [0.5**k for k in range(1, 8)]


def test_a_repeat_runs_forwards_one_after_the_other(gpt2, build, saved):
    """Greedy decoding without a cache, four tokens."""
    nodes = [
        build.get("z", "lm_head:output", [0, -1], invoke="x"),
        build.call("best", "argmax", "$z", -1),
        build.call("row", "reshape", "$best", [1]),
        build.call("moved", "cat", ["$tail", "$row"], 0),
        build.call("ids", "index", "$moved", ["1:"]),
    ]
    runs = [{"id": "rr", "invokes": [{"id": "x", "ids": "$tail"}]}]
    node = repeat(4, {"tail": "$prompt"}, nodes, {"tail": "$ids", "best": "$best"}, runs=runs)
    task = build.task(
        GPT2,
        {},
        node,
        saves={"best": "$r.best"},
        constants={"prompt": {"tensor": "p"}},
        attachment={"p": torch.tensor(A)},
    )
    ids, wanted = torch.tensor([A]), []
    for _ in range(4):
        with torch.no_grad():
            best = int(gpt2.loaded.module(input_ids=ids).logits[0, -1].argmax())
        wanted.append(best)
        ids = torch.cat([ids[:, 1:], torch.tensor([[best]])], 1)
    assert saved(gpt2, task)["best"].tolist() == wanted


# Choices


@pytest.mark.parametrize(("condition", "wanted"), [(True, 3.0), (False, -3.0)])
def test_a_choice_evaluates_only_the_branch_that_is_chosen(gpt2, build, saved, condition, wanted):
    bad = {"nodes": [build.call("never", "gather", "$far", 0, "$far")], "out": {"value": "$never"}}
    good = {"nodes": [build.call("n", "mul", "$x", wanted)], "out": {"value": "$n"}}
    then, other = (good, bad) if condition else (bad, good)
    node = {"kind": "cond", "id": "c", "if": "$which", "then": then, "else": other}
    constants = {"which": condition, "x": {"tensor": "one"}, "far": [99]}
    far = build.call("idx", "full", [1], 99, dtype="int64")
    task = build.task(
        GPT2,
        {},
        far,
        node,
        saves={"c": "$c"},
        constants=constants | {"far": {"tensor": "far"}},
        attachment={"one": torch.ones(1), "far": torch.tensor([99])},
    )
    assert saved(gpt2, task)["c"].tolist() == [wanted]


def test_a_choice_by_what_the_model_does(gpt2, build, saved):
    read = build.get("z", "lm_head:output", [0, -1])
    nodes = [read, build.call("top", "amax", "$z"), build.call("hot", "gt", "$top", "$much")]
    node = {"kind": "cond", "id": "c", "if": "$hot", "then": 1.0, "else": 0.0}
    for much, wanted in ((-1e9, 1.0), (1e9, 0.0)):
        task = build.task(GPT2, {"a": A}, *nodes, node, saves={"c": "$c"}, constants={"much": much})
        assert saved(gpt2, task)["c"].item() == wanted


# Refusals


def test_what_is_wrong_in_an_element_is_told_with_the_element(gpt2, build, saved):
    body = [build.get("z", "blocks.{layer}:resid_post", [":", "$pos"], invoke="x")]

    def task(**constants):
        node = mapped({"layer": "$layers", "pos": "$places"}, body, {"z": "$z"}, inputs={"x": A}, grid=True)
        return build.task(GPT2, {}, node, saves={"z": "$m.z"}, constants=constants)

    with pytest.raises(IndexOutOfRange, match=r"index 5 is past the end.*pos=5"):
        saved(gpt2, task(layers=[0, 1], places=[4, 5]))
    with pytest.raises(UnknownSite, match=r"in element 1 of map 'm' \(layer=9, pos=4\)"):
        saved(gpt2, task(layers=[0, 9], places=[4]))


def test_what_goes_wrong_at_run_time_says_in_which_elements_steps_and_branches(gpt2, build):
    branch = {"nodes": [build.call("w", "index", "$t", ["$i"])], "out": {"value": "$w"}}
    inner = [
        build.call("i", "add", "$step", "$from"),
        build.call("late", "ge", "$step", 2),
        {"kind": "cond", "id": "c", "if": "$late", "then": branch, "else": 0.0},
    ]
    loop = {"kind": "repeat", "id": "r", "n": 4, "body": {"nodes": inner, "out": {"v": "$c"}}}
    node = mapped({"word": "$words", "from": "$starts"}, [loop], {"v": "$r.v"}, grid=True)
    task = build.task(
        GPT2,
        {},
        node,
        saves={"v": "$m.v"},
        constants={"words": ["x", "y" * 99], "starts": [0, 1, 3], "t": {"tensor": "t"}},
        attachment={"t": torch.ones(5)},
        lines={"w": "study.py:7", "m": "study.py:3"},
    )
    [outcome] = gpt2.run([task])
    assert str(outcome.error).startswith("study.py:7: index: index 5 is out of bounds")
    assert str(outcome.error).endswith("in step 2 of repeat 'r', in 'then' of cond 'c']")
    found = [one.model_dump(exclude_defaults=True) for one in outcome.error.record().within]
    assert found[0].pop("bound")["from"] == 3
    assert found == [
        {"kind": "map", "node": "m", "element": 2, "place": "study.py:3"},
        {"kind": "repeat", "node": "r", "step": 2},
        {"kind": "cond", "node": "c", "part": "then"},
    ]


def test_one_bad_element_fails_its_job_and_no_other(gpt2, build, saved):
    nodes = [build.call("v", "index", "$t", ["$at"]), build.call("w", "index", "$t", ["$v"])]
    node = mapped({"at": "$which"}, nodes, {"w": "$w"})
    bad = build.task(
        GPT2,
        {},
        node,
        saves={"w": "$m.w"},
        constants={"which": [0, 1], "t": {"tensor": "t"}},
        attachment={"t": torch.tensor([1, 7])},
    )
    good = of_prompts(build, {"h": "cat"})
    failed, kept = gpt2.run([bad, good])
    assert isinstance(failed.error, ExecutionError)
    assert failed.error.node == "w"
    assert [one.element for one in failed.error.within] == [1]
    assert kept.error is None


@pytest.mark.parametrize(
    ("node", "error", "match"),
    [
        ({"over": {}}, BadArgument, "goes over nothing"),
        ({"over": {"a": [1, 2], "b": [1]}}, ShapeError, "'a' 2, 'b' 1 elements"),
        ({"over": {"a": []}}, BadArgument, "empty list"),
        ({"over": {"a": 5}}, BadArgument, "goes over a list"),
        ({"over": {"a": [1] * 400, "b": [1] * 400}, "grid": True}, TooLarge, "160,000 elements"),
        ({"over": {"a": [1, 2]}, "reduce": {"nothing": "sum"}}, BadArgument, "no output"),
        ({"over": {"a": [1, 2]}, "reduce": {"h": "weighted"}}, BadArgument, "no output 'weight'"),
    ],
)
def test_a_map_that_cannot_be_is_refused(gpt2, build, saved, node, error, match):
    whole = mapped(node.pop("over"), [build.call("h", "add", "$x", "$a" if node else 1)], {"h": "$h"}, **node)
    task = build.task(
        GPT2, {}, whole, saves={"h": "$m.h"}, constants={"x": {"tensor": "x"}}, attachment={"x": torch.ones(2)}
    )
    with pytest.raises(error, match=match):
        saved(gpt2, task)


@pytest.mark.parametrize("how", ["stack", "sum", "mean", "max"])
def test_a_map_over_nothing_is_told_by_name(gpt2, build, saved, how):
    """How many elements there are is known only when the mask is."""
    nodes = [build.call("big", "gt", "$x", 5.0), build.call("rows", "index", "$x", ["$big"])]
    node = mapped({"e": "$rows"}, [build.call("w", "neg", "$e")], {"w": "$w"}, reduce={"w": how})
    task = build.task(
        GPT2,
        {},
        *nodes,
        node,
        saves={"w": "$m.w"},
        constants={"x": {"tensor": "x"}},
        attachment={"x": torch.ones(3)},
    )
    with pytest.raises(ShapeError, match="'e', which has no elements"):
        saved(gpt2, task)


def test_elements_of_different_lengths_cannot_be_stacked(gpt2, build, saved):
    with pytest.raises(ShapeError, match="reduce with 'cat'"):
        saved(gpt2, of_prompts(build, {}))


def test_a_carried_value_keeps_its_kind(gpt2, build, saved):
    wrong = repeat(3, {"y": 1}, [build.call("half", "mul", "$y", 0.5)], {"y": "$half"})
    with pytest.raises(DtypeError, match="begins as int64"):
        saved(gpt2, build.task(GPT2, {}, wrong, saves={"y": "$r.y"}))
    lost = repeat(3, {"y": 1.0}, [build.call("half", "mul", "$y", 0.5)], {"z": "$half"})
    with pytest.raises(BadArgument, match="no output 'y'"):
        saved(gpt2, build.task(GPT2, {}, lost, saves={"z": "$r.z"}))
    many = repeat(10**9, {"y": 1.0}, [build.call("half", "mul", "$y", 0.5)], {"y": "$half"})
    with pytest.raises(TooLarge, match="1,000,000,000 times"):
        saved(gpt2, build.task(GPT2, {}, many, saves={"y": "$r.y"}))


def test_a_run_outside_is_not_read_from_inside(gpt2, build, saved):
    node = mapped({"k": [1, 2]}, [build.get("z", "lm_head:output", invoke="a")], {"z": "$z"})
    with pytest.raises(BadArgument, match="belongs outside this sub-graph"):
        saved(gpt2, build.task(GPT2, {"a": A}, build.get("q", "lm_head:output"), node, saves={"z": "$m.z"}))


def test_a_choice_goes_by_one_value(gpt2, build, saved):
    node = {"kind": "cond", "id": "c", "if": "$x", "then": 1, "else": 2}
    with pytest.raises(ShapeError, match=r"where\(\)"):
        saved(
            gpt2,
            build.task(
                GPT2, {}, node, saves={"c": "$c"}, constants={"x": {"tensor": "x"}}, attachment={"x": torch.ones(3)}
            ),
        )
