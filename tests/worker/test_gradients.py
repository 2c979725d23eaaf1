"""Gradients: PyTorch's own on plain hooks are the measure, alone and in company."""

from __future__ import annotations

import pytest
import torch

from telepatch_protocol.errors import BadArgument, CausalLoop, DtypeError, ShapeError

GPT2, LLAMA = "gpt2-random", "llama-random"
A, B, C = [5, 6, 7, 8, 9], [20, 21, 22], [1, 2, 3, 4, 5, 6, 7, 8]


def grad(of, *wrt, **more):
    return {"kind": "grad", "id": more.pop("id", "g"), "of": of, "wrt": list(wrt), **more}


def close(found, wanted):
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-6)


class Plain:
    """A plain forward with PyTorch's own hooks, in grad mode."""

    def __init__(self, module):
        self.module = module
        self.kept = {}
        self.handles = []

    def leaf(self, path, change=None):
        """Make what a module returns a leaf, after a change of it."""

        def hook(module, args, output):
            tensor = output[0] if isinstance(output, tuple) else output
            tensor = tensor if change is None else change(tensor)
            if not tensor.requires_grad:
                tensor = tensor.detach().requires_grad_()
            self.kept[path] = tensor
            return (tensor, *output[1:]) if isinstance(output, tuple) else tensor

        self.handles.append(self.module.get_submodule(path).register_forward_hook(hook))
        return self

    def logits(self, ids):
        try:
            with torch.enable_grad():
                return self.module(input_ids=torch.tensor([ids]), use_cache=False).logits
        finally:
            for handle in self.handles:
                handle.remove()


def difference(build, invoke="a"):
    return [
        build.get("z1", "lm_head:output", [0, -1, 11], invoke=invoke),
        build.get("z2", "lm_head:output", [0, -1, 12], invoke=invoke),
        build.call("ld", "sub", "$z1", "$z2"),
    ]


def native(model, block):
    return f"transformer.h.{block}" if model == GPT2 else f"model.layers.{block}"


@pytest.mark.parametrize("options", [{}, {"exact": True}])
@pytest.mark.parametrize("model", [GPT2, LLAMA])
def test_the_gradient_at_a_site_is_pytorchs(engines, build, saved, model, options):
    engine = engines(model)
    sites = [build.get(f"h{layer}", f"blocks.{layer}:resid_post") for layer in range(3)]
    task = build.task(
        model,
        {"a": A},
        *sites,
        *difference(build),
        grad("$ld", "$h0", "$h1", "$h2"),
        saves={f"g{at}": f"$g.{at}" for at in range(3)},
        options=options,
    )
    found = saved(engine, task)
    plain = Plain(engine.loaded.module)
    for layer in range(3):
        plain.leaf(native(model, layer))
    logits = plain.logits(A)
    tensors = [plain.kept[native(model, layer)] for layer in range(3)]
    for at, wanted in enumerate(torch.autograd.grad(logits[0, -1, 11] - logits[0, -1, 12], tensors)):
        if options:
            assert torch.equal(found[f"g{at}"], wanted)
        close(found[f"g{at}"], wanted)


def one_gradient(build, ids, site="blocks.1.mlp:output", index=None):
    return build.task(
        GPT2, {"a": ids}, build.get("h", site, index), *difference(build), grad("$ld", "$h"), saves={"g": "$g.0"}
    )


def test_gradients_of_strangers_in_one_batch_are_each_ones_own(gpt2, build, saved, monkeypatch):
    passes = []
    plain = torch.autograd.grad
    monkeypatch.setattr(torch.autograd, "grad", lambda *a, **k: passes.append(1) or plain(*a, **k))
    together = gpt2.run([one_gradient(build, ids) for ids in (A, B, C)])
    assert len(passes) == 1
    for outcome, ids in zip(together, (A, B, C), strict=True):
        close(outcome.saved["g"], saved(gpt2, one_gradient(build, ids))["g"])
        assert outcome.saved["g"].shape == (1, len(ids), 48)


def test_an_indexed_read_has_the_gradient_of_its_part(gpt2, build, saved):
    whole = saved(gpt2, one_gradient(build, A))["g"]
    part = saved(gpt2, one_gradient(build, A, index=[0, [1, 4], "3:9"]))["g"]
    close(part, whole[0, [1, 4], 3:9])


