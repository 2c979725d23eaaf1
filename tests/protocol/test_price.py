"""What jobs cost."""

from __future__ import annotations

import time

import pytest

from telepatch_protocol.card import ModelCard
from telepatch_protocol.check import check
from telepatch_protocol.errors import TooLarge
from telepatch_protocol.graph import Graph
from telepatch_protocol.inputs import Input
from telepatch_protocol.jobs import Price
from telepatch_protocol.meta import Meta
from telepatch_protocol.price import price
from telepatch_protocol.subgraphs import COMPUTED_TIMES


def priced(card: ModelCard, nodes: list[dict], saves: dict[str, str], sizes: dict[str, Input]) -> Price:
    invokes = [{"id": name, "text": [name] * size.rows} for name, size in sizes.items()]
    document = {"model": {"id": "tiny"}, "runs": [{"id": "r", "invokes": invokes}], "nodes": nodes, "saves": saves}
    lengths = {name: size.length for name, size in sizes.items()}
    return price(check(Graph.model_validate(document), card, lengths=lengths), card)


def get(id_: str, site: str, invoke: str) -> dict:
    return {"kind": "get", "id": id_, "site": site, "invoke": invoke}


def test_rows_and_tokens_count_every_forward_that_an_invoke_takes_part_in(card: ModelCard):
    nodes = [
        get("h", "blocks.3:resid_post", "a"),
        {"kind": "set", "id": "w", "site": "blocks.0:resid_post", "invoke": "b", "value": "$h", "index": [":", ":5"]},
        get("z", "head:output", "b"),
    ]
    found = priced(card, nodes, {"z": "$z"}, {"a": Input(1, 5), "b": Input(1, 9)})
    assert (found.passes, found.rows, found.tokens) == (2, 2, 14)
    assert found.saved_bytes == 9 * 100 * 4


def test_values_count_only_while_they_are_alive(card: ModelCard):
    chain = [get("n0", "blocks.0:resid_post", "a")]
    chain += [{"kind": "call", "id": f"n{number}", "op": "neg", "args": [f"$n{number - 1}"]} for number in range(1, 50)]
    short = priced(card, chain[:2], {"out": "$n1"}, {"a": Input(1, 10)})
    long = priced(card, chain, {"out": "$n49"}, {"a": Input(1, 10)})
    assert long.peak_bytes == short.peak_bytes


def test_a_job_over_a_limit_is_refused_with_both_numbers(card: ModelCard):
    small = card.model_copy(update={"limits": card.limits.model_copy(update={"max_saved_bytes": 100})})
    with pytest.raises(TooLarge, match="4,000 bytes of saved values; the limit of model 'tiny' is 100"):
        priced(small, [get("z", "head:output", "a")], {"z": "$z"}, {"a": Input(1, 10)})
    with pytest.raises(TooLarge, match="1,200 rows"):
        priced(
            card,
            [get("z", "head:output", "a"), get("y", "head:output", "b")],
            {"z": "$z", "y": "$y"},
            {"a": Input(600, 2), "b": Input(600, 2)},
        )


def test_gradients_cost_what_they_keep_of_the_forward(card: ModelCard):
    """From the first layer of which a gradient is asked to the place of the number, everything is kept."""

    def peak(layer: int, *more: dict) -> int:
        nodes = [get("h", f"blocks.{layer}:resid_post", "a"), get("z", "head:output", "a")]
        total = {"kind": "call", "id": "sum", "op": "sum", "args": ["$z"]}
        return priced(card, [*nodes, total, *more], {"s": "$sum"}, {"a": Input(1, 10)}).peak_bytes

    grad = {"kind": "grad", "id": "g", "of": "$sum", "wrt": ["$h"]}
    assert peak(0) < peak(3, grad) < peak(0, grad)


def of(card: ModelCard, *nodes: dict, saves: str, **constants: object) -> Price:
    document = {"model": {"id": "tiny"}, "nodes": nodes, "saves": {"v": saves}, "constants": constants}
    return price(check(Graph.model_validate(document), card, attachment={"t": Meta((4, 8), "float32")}), card)


def reading(ids: object, length: int = 5) -> dict:
    run = {"id": "rr", "invokes": [{"id": "x", "ids": ids}]}
    return {"runs": [run], "nodes": [get("z", "head:output", "x") | {"index": [0, -1]}], "out": {"v": "$z"}}


def over(body: dict, id_: str = "m", **names: object) -> dict:
    return {"kind": "map", "id": id_, "over": names, "body": body}


def repeat(n: object, body: dict, id_: str = "r", **more: object) -> dict:
    return {"kind": "repeat", "id": id_, "n": n, "body": body, **more}


def test_a_map_costs_as_much_as_all_its_elements_and_runs_them_together(card: ModelCard):
    found = of(card, over(reading("$p"), p=[[1] * 5] * 300), saves="$m.v")
    assert (found.rows, found.tokens) == (300, 1500)
    assert found.passes == 2  # 256 rows at once
    assert found.saved_bytes == 300 * 100 * 4


