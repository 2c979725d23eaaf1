"""Jobs on which one process and several ranks must agree: the cases of the agreement suite, and more."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "agreement"))

from cases import Case, Step, document, tokens
from suite import CASES

from telepatch_protocol.graph import Graph
from telepatch_protocol.wire import from_dict
from telepatch_worker.engine import Task

A, B = tokens(7, 1), tokens(11, 2)
Made = dict[str, Any]

_OTHERS = (
    ("transformer.h.", "model.layers."),
    (".attn.c_attn", ".self_attn.q_proj"),
    (".attn.c_proj", ".self_attn.o_proj"),
    (".attn", ".self_attn"),
    (".mlp.c_fc", ".mlp.up_proj"),
    (".mlp.c_proj", ".mlp.down_proj"),
    ("transformer.wte", "model.embed_tokens"),
    ("transformer.ln_f", "model.norm"),
    (".ln_1", ".input_layernorm"),
    (".ln_2", ".post_attention_layernorm"),
)
_NOT_THERE = ("transformer.wpe", ":param.bias", "c_attn:param", ".attn:outputs.1")


def everything(model: str) -> dict[str, Task]:
    """All jobs, by what they do."""
    cases = {f"{case}": document(replace(case, model=model)) for case in _cases()}
    graphs = {
        **cases,
        **dict(_ports(model)),
        **dict(_gradients(model)),
        **dict(_generations(model)),
        **dict(_more(model)),
    }
    tasks = {name: Task(f"job-{number}", graph) for number, (name, graph) in enumerate(graphs.items())}
    return {**tasks, "a probe is trained": _fit(model)}


def _cases() -> Iterator[Case]:
    """The cases of the small Llama, and those of GPT-2 on its like here, where it has one."""
    for case in CASES:
        if case.model == "llama-random":
            yield case
        elif case.model == "gpt2-random" and not any(word in str(case.steps) for word in _NOT_THERE):
            yield replace(case, steps=tuple(_moved(step) for step in case.steps))


def _moved(step: Step) -> Step:
    moved = {}
    for field in ("site", "path"):
        if (text := getattr(step, field, None)) is not None:
            for old, new in _OTHERS:
                text = text.replace(old, new)
            moved[field] = text
    return replace(step, **moved)  # type: ignore[arg-type]


def _graph(model: str, nodes: list[Made], saves: dict[str, str], runs: list[Made] | None = None, **more: Any) -> Graph:
    given = [{"id": "r", "invokes": [{"id": "a", "ids": A}, {"id": "b", "ids": B}]}] if runs is None else runs
    head = {"protocol": [1, 1], "model": {"id": model}}
    return from_dict({**head, "runs": given, "nodes": nodes, "saves": saves, **more})


def _get(id: str, site: str, invoke: str = "a", **more: Any) -> Made:
    return {"kind": "get", "id": id, "site": site, "invoke": invoke, **more}


def _set(site: str, value: Any, invoke: str = "a", **more: Any) -> Made:
    return {"kind": "set", "id": "put", "site": site, "invoke": invoke, "value": value, **more}


def _call(id: str, op: str, *args: Any, **kwargs: Any) -> Made:
    return {"kind": "call", "id": id, "op": op, "args": list(args), "kwargs": kwargs}


ATTENTION = ("q", "k", "v", "z", "scores", "pattern", "attn_out")
PORTS = (*ATTENTION, "resid_pre", "resid_mid", "mlp_in", "mlp_act", "mlp_out", "resid_post")
"""Standard ports, of which those between a layer split by columns and one split by rows are pieces on each rank."""

PIECES = (
    "model.layers.1.self_attn.q_proj:output",
    "model.layers.1.self_attn.o_proj:input",
    "model.layers.1.mlp.act_fn:output",
    "model.layers.1.mlp.down_proj:input",
    "model.layers.1.self_attn:source.query_states_0.output",
    "model.layers.1.self_attn:source.apply_rotary_pos_emb_0.outputs.1",
    "model.layers.1.mlp:source.self_up_proj_0.output",
)


def _ports(model: str) -> Iterator[tuple[str, Graph]]:
    logits = _get("logits", "lm_head:output", "b")
    saves = {"x": "$x", "logits": "$logits"}
    for port in PORTS:
        site = f"blocks.2:{port}"
        yield f"read {port}", _graph(model, [_get("x", site, "b"), logits], saves)
        if port not in ("scores", "pattern"):
            nodes = [_get("x", site, "b"), _call("y", "mul", "$x", 0.5), _set(site, "$y", "b"), logits]
            yield f"halve {port}", _graph(model, nodes, saves)
    for site in PIECES:
        nodes = [_get("x", site, "b"), _set(site, 0.3, "b", index=[":", -1]), logits]
        yield f"read and write {site}", _graph(model, nodes, saves)
    nodes = [
        _get("w", "model.layers.1.self_attn.q_proj:param.weight"),
        _get("u", "model.layers.1.mlp.down_proj:param.weight"),
        _get("e", "model.embed_tokens:param.weight"),
        _get("h", "lm_head:param.weight"),
    ]
    yield "parameters", _graph(model, nodes, {name: f"${name}" for name in "wueh"}, [])
    nodes = [
        _get("h", "model.layers.1.mlp:input"),
        {"kind": "module", "id": "up", "path": "model.layers.1.mlp.up_proj", "args": ["$h"]},
        {"kind": "module", "id": "act", "path": "model.layers.1.mlp.act_fn", "args": ["$up"]},
        {"kind": "module", "id": "down", "path": "model.layers.1.mlp.down_proj", "args": ["$act"]},
        {"kind": "module", "id": "mlp", "path": "model.layers.3.mlp", "args": ["$down"]},
    ]
    yield "apply sharded modules", _graph(model, nodes, {name: f"${name}" for name in ("up", "act", "down", "mlp")})


def _gradients(model: str) -> Iterator[tuple[str, Graph]]:
    loss = [_get("z", "lm_head:output", "b", index=[0, -1, 11])]
    for site in (
        "blocks.1:resid_post",
        "blocks.1:q",
        "blocks.1:v",
        "blocks.2:z",
        "blocks.2:mlp_act",
        "model.layers.0.self_attn.k_proj:output",
        "model.layers.2.mlp.down_proj:input",
        "model.embed_tokens:output",
        "model.layers.1.self_attn:source.key_states_0.output",
    ):
        nodes = [_get("x", site, "b"), *loss, {"kind": "grad", "id": "g", "of": "$z", "wrt": ["$x"]}]
        yield f"the gradient at {site}", _graph(model, nodes, {"g": "$g.0", "z": "$z"})
    nodes = [
        _get("x", "blocks.1:mlp_act", "a"),
        _call("y", "mul", "$x", 2.0),
        _set("blocks.1:mlp_act", "$y", "b", index=[":", ":7"]),
        *loss,
        {"kind": "grad", "id": "g", "of": "$z", "wrt": ["$x"]},
    ]
    yield "a gradient through a write from another input", _graph(model, nodes, {"g": "$g.0"})
    nodes = [
        _get("x", "blocks.1:mlp_act", "a"),
        _call("s", "sum", "$x"),
        _get("e", "blocks.0:resid_pre", "a"),
        {"kind": "grad", "id": "g", "of": "$s", "wrt": ["$e"]},
    ]
    yield "a gradient of what was read of pieces", _graph(model, nodes, {"g": "$g.0"})


def _generations(model: str) -> Iterator[tuple[str, Graph]]:
    def run(**settings: Any) -> list[Made]:
        return [{"id": "r", "generate": {"max_new_tokens": 12, **settings}, "invokes": [{"id": "x", "ids": A}]}]

    saves = {"tokens": "$r.tokens", "lengths": "$r.lengths"}
    yield "greedy tokens", _graph(model, [], saves, run())
    yield "drawn tokens of a seed", _graph(model, [], saves, run(temperature=1.5, seed=7))
    steered = run()
    steered[0]["each"] = {
        "nodes": [_set("blocks.2:mlp_act", 0.2, "x"), _get("h", "blocks.3:q", "x", index=[":", -1])],
        "out": {"h": "$h"},
    }
    yield "tokens under a write at every step", _graph(model, [], {**saves, "h": "$r.h"}, steered)


def _more(model: str) -> Iterator[tuple[str, Graph]]:
    body = {
        "runs": [{"id": "s", "invokes": [{"id": "c", "ids": B}]}],
        "nodes": [
            _set("blocks.1:z", 0.0, "c", index=[":", ":", "$k"]),
            _get("last", "lm_head:output", "c", index=[0, -1]),
        ],
        "out": {"last": "$last"},
    }
    sweep = {"kind": "map", "id": "m", "over": {"k": {"range": [8]}}, "body": body}
    yield "a sweep over heads", _graph(model, [sweep], {"last": "$m.last"}, [])


def long_fit(model: str) -> Task:
    """One that trains for some seconds, and writes down how far it is."""
    return _fit(model, steps=400, checkpoint_every=20)


def _fit(model: str, **more: Any) -> Task:
    generator = torch.Generator().manual_seed(3)
    data = {"W0": torch.randn(160, 3, generator=generator), "ids": torch.randint(0, 256, (8, 5), generator=generator)}
    data["y"] = torch.randint(0, 3, (8, 1), generator=generator)
    body = {
        "runs": [{"id": "rr", "invokes": [{"id": "x", "ids": "$t"}]}],
        "nodes": [
            _get("h", "blocks.2:mlp_act", "x", index=[":", -1]),
            _call("l", "matmul", "$h", "$W"),
            _call("ce", "cross_entropy", "$l", "$y"),
        ],
        "out": {"loss": "$ce"},
    }
    fit = {
        "kind": "fit",
        "id": "f",
        "over": {"t": "$ids", "y": "$ys"},
        "batch_size": 4,
        "steps": 6,
        "shuffle": [3],
        "params": {"W": {"init": "$W0"}},
        "optimiser": {"name": "adam", "lr": 0.01},
        "body": body,
        **more,
    }
    constants = {"W0": {"tensor": "W0"}, "ids": {"tensor": "ids"}, "ys": {"tensor": "y"}}
    graph = _graph(model, [fit], {"W": "$f.W", "loss": "$f.loss"}, [], constants=constants)
    return Task("job-fit", graph, attachment=data)