def test_a_starred_read_has_all_gradients_stacked(gpt2, build, saved):
    task = build.task(
        GPT2,
        {"a": A},
        build.get("h", "blocks.*.mlp:output"),
        *difference(build),
        grad("$ld", "$h"),
        saves={"g": "$g.0"},
    )
    found = saved(gpt2, task)["g"]
    assert found.shape == (4, 1, 5, 48)
    for layer in range(4):
        close(found[layer], saved(gpt2, one_gradient(build, A, f"blocks.{layer}.mlp:output"))["g"])


def test_a_written_value_has_a_gradient_through_the_model(gpt2, build, saved):
    """The gradient with respect to a steering vector that is given, and to the scale it is written with."""
    task = build.task(
        GPT2,
        {"a": A},
        build.get("h", "blocks.1:resid_post"),
        build.call("scaled", "mul", "$v", "$k"),
        build.call("steered", "add", "$h", "$scaled"),
        build.set("blocks.1:resid_post", "$steered"),
        *difference(build),
        grad("$ld", "$v", "$scaled", "$k"),
        saves={"v": "$g.0", "scaled": "$g.1", "k": "$g.2"},
        constants={"v": {"tensor": "v"}, "k": {"tensor": "k"}},
        attachment={"v": torch.arange(48) / 48, "k": torch.tensor(2.0)},
    )
    found = saved(gpt2, task)
    v, k = (torch.arange(48) / 48).requires_grad_(), torch.tensor(2.0, requires_grad=True)
    logits = Plain(gpt2.loaded.module).leaf("transformer.h.1", lambda h: h + v * k).logits(A)
    wanted = torch.autograd.grad(logits[0, -1, 11] - logits[0, -1, 12], [v, k])
    close(found["v"], wanted[0])
    close(found["k"], wanted[1])
    close(found["scaled"] * 2.0, wanted[0])


def test_a_read_before_a_whole_overwrite_has_a_gradient_of_zeros(gpt2, build, saved):
    site = "blocks.1:resid_post"
    task = build.task(
        GPT2,
        {"a": A},
        build.get("before", site),
        build.set(site, 0.5),
        build.get("after", site),
        *difference(build),
        grad("$ld", "$before", "$after"),
        saves={"before": "$g.0", "after": "$g.1"},
    )
    found = saved(gpt2, task)
    assert found["before"].abs().sum() == 0
    assert found["after"].abs().sum() > 0


def test_a_value_that_the_number_does_not_depend_on_has_zeros(gpt2, build, saved):
    task = build.task(
        GPT2,
        {"a": A},
        build.get("early", "blocks.0:resid_post"),
        build.get("late", "blocks.3:resid_post"),
        build.call("of", "sum", "$early"),
        grad("$of", "$late"),
        saves={"g": "$g.0"},
    )
    found = saved(gpt2, task)["g"]
    assert found.shape == (1, 5, 48)
    assert found.abs().sum() == 0


def test_gradients_stop_at_detach_and_at_results(gpt2, build, saved):
    task = build.task(
        GPT2,
        {"a": A},
        build.get("h", "blocks.1:resid_post"),
        build.call("cut", "detach", "$h"),
        build.call("both", "mul", "$h", "$cut"),
        build.call("of", "sum", "$both"),
        grad("$of", "$h"),
        saves={"g": "$g.0", "h": "$h"},
    )
    found = saved(gpt2, task)
    close(found["g"], found["h"])


def test_gradients_flow_between_invokes(gpt2, build, saved):
    """The clean run's value is written into another run; the gradient reaches back into the clean run's layers."""
    task = build.task(
        GPT2,
        {"clean": A, "bad": [15, 16, 17, 18, 19]},
        build.get("early", "blocks.0:resid_post", invoke="clean"),
        build.get("h", "blocks.2:resid_post", [":", -1], invoke="clean"),
        build.set("blocks.2:resid_post", "$h", [":", -1], invoke="bad"),
        *difference(build, "bad"),
        grad("$ld", "$early"),
        saves={"g": "$g.0"},
    )
    clean = Plain(gpt2.loaded.module).leaf("transformer.h.0").leaf("transformer.h.2")
    clean.logits(A)
    value = clean.kept["transformer.h.2"][:, -1]

    def patch(h):
        h = h.clone()
        h[:, -1] = value
        return h

    logits = Plain(gpt2.loaded.module).leaf("transformer.h.2", patch).logits([15, 16, 17, 18, 19])
    (wanted,) = torch.autograd.grad(logits[0, -1, 11] - logits[0, -1, 12], [clean.kept["transformer.h.0"]])
    close(saved(gpt2, task)["g"], wanted)