def test_elements_of_different_lengths_cost_what_each_has(card: ModelCard):
    assert of(card, over(reading("$p"), p=[[1], [1, 2, 3], [4]]), saves="$m.v").tokens == 5


def test_a_repeat_costs_its_body_as_often_as_it_runs_one_after_the_other(card: ModelCard):
    once, often = (of(card, repeat(n, reading([1, 2])), saves="$r.v") for n in (1, 50))
    assert (often.rows, often.tokens, often.passes) == (50, 100, 50)
    assert often.flops == 50 * once.flops
    assert often.peak_bytes - once.peak_bytes == 49 * 100 * 4  # the stacked outputs, and nothing of each time


def test_a_computed_number_of_times_is_priced_by_the_most_that_it_says_it_can_be(card: ModelCard):
    start = {"kind": "call", "id": "n", "op": "amax", "args": ["$t"]}
    nodes = [start, repeat("$n", reading([1, 2])) | {"most": 5}]
    said = of(card, *nodes, saves="$r.v", t=[3, 4])
    assert (said.rows, said.saved_bytes) == (5, 5 * 100 * 4)
    assert of(card, start, repeat("$n", reading([1, 2])), saves="$r.v", t=[3, 4]).rows == COMPUTED_TIMES


def test_maps_and_repeats_inside_each_other_multiply(card: ModelCard):
    inner = over(reading("$p"), "inner", p=[[1, 2]] * 3)
    found = of(card, repeat(7, {"nodes": [inner], "out": {"v": "$inner.v"}}), saves="$r.v")
    assert (found.rows, found.tokens, found.passes) == (21, 42, 7)


def test_both_branches_of_a_choice_are_priced_and_the_larger_counts_for_memory(card: ModelCard):
    def branch(name: str, size: int) -> dict:
        wide = {"kind": "call", "id": name, "op": "zeros", "args": [[size]]}
        return {
            "nodes": [wide, {"kind": "call", "id": f"{name}s", "op": "sum", "args": [f"${name}"]}],
            "out": {"value": f"${name}s"},
        }

    small, large = branch("a", 10), branch("b", 10_000)
    found = of(card, {"kind": "cond", "id": "c", "if": True, "then": small, "else": large}, saves="$c")
    assert 40_000 <= found.peak_bytes < 41_000


def training(optimiser: dict, **more: object) -> dict:
    nodes = [
        {"kind": "call", "id": "p", "op": "mul", "args": ["$row", "$w"]},
        {"kind": "call", "id": "l", "op": "mean", "args": ["$p"]},
    ]
    return {
        "kind": "fit",
        "id": "f",
        "over": {"row": "$xs"},
        "batch_size": 2,
        "steps": 3,
        "buffer": {},
        "params": {"w": {"init": "$w0"}},
        "optimiser": {"lr": 0.1, **optimiser},
        "body": {"nodes": nodes, "out": {"loss": "$l"}},
        **more,
    }


def test_a_fit_costs_what_its_optimiser_and_its_checkpoints_keep(card: ModelCard):
    """Of a parameter of 1,024 bytes: itself, its gradient and moments, and two checkpoints of all but the gradient."""

    def peak(optimiser: dict, **more: object) -> int:
        ones = {"kind": "call", "id": "xs", "op": "ones", "args": [[1000, 256]]}
        zeros = {"kind": "call", "id": "w0", "op": "zeros", "args": [[256]]}
        return of(card, ones, zeros, training(optimiser, **more), saves="$f.w").peak_bytes

    plain = peak({"name": "sgd"})
    assert peak({"name": "sgd", "momentum": 0.9}) - plain == 3 * 1024
    assert peak({"name": "adam"}) - plain == 6 * 1024
    assert peak({"name": "sgd"}, buffer={"rows": 100}) - plain == 3 * 100 * 1024


def test_loops_that_would_never_end_are_refused_before_they_run(card: ModelCard):
    body: dict = {"nodes": [{"kind": "call", "id": "n", "op": "neg", "args": [1.0]}], "out": {"v": "$n"}}
    for depth in range(3):
        body = {"nodes": [repeat(100_000, body, f"r{depth}")], "out": {"v": f"$r{depth}.v"}}
    began = time.perf_counter()
    with pytest.raises(TooLarge, match="nodes, each as often as maps and repeats do"):
        of(
            card.model_copy(update={"limits": card.limits.model_copy(update={"max_bytes": 2**62})}),
            *body["nodes"],
            saves="$r2.v",
        )
    assert time.perf_counter() - began < 1


def test_long_repeats_that_do_little_are_no_trouble(card: ModelCard):
    body = {"nodes": [{"kind": "call", "id": "n", "op": "neg", "args": ["$y"]}], "out": {"y": "$n"}}
    assert of(card, repeat(100_000, body, carry={"y": 1.0}), saves="$r.y").passes == 0


def test_a_map_of_as_many_rows_as_there_may_be_elements_is_no_single_run_of_too_many_rows(card: ModelCard):
    assert of(card, over(reading("$p"), p=[[1]] * 5000), saves="$m.v").rows == 5000
