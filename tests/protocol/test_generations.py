"""Generations as documents: what comes out of them, at which steps, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from telepatch_protocol import wire
from telepatch_protocol.check import check
from telepatch_protocol.errors import (
    BadArgument,
    CausalLoop,
    DtypeError,
    GraphError,
    IndexOutOfRange,
    NotYetSupported,
    ShapeError,
    TooLarge,
    UnknownName,
    UnknownSite,
    VersionError,
)
from telepatch_protocol.meta import Meta
from telepatch_protocol.price import price
from telepatch_protocol.versions import needed

GOLDEN = Path(__file__).parents[1] / "wire" / "1.1"
PROMPT = [1, 2, 3, 4, 5]


def get(id, site, index=None, **more):
    return {"kind": "get", "id": id, "site": site, "invoke": "x", **({"index": index} if index else {}), **more}


def put(id, site, value, index=None, **more):
    return {
        "kind": "set",
        "id": id,
        "site": site,
        "invoke": "x",
        "value": value,
        **({"index": index} if index else {}),
        **more,
    }


def call(id, op, *args, **kwargs):
    return {"kind": "call", "id": id, "op": op, "args": list(args), "kwargs": kwargs}


def document(each=None, nodes=(), saves=None, *, ids=PROMPT, more_runs=(), **settings):
    run = {
        "id": "r",
        "generate": {"max_new_tokens": 8, **settings},
        "invokes": [{"id": "x", "ids": ids}],
        **({"each": each} if each else {}),
    }
    return wire.from_dict(
        {
            "protocol": [1, 1],
            "model": {"id": "tiny"},
            "runs": [run, *more_runs],
            "nodes": list(nodes),
            "saves": saves or {"tokens": "$r.tokens"},
        }
    )


LAST = get("h", "blocks.2:resid_post", [":", -1])


def shape(meta):
    return tuple(dim if isinstance(dim, int) else "?" for dim in meta.shape)


def test_every_generation_gives_its_tokens_how_many_they_are_why_they_ended_and_the_seed(card):
    found = check(document(saves={name: f"$r.{name}" for name in ("tokens", "lengths", "reasons", "seed")}), card).saves
    assert {name: (shape(meta), meta.dtype) for name, meta in found.items()} == {
        "tokens": ((1, "?"), "int64"),
        "lengths": ((1,), "int64"),
        "reasons": ((1,), "int64"),
        "seed": ((), "int64"),
    }
    assert found["tokens"].bytes_at_most({}) == 8 * 8


def test_outputs_are_stacked_over_the_steps_at_which_they_exist_and_state_comes_out_as_it_ends(card):
    each = {
        "state": {"n": 0},
        "nodes": [
            LAST,
            get("whole", "blocks.1:resid_post", step=0),
            get("late", "blocks.1:resid_post", step="1:"),
            get("two", "blocks.1:resid_post", step="3:5"),
            call("m", "mean", "$two"),
            call("n1", "add", "$n", 1),
            call("scale", "mul", "$h", "$step"),
        ],
        "carry": {"n": "$n1"},
        "out": {"h": "$h", "whole": "$whole", "late": "$late", "m": "$m", "scale": "$scale"},
    }
    names = ("h", "whole", "late", "m", "n", "scale")
    found = check(document(each, saves={name: f"$r.{name}" for name in names}), card).saves
    assert {name: shape(meta) for name, meta in found.items()} == {
        "h": ("?", 1, 8),
        "whole": (1, 1, 5, 8),
        "late": ("?", 1, 1, 8),
        "m": ("?",),
        "n": (),
        "scale": ("?", 1, 8),
    }
    assert found["m"].bytes_at_most({}) == 2 * 4


def test_reads_outside_each_say_their_steps(card):
    nodes = [
        get("prompt", "blocks.1:resid_post", step=0),
        get("third", "blocks.1:resid_post", step=3),
        get("all", "blocks.1:resid_post", [":", -1], step=":"),
        call("norm", "norm", "$third"),
        put("push", "blocks.0:resid_post", 0, step="2:"),
    ]
    found = check(document(nodes=nodes, saves={name: f"${name}" for name in ("prompt", "third", "all", "norm")}), card)
    assert {name: shape(meta) for name, meta in found.saves.items()} == {
        "prompt": (1, 5, 8),
        "third": (1, 1, 8),
        "all": ("?", 1, 8),
        "norm": (),
    }


def test_what_a_generation_gives_can_be_the_input_of_a_later_forward_and_needs_that_of_an_earlier_one(card):
    nodes = [
        {"kind": "get", "id": "v", "site": "blocks.1:resid_post", "invoke": "a", "index": [":", -1]},
        put("push", "blocks.1:resid_post", "$v", [":", -1], step=":"),
        {"kind": "get", "id": "after", "site": "head:output", "invoke": "b"},
    ]
    runs = [
        {"id": "first", "invokes": [{"id": "a", "ids": [7, 8]}]},
        {"id": "second", "invokes": [{"id": "b", "ids": "$r.tokens"}]},
    ]
    found = check(document(nodes=nodes, more_runs=runs, saves={"after": "$after"}), card)
    assert [one.invokes for one in found.schedule.passes] == [("a",), ("b",)]


def test_a_state_may_take_its_shape_from_the_prompt(card):
    each = {
        "state": {"mean": 0.0},
        "nodes": [LAST, call("next", "add", "$mean", "$h")],
        "carry": {"mean": "$next"},
    }
    assert shape(check(document(each, saves={"mean": "$r.mean"}), card).saves["mean"]) == (1, 8)


def test_attention_at_a_step_sees_everything_before_it(card):
    each = {
        "nodes": [get("p", "layers.1.attn:outputs.1", step="1:"), call("top", "amax", "$p")],
        "out": {"top": "$top"},
    }
    assert shape(check(document(each, saves={"top": "$r.top"}), card).saves["top"]) == ("?",)


def test_a_map_holds_generations_each_with_its_own_settings(card):
    run = {
        "id": "r",
        "generate": {"max_new_tokens": "$most", "temperature": "$warm", "seed": 3},
        "invokes": [{"id": "x", "ids": PROMPT}],
        "each": {"nodes": [LAST], "out": {"h": "$h"}},
    }
    body = {
        "runs": [run],
        "nodes": [call("last", "index", "$r.h", [-1])],
        "out": {"lengths": "$r.lengths", "last": "$last"},
    }
    over = {"most": [1, 2, 5], "warm": [0, 0.5, 1.5]}
    graph = wire.from_dict(
        {
            "protocol": [1, 0],
            "model": {"id": "tiny"},
            "nodes": [{"kind": "map", "id": "m", "over": over, "body": body}],
            "saves": {"n": "$m.lengths", "last": "$m.last"},
        }
    )
    found = check(graph, card)
    assert {name: shape(meta) for name, meta in found.saves.items()} == {"n": (3, 1), "last": (3, 1, 8)}
    assert len(found.scope.bodies["m"]) == 3


def test_the_price_has_the_prompt_every_token_the_cache_and_what_is_stacked(card):
    each = {"nodes": [LAST], "out": {"h": "$h"}}
    plain = price(check(document(), card), card)
    assert (plain.rows, plain.tokens, plain.passes) == (8, 5 + 7, 8)
    kept = price(check(document(each, saves={"h": "$r.h"}), card), card)
    assert kept.saved_bytes == 8 * 8 * 4
    cached = card.model_copy(update={"cache_bytes": 1000})
    assert price(check(document(), cached), cached).peak_bytes == plain.peak_bytes + 12 * 1000


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"temperature": -1}, "temperature is -1; 0 .* or above"),
        ({"temperature": "inf"}, "temperature"),
        ({"temperature": True}, "temperature"),
        ({"top_p": 0}, "top_p is 0; a number above 0 and up to 1"),
        ({"top_p": 1.5}, "top_p"),
        ({"top_k": 0}, "top_k is 0; an integer from 1"),
        ({"max_new_tokens": 0}, "max_new_tokens is 0; an integer from 1"),
        ({"max_new_tokens": 61}, "61 tokens after a prompt of 5; .* 64 positions, so max_new_tokens of at most 60"),
        ({"min_p": 1.5}, "min_p is 1.5; a number from 0 to 1"),
        ({"repetition_penalty": 0}, "repetition_penalty is 0; a number above 0"),
        ({"no_repeat_ngram_size": 1.5}, "no_repeat_ngram_size is 1.5; an integer from 1"),
        ({"min_new_tokens": 99}, r"min_new_tokens is 99; an integer from 0 and up to max_new_tokens, \d+"),
        ({"seed": 1.5}, "seed is 1.5; an integer"),
        ({"seed": -1}, "seed"),
        ({"seed": 2**63}, "seed"),
        ({"stop": [""]}, "stop"),
        ({"stop": [1.5]}, "stop"),
        ({"stop": ["x"]}, "no tokenizer"),
    ],
)
def test_a_setting_that_cannot_be_is_refused_with_what_can(settings, says, card):
    with pytest.raises(BadArgument, match=says) as refusal:
        check(document(**settings), card)
    assert refusal.value.node == "r"


def test_a_stop_token_is_one_of_the_models(card):
    with pytest.raises(IndexOutOfRange, match=r"stops at token 100; .* has 0 to 99"):
        check(document(stop=[100]), card)


def test_a_setting_is_known_before_the_job_runs(card):
    nodes = [
        {"kind": "get", "id": "v", "site": "blocks.1:resid_post", "invoke": "a"},
        call("t", "mean", "$v"),
    ]
    runs = [{"id": "first", "invokes": [{"id": "a", "ids": [7, 8]}]}]
    with pytest.raises(BadArgument, match="temperature is known before the job runs; found a computed value"):
        check(document(nodes=nodes, more_runs=runs, temperature="$t"), card)


def test_an_encoder_does_not_generate(card):
    with pytest.raises(NotYetSupported, match="encoder"):
        check(document(), card.model_copy(update={"kind": "encoder"}))


@pytest.mark.parametrize(
    ("each", "nodes", "error", "says"),
    [
        ({"nodes": [get("h", "blocks.1:resid_post")], "out": {"h": "$h"}}, (), ShapeError, r"'\[:, -1\]'"),
        ({"nodes": [get("h", "blocks.1:resid_post", [":", 3])]}, (), GraphError, "in step 1 of generation"),
        (
            {
                "state": {"s": 0},
                "nodes": [get("w", "blocks.1:resid_post"), call("n", "add", "$s", "$w")],
                "carry": {"s": "$w"},
            },
            (),
            ShapeError,
            "state 's'",
        ),
        ({"carry": {"s": 1}}, (), BadArgument, "has no beginning in the state"),
        ({"nodes": [LAST], "out": {"tokens": "$h"}}, (), BadArgument, "choose another name"),
        ({"nodes": [LAST], "stop": "$h"}, (), ShapeError, "stops by one value.*any"),
        (
            {
                "nodes": [get("z", "head:output", step="1:"), call("big", "expand", "$z", [64, 1, 100])],
                "emit": {"z": "$big"},
            },
            (),
            TooLarge,
            "emitted with 6,400 numbers",
        ),
        (
            {"nodes": [get("a", "blocks.3:resid_post", [":", -1]), put("w", "blocks.1:resid_post", "$a", [":", -1])]},
            (),
            CausalLoop,
            "second invoke|only after",
        ),
        ({"nodes": [get("a", "blocks.1:token")]}, (), UnknownSite, "write ':token'"),
        ({"nodes": [get("a", "layers.1.attn:inputs.position_ids")]}, (), NotYetSupported, "belongs to the engine"),
        (
            {"nodes": [LAST, call("n", "norm", "$h"), {"kind": "grad", "id": "g", "of": "$n", "wrt": ["$h"]}]},
            (),
            NotYetSupported,
            "nothing for gradients",
        ),
        (
            {
                "nodes": [
                    {
                        "kind": "map",
                        "id": "m",
                        "over": {"i": [1, 2]},
                        "body": {"runs": [{"id": "q", "invokes": [{"id": "y", "ids": [1]}]}], "nodes": [], "out": {}},
                    }
                ]
            },
            (),
            BadArgument,
            "runs no other forward",
        ),
        (
            {
                "nodes": [
                    get("a", "blocks.1:resid_post", step=0),
                    get("b", "blocks.1:resid_post", step=1),
                    call("c", "add", "$a", "$b"),
                ]
            },
            (),
            BadArgument,
            "different steps",
        ),
        (
            {"nodes": [put("w", "blocks.1:resid_post", 0, step=8)]},
            (),
            BadArgument,
            "never reached: there are at most 8 steps",
        ),
        ({"nodes": [put("w", "blocks.1:resid_post", 0, step="-1:")]}, (), BadArgument, "is no step"),
        (None, [get("a", "blocks.1:resid_post")], BadArgument, "says at which steps"),
        (None, [get("a", ":token")], BadArgument, "says at which steps"),
        (
            None,
            [get("a", "blocks.1:resid_post", step=0), put("w", "blocks.1:resid_post", "$a", step=0)],
            CausalLoop,
            "put both into 'each'",
        ),
        (
            None,
            [
                get("a", "blocks.1:resid_post", step=0),
                call("b", "mul", "$a", 2),
                put("w", "blocks.1:resid_post", "$b", step=0),
            ],
            BadArgument,
            "need",
        ),
        (None, [get("a", "blocks.1:resid_post", step=":")], ShapeError, "'a' is"),
    ],
)
def test_what_cannot_be_at_some_step_is_refused(each, nodes, error, says, card):
    with pytest.raises(error, match=says):
        check(document(each, nodes), card)


def test_a_state_keeps_its_dtype_after_the_prompt(card):
    flip = {
        "state": {"s": 1, "t": 1.5},
        "nodes": [call("a", "mul", "$s", 1), call("b", "mul", "$t", 1)],
        "carry": {"s": "$b", "t": "$a"},
    }
    with pytest.raises(DtypeError, match="state 's' of generation 'r'"):
        check(document(flip), card)


def test_a_generation_has_one_invoke_and_a_forward_has_no_each(card):
    two = document().to_dict()
    two["runs"][0]["invokes"].append({"id": "y", "ids": [1]})
    with pytest.raises(BadArgument, match="give each input a run"):
        check(wire.from_dict(two), card)
    plain = document({"nodes": [LAST]}).to_dict()
    del plain["runs"][0]["generate"]
    with pytest.raises(BadArgument, match="steps of a generation"):
        check(wire.from_dict(plain), card)


def test_a_step_of_a_forward_and_a_token_of_one_are_refused(card):
    runs = [{"id": "f", "invokes": [{"id": "a", "ids": [7, 8]}]}]
    node = {"kind": "get", "id": "v", "site": "blocks.1:resid_post", "invoke": "a", "step": 0}
    with pytest.raises(BadArgument, match="'step' belongs to a generation"):
        check(document(nodes=[node], more_runs=runs), card)
    node = {"kind": "get", "id": "v", "site": ":token", "invoke": "a"}
    with pytest.raises(BadArgument, match="stands in its 'each'"):
        check(document(nodes=[node], more_runs=runs), card)


def test_ids_in_each_are_unique_in_the_document_and_names_of_nothing_are_refused(card):
    each = {"nodes": [LAST]}
    with pytest.raises(BadArgument, match="same id 'h'"):
        check(document(each, [call("h", "full", [], 1.0)]), card)
    with pytest.raises(UnknownName, match="several outputs"):
        check(document(saves={"x": "$r.nothing"}), card)


def test_gradients_do_not_flow_through_a_generation(card):
    each = {"nodes": [LAST], "out": {"h": "$h"}}
    nodes = [
        call("v", "ones", [8]),
        put("push", "blocks.1:resid_post", "$v", step=":"),
        call("s", "sum", "$r.h"),
        {"kind": "grad", "id": "g", "of": "$s", "wrt": ["$v"]},
    ]
    with pytest.raises(NotYetSupported, match=r"gradient of '\$v' through generation 'r'.*detach"):
        check(document(each, nodes, saves={"g": "$g.0"}), card)
    nodes[2:3] = [call("d", "detach", "$r.h"), call("p", "mul", "$d", "$v"), call("s", "sum", "$p")]
    check(document(each, nodes, saves={"g": "$g.0"}), card)
    nodes[2:4] = [call("w", "ones", [8]), call("p", "mul", "$r.h", "$w")]
    nodes[-1] = {"kind": "grad", "id": "g", "of": "$s", "wrt": ["$w"]}
    check(document(each, nodes, saves={"g": "$g.0"}), card)


def test_a_token_is_an_integer(card):
    with pytest.raises(DtypeError, match="token ids, which are integers"):
        check(document({"nodes": [put("w", ":token", 0.5)]}), card)
    check(document({"nodes": [put("w", ":token", 3)]}), card)


def test_settings_and_steps_may_be_constants(card):
    graph = document(nodes=[put("w", "blocks.1:resid_post", 0, step="$a:$b")], max_new_tokens="$n", temperature="$t")
    constants = {"a": 1, "b": 3, "n": 4, "t": 0.5}
    found = check(graph.model_copy(update={"constants": constants}), card)
    assert sorted(found.scope.bodies["r"]) == [(0,), (1,), (3,)]


def test_unknown_lengths_leave_the_positions_to_the_service(card):
    graph = document(ids="$t", nodes=[get("all", "blocks.1:resid_post", [":", -1], step=":")], saves={"a": "$all"})
    graph = graph.model_copy(update={"constants": {"t": {"tensor": "t"}}})
    found = check(graph, card, attachment={"t": Meta(None, "int64")})
    assert found.saves["a"].shape is not None


def test_generations_that_go_on_together_are_priced_together(card):
    cached = card.model_copy(update={"cache_bytes": 1000})
    other = {"id": "q", "generate": {"max_new_tokens": 8}, "invokes": [{"id": "y", "ids": PROMPT}]}
    one = price(check(document(), cached), cached).peak_bytes
    both = price(check(document(more_runs=[other]), cached), cached).peak_bytes
    assert both >= one + 12_000


def test_settings_that_came_later_need_a_document_that_says_so():
    text = (GOLDEN / "sampling.json").read_text()
    graph = wire.decode(text)
    assert json.loads(graph.to_json()) == json.loads(text)
    assert needed(graph) == (1, 1)
    with pytest.raises(VersionError, match=r"min_p, .* are there since \[1, 1\]"):
        wire.from_dict({**json.loads(text), "protocol": [1, 0]})