def test_a_gradient_is_whole_where_its_input_runs_twice(gpt2, build, saved):
    """A late value of one input is written early into another one, which has to run again from its beginning."""
    task = build.task(
        GPT2,
        {"b": B, "a": A},
        build.get("first", "blocks.0:resid_post", invoke="b"),
        build.get("mid", "blocks.1:resid_post", [":", -1], invoke="b"),
        build.set("blocks.1:resid_post", "$late", [":", 0], invoke="b"),
        *difference(build, "b"),
        build.get("late", "blocks.3:resid_post", [":", -1]),
        grad("$ld", "$first"),
        saves={"g": "$g.0", "mid": "$mid"},
    )
    with torch.no_grad():
        late = saved(gpt2, build.task(GPT2, {"a": A}, build.get("l", "blocks.3:resid_post", [":", -1])))["l"]

    def patch(h):
        h = h.clone()
        h[:, 0] = late
        return h

    plain = Plain(gpt2.loaded.module).leaf("transformer.h.0").leaf("transformer.h.1", patch)
    logits = plain.logits(B)
    (wanted,) = torch.autograd.grad(logits[0, -1, 11] - logits[0, -1, 12], [plain.kept["transformer.h.0"]])
    close(saved(gpt2, task)["g"], wanted)


def test_several_backward_passes_in_one_job(gpt2, build, saved):
    task = build.task(
        GPT2,
        {"a": A},
        build.get("h", "blocks.1:resid_post"),
        *difference(build),
        grad("$z1", "$h", id="g1"),
        grad("$z2", "$h", id="g2"),
        grad("$ld", "$h", id="g3"),
        saves={"g1": "$g1.0", "g2": "$g2.0", "g3": "$g3.0"},
    )
    found = saved(gpt2, task)
    close(found["g1"] - found["g2"], found["g3"])
    assert not torch.allclose(found["g1"], found["g2"])


def test_a_gradient_is_a_value_for_what_follows(gpt2, build, saved):
    """One step against the gradient lowers the number."""
    task = build.task(
        GPT2,
        {"a": A, "again": A},
        build.get("h", "blocks.1:resid_post"),
        *difference(build),
        grad("$ld", "$h"),
        build.call("step", "mul", "$g.0", 0.1),
        build.call("moved", "sub", "$h", "$step"),
        build.set("blocks.1:resid_post", "$moved", invoke="again"),
        build.get("y1", "lm_head:output", [0, -1, 11], invoke="again"),
        build.get("y2", "lm_head:output", [0, -1, 12], invoke="again"),
        build.call("new", "sub", "$y1", "$y2"),
        saves={"old": "$ld", "new": "$new"},
    )
    found = saved(gpt2, task)
    assert found["new"] < found["old"]


def test_integrated_gradients_as_a_map(gpt2, build, saved):
    bad = [15, 16, 17, 18, 19]
    body = {
        "runs": [{"id": "ri", "invokes": [{"id": "x", "ids": A}]}],
        "nodes": [
            build.call("part", "mul", "$alpha", "$diff"),
            build.call("e", "add", "$e0", "$part"),
            build.set("blocks.0:resid_pre", "$e", invoke="x"),
            *difference(build, "x"),
            grad("$ld", "$e"),
        ],
        "out": {"g": "$g.0"},
    }
    node = {"kind": "map", "id": "m", "over": {"alpha": "$alphas"}, "body": body, "reduce": {"g": "mean"}}
    alphas = [0.1, 0.3, 0.5, 0.7, 0.9]
    task = build.task(
        GPT2,
        {"clean": A, "bad": bad},
        build.get("e1", "blocks.0:resid_pre", invoke="clean"),
        build.get("e0", "blocks.0:resid_pre", invoke="bad"),
        build.call("diff", "sub", "$e1", "$e0"),
        node,
        build.call("ig", "mul", "$diff", "$m.g"),
        saves={"ig": "$ig", "e0": "$e0", "e1": "$e1"},
        constants={"alphas": alphas},
    )
    found = saved(gpt2, task)
    e0, e1 = found["e0"], found["e1"]
    total = torch.zeros_like(e0)
    for alpha in alphas:
        e = (e0 + alpha * (e1 - e0)).requires_grad_()
        handle = gpt2.loaded.module.transformer.h[0].register_forward_pre_hook(lambda module, args, e=e: (e, *args[1:]))
        try:
            with torch.enable_grad():
                logits = gpt2.loaded.module(input_ids=torch.tensor([A])).logits
        finally:
            handle.remove()
        total += torch.autograd.grad(logits[0, -1, 11] - logits[0, -1, 12], [e])[0]
    close(found["ig"], (e1 - e0) * total / len(alphas))


