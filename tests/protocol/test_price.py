"""What jobs cost."""

from __future__ import annotations

import pytest

from telepatch_protocol.card import ModelCard
from telepatch_protocol.check import check
from telepatch_protocol.errors import TooLarge
from telepatch_protocol.graph import Graph
from telepatch_protocol.inputs import Input
from telepatch_protocol.jobs import Price
from telepatch_protocol.price import price


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