def test_a_repeat_that_climbs_a_gradient_keeps_no_graph_from_one_time_to_the_next(gpt2, build, saved):
    nodes = [
        build.set("blocks.0:resid_pre", "$e", invoke="x"),
        *difference(build, "x"),
        grad("$ld", "$e"),
        build.call("by", "mul", "$g.0", 0.05),
        build.call("up", "add", "$e", "$by"),
    ]
    node = {
        "kind": "repeat",
        "id": "r",
        "n": 6,
        "carry": {"e": "$e0"},
        "body": {
            "runs": [{"id": "ri", "invokes": [{"id": "x", "ids": A}]}],
            "nodes": nodes,
            "out": {"e": "$up", "ld": "$ld"},
        },
    }
    task = build.task(GPT2, {"a": A}, build.get("e0", "blocks.0:resid_pre"), node, saves={"ld": "$r.ld", "e": "$r.e"})
    found = saved(gpt2, task)
    assert found["ld"].shape == (6,)
    assert bool((found["ld"].diff() > 0).all())
    assert not found["e"].requires_grad


@pytest.mark.parametrize("holds", [True, False])
def test_a_choice_may_ask_for_a_gradient(gpt2, build, saved, holds):
    branch = {"nodes": [grad("$ld", "$h")], "out": {"value": "$g.0"}}
    node = {"kind": "cond", "id": "c", "if": holds, "then": branch, "else": "$h"}
    found = saved(
        gpt2,
        build.task(
            GPT2,
            {"a": A},
            build.get("h", "blocks.1.mlp:output"),
            *difference(build),
            node,
            saves={"c": "$c", "h": "$h"},
        ),
    )
    close(found["c"], saved(gpt2, one_gradient(build, A))["g"] if holds else found["h"])


# Edits of the backward pass


def edited(build, *nodes, out=None, wrt=("$h",), saves=None):
    body = {"nodes": list(nodes), "out": out or {}}
    return build.task(
        GPT2,
        {"a": A},
        build.get("h", "blocks.0:resid_post"),
        *difference(build),
        grad("$ld", *wrt, body=body),
        saves=saves or {"g": "$g.0"},
    )


def hooked(gpt2, path, change):
    plain = Plain(gpt2.loaded.module).leaf("transformer.h.0").leaf(path)
    logits = plain.logits(A)
    plain.kept[path].register_hook(change)
    return torch.autograd.grad(logits[0, -1, 11] - logits[0, -1, 12], [plain.kept["transformer.h.0"]])[0]


def test_a_gradient_that_is_written_on_the_way_back_changes_all_before_it(gpt2, build, saved):
    found = saved(gpt2, edited(build, build.set("blocks.2.mlp:output.grad", 0)))["g"]
    close(found, hooked(gpt2, "transformer.h.2.mlp", torch.zeros_like))
    assert not torch.allclose(found, saved(gpt2, one_gradient(build, A, "blocks.0:resid_post"))["g"])


def test_a_part_of_a_gradient_is_read_scaled_and_written_back(gpt2, build, saved):
    task = edited(
        build,
        build.get("q", "blocks.2:resid_post.grad", [":", -1]),
        build.call("scaled", "mul", "$q", 3.0),
        build.set("blocks.2:resid_post.grad", "$scaled", [":", -1]),
        out={"q": "$q"},
        saves={"g": "$g.0", "q": "$g.q"},
    )
    seen = []

    def change(gradient):
        seen.append(gradient[:, -1].clone())
        gradient = gradient.clone()
        gradient[:, -1] *= 3.0
        return gradient

    found = saved(gpt2, task)
    close(found["g"], hooked(gpt2, "transformer.h.2", change))
    close(found["q"], seen[0])


def test_an_edit_in_one_job_leaves_the_gradients_of_its_company_alone(gpt2, build, saved):
    edit = edited(build, build.set("blocks.2.mlp:output.grad", 0))
    plain = [one_gradient(build, ids, "blocks.0:resid_post") for ids in (B, C)]
    outcomes = gpt2.run([plain[0], edit, plain[1]])
    close(outcomes[1].saved["g"], saved(gpt2, edited(build, build.set("blocks.2.mlp:output.grad", 0)))["g"])
    for outcome, ids in ((outcomes[0], B), (outcomes[2], C)):
        close(outcome.saved["g"], saved(gpt2, one_gradient(build, ids, "blocks.0:resid_post"))["g"])


def test_an_edit_belongs_to_one_gradient_of_several(gpt2, build, saved):
    body = {"nodes": [build.set("blocks.2.mlp:output.grad", 0)], "out": {}}
    task = build.task(
        GPT2,
        {"a": A},
        build.get("h", "blocks.0:resid_post"),
        *difference(build),
        grad("$ld", "$h", id="plain"),
        grad("$ld", "$h", id="cut", body=body),
        saves={"plain": "$plain.0", "cut": "$cut.0"},
    )
    found = saved(gpt2, task)
    close(found["plain"], saved(gpt2, one_gradient(build, A, "blocks.0:resid_post"))["g"])
    close(found["cut"], hooked(gpt2, "transformer.h.2.mlp", torch.zeros_like))


# What is left behind, and what is refused


def test_no_gradient_and_no_changed_weight_is_left_behind(gpt2, build, saved, weights):
    before = weights(gpt2.loaded.module)
    saved(gpt2, one_gradient(build, A))
    assert weights(gpt2.loaded.module) == before
    assert all(one.grad is None and not one.requires_grad for one in gpt2.loaded.module.parameters())
    assert torch.is_grad_enabled()


def test_a_job_without_gradients_builds_no_graph(gpt2, build, saved):
    found = saved(gpt2, build.task(GPT2, {"a": A}, build.get("h", "blocks.1:resid_post")))
    assert found["h"].grad_fn is None


@pytest.mark.parametrize(
    ("of", "wrt", "error", "match"),
    [
        ("$row", "$h", ShapeError, "a gradient is of one number"),
        ("$best", "$h", DtypeError, "floating value"),
        ("$ld", "$best", DtypeError, "only floating values have gradients"),
        ("$ld", 5, BadArgument, "with respect to a value"),
        ("$ld", "$five", BadArgument, "no tensor"),
        (1.0, "$h", BadArgument, "a gradient is of a value"),
    ],
)
def test_what_has_no_gradient_is_refused(gpt2, build, saved, of, wrt, error, match):
    task = build.task(
        GPT2,
        {"a": A},
        build.get("h", "blocks.0:resid_post"),
        build.get("row", "lm_head:output", [0, -1]),
        build.call("best", "argmax", "$row"),
        *difference(build),
        grad(of, wrt),
        saves={"g": "$g.0"},
        constants={"five": 5},
    )
    with pytest.raises(error, match=match):
        saved(gpt2, task)


def test_an_edit_that_needs_a_gradient_from_further_back_is_a_causal_loop(gpt2, build, saved):
    late = build.get("late", "blocks.1:resid_post.grad")
    with pytest.raises(CausalLoop, match="last module to the first"):
        saved(gpt2, edited(build, late, build.set("blocks.2:resid_post.grad", "$late")))


def test_gradient_sites_belong_into_the_body_of_a_gradient(gpt2, build, saved):
    with pytest.raises(BadArgument, match="in the body of a grad only"):
        saved(gpt2, build.task(GPT2, {"a": A}, build.get("h", "blocks.1:resid_post.grad")))
    with pytest.raises(BadArgument, match=r"blocks.1:resid_post.grad"):
        saved(gpt2, edited(build, build.set("blocks.1:resid_post", 0)))
