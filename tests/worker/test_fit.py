"""Training on the server gives the numbers of the same loop in plain PyTorch on the same weights."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.worker.training import MODEL, call, fit, get, put, runs, stepped, task, trained
from torch import nn
from torch.nn import functional

from telepatch_worker.engine import BatchLimits, Engine
from telepatch_worker.examples import shuffled

CLOSE = {"rtol": 1e-4, "atol": 1e-5}
PROMPTS = [[5, 6, 7, 8], [9, 10], [11, 12, 13], [14, 15, 16, 17, 18, 19], [20, 21, 22], [23, 24]]
LABELS = [1, 2, 3, 4, 5, 6]


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def module(engine: Engine) -> nn.Module:
    return engine.loaded.module


def hooked(engine: Engine, ids: list[int], layer: int, change: Any) -> torch.Tensor:
    """Logits (positions, vocabulary) with the residual stream after a block changed."""
    block = module(engine).get_submodule(f"transformer.h.{layer}")

    def hook(_: Any, __: Any, output: Any) -> Any:
        first = output[0] if isinstance(output, tuple) else output
        changed = change(first)
        return (changed, *output[1:]) if isinstance(output, tuple) else changed

    handle = block.register_forward_hook(hook)
    try:
        return module(engine)(input_ids=torch.tensor([ids]), use_cache=False).logits[0]
    finally:
        handle.remove()


X, Y = normal(40, 48), (normal(40, seed=1) > 0).long() + (normal(40, seed=2) > 0).long()
PROBE = [call("m", "matmul", "$x", "$W"), call("z", "add", "$m", "$b"), call("ce", "cross_entropy", "$z", "$y")]


def probe(**more: Any) -> dict[str, Any]:
    params = {"W": {"init": "$W0"}, "b": {"init": [0.0, 0.0, 0.0]}}
    given = {"buffer": {}, "batch_size": 8, "shuffle": [3], **more}
    return fit({"x": "$xs", "y": "$ys"}, PROBE, params, {"loss": "$ce"}, **given)


SAVED = {"W": "$f.W", "b": "$f.b", "loss": "$f.loss", "steps": "$f.steps"}
DATA = {"xs": X, "ys": Y, "W0": normal(48, 3, seed=3)}


@pytest.mark.parametrize(
    ("optimiser", "plain"),
    [
        ({"name": "sgd", "lr": 0.1}, lambda leaves: torch.optim.SGD(leaves, 0.1)),
        (
            {"name": "sgd", "lr": 0.05, "momentum": 0.9, "weight_decay": 0.01},
            lambda leaves: torch.optim.SGD(leaves, 0.05, momentum=0.9, weight_decay=0.01),
        ),
        ({"name": "adam", "lr": 0.01}, lambda leaves: torch.optim.Adam(leaves, 0.01)),
        (
            {"name": "adamw", "lr": 0.01, "betas": [0.8, 0.9], "eps": 1e-6, "weight_decay": 0.1},
            lambda leaves: torch.optim.AdamW(leaves, 0.01, betas=(0.8, 0.9), eps=1e-6, weight_decay=0.1),
        ),
    ],
)
def test_a_linear_probe_is_the_loop_of_pytorch_bit_for_bit(gpt2: Engine, optimiser: dict[str, Any], plain: Any):
    found = trained(gpt2, task(probe(epochs=3, optimiser=optimiser), saves=SAVED, constants=DATA))
    weight, bias = DATA["W0"].clone(), torch.zeros(3)
    orders = torch.cat([shuffled(40, [3], epoch) for epoch in range(3)])

    def loss(step: int) -> torch.Tensor:
        rows = orders[step * 8 : step * 8 + 8]
        return functional.cross_entropy(X[rows] @ weight + bias, Y[rows])

    losses = stepped([weight, bias], loss, 15, plain)
    assert int(found["steps"]) == 15
    assert torch.equal(found["W"], weight.detach())
    assert torch.equal(found["b"], bias.detach())
    assert torch.equal(found["loss"], torch.tensor(losses))


def test_rows_come_in_order_without_a_key_and_what_fills_no_batch_is_left_out(gpt2: Engine):
    found = trained(gpt2, task(probe(epochs=2, batch_size=16, shuffle=None), saves=SAVED, constants=DATA))
    weight, bias = DATA["W0"].clone(), torch.zeros(3)

    def loss(step: int) -> torch.Tensor:
        rows = slice(0, 16) if step % 2 == 0 else slice(16, 32)
        return functional.cross_entropy(X[rows] @ weight + bias, Y[rows])

    stepped([weight, bias], loss, 4, lambda leaves: torch.optim.Adam(leaves, 0.01))
    assert int(found["steps"]) == 4
    assert torch.equal(found["W"], weight.detach())


def test_a_buffer_smaller_than_the_data_mixes_what_is_unused_with_what_is_new(gpt2: Engine):
    nodes = [call("p", "mul", "$x", "$w"), call("l", "sum", "$p")]
    one = fit(
        {"x": "$xs"},
        nodes,
        {"w": {"init": 1.0}},
        {"loss": "$l", "x": "$x"},
        buffer={"rows": 12, "refill": 0.5},
        shuffle=[1],
        epochs=1,
        emit={"x": "$f.x"},
    )
    found = trained(gpt2, task(one, saves={"x": "$f.log.x"}, constants={"xs": torch.arange(40.0)}))["x"]
    assert found.shape == (10, 4)
    assert sorted(found.flatten().tolist()) == list(range(40))
    assert set(found[:2].flatten().tolist()) <= set(range(12))
    assert max(found[:3].flatten().tolist()) < 20
    assert found.flatten().tolist() != list(range(40))


def test_a_schedule_sets_the_optimisers_numbers_and_what_the_body_sees(gpt2: Engine):
    before = {
        "nodes": [call("t", "add", "$step", 1), call("r", "div", "$t", 10)],
        "out": {"rate": "$r"},
    }
    nodes = [*PROBE, call("sq", "square", "$W"), call("s", "sum", "$sq"), call("pen", "mul", "$s", "$rate")]
    nodes += [call("total", "add", "$ce", "$pen")]
    one = {**probe(steps=5, before=before, optimiser={"name": "sgd", "lr": "$rate"})}
    one["body"] = {"nodes": nodes, "out": {"loss": "$total"}}
    found = trained(gpt2, task(one, saves=SAVED, constants=DATA))
    weight, bias, order = DATA["W0"].clone(), torch.zeros(3), shuffled(40, [3], 0)
    made = torch.optim.SGD([weight.requires_grad_(), bias.requires_grad_()], 1.0)
    for step in range(5):
        rate = (step + 1) / 10
        made.param_groups[0]["lr"] = rate
        rows = order[step * 8 : step * 8 + 8]
        loss = functional.cross_entropy(X[rows] @ weight + bias, Y[rows]) + weight.square().sum() * rate
        made.zero_grad()
        loss.backward()
        made.step()
    torch.testing.assert_close(found["W"], weight.detach(), **CLOSE)


def test_the_norm_of_all_gradients_is_clipped(gpt2: Engine):
    one = probe(steps=3, optimiser={"name": "sgd", "lr": 1.0, "clip_norm": 0.01})
    found = trained(gpt2, task(one, saves=SAVED, constants=DATA))
    moved = torch.cat([(found["W"] - DATA["W0"]).flatten(), found["b"]])
    assert 0.001 < float(moved.norm()) <= 0.0301


def test_a_steering_vector_is_trained_inside_the_forwards_that_it_steers(gpt2: Engine):
    nodes = [
        get("h", "blocks.1:resid_post", [":", -1]),
        call("n", "add", "$h", "$v"),
        put("w", "blocks.1:resid_post", "$n", [":", -1]),
        get("z", "lm_head:output", [0, -1]),
        call("zz", "unsqueeze", "$z", 0),
        call("yy", "unsqueeze", "$y", 0),
        call("ce", "cross_entropy", "$zz", "$yy"),
    ]
    one = fit(
        {"ids": "$all", "y": "$labels"},
        nodes,
        {"v": {"init": "$v0"}},
        {"loss": "$ce"},
        runs=runs(x="$ids"),
        epochs=2,
        shuffle=[5],
    )
    constants = {"all": PROMPTS, "labels": torch.tensor(LABELS), "v0": torch.zeros(48)}
    found = trained(gpt2, task(one, saves={"v": "$f.v", "loss": "$f.loss"}, constants=constants))
    vector, order = torch.zeros(48), [shuffled(6, [5], epoch).tolist() for epoch in (0, 1)]
    batches = [rows for epoch in order for rows in (epoch[:4], epoch[4:])]

    def example(at: int) -> torch.Tensor:
        def steer(hidden: torch.Tensor) -> torch.Tensor:
            changed = hidden.clone()
            changed[:, -1] = hidden[:, -1] + vector
            return changed

        return functional.cross_entropy(hooked(gpt2, PROMPTS[at], 1, steer)[-1:], torch.tensor([LABELS[at]]))

    losses = stepped(
        [vector],
        lambda step: torch.stack([example(at) for at in batches[step]]).mean(),
        4,
        lambda leaves: torch.optim.Adam(leaves, 0.01),
    )
    torch.testing.assert_close(found["v"], vector.detach(), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(found["loss"], torch.tensor(losses), **CLOSE)
    assert all(param.grad is None and not param.requires_grad for param in module(gpt2).parameters())


def test_forwards_of_any_size_give_the_same_training(gpt2: Engine, monkeypatch: pytest.MonkeyPatch):
    def run() -> torch.Tensor:
        nodes = [get("h", "blocks.0:resid_post"), call("n", "add", "$h", "$v"), put("w", "blocks.0:resid_post", "$n")]
        nodes += [get("z", "lm_head:output"), call("m", "logsumexp", "$z", -1), call("l", "sum", "$m")]
        nodes += [call("k", "size", "$z", 1)]
        one = fit({"ids": "$all"}, nodes, {"v": {"init": "$v0"}}, {"loss": "$l", "weight": "$k"}, runs=runs(x="$ids"))
        one |= {"reduce": {"loss": "weighted"}, "batch_size": 6}
        return trained(gpt2, task(one, saves={"v": "$f.v"}, constants={"all": PROMPTS, "v0": normal(48)}))["v"]

    whole = run()
    monkeypatch.setattr(gpt2, "limits", BatchLimits(tokens=8, rows=2))
    torch.testing.assert_close(run(), whole, **CLOSE)


def test_a_weighted_loss_is_a_mean_over_weights_not_over_examples(gpt2: Engine):
    nodes = [call("d", "sub", "$w", "$x"), call("l", "square", "$d")]
    one = fit({"x": "$xs", "k": "$ks"}, nodes, {"w": {"init": 0.0}}, {"loss": "$l", "weight": "$k"}, steps=1)
    one |= {"reduce": {"loss": "weighted"}, "optimiser": {"name": "sgd", "lr": 0.5}}
    constants = {"xs": torch.tensor([1.0, 2.0, 3.0, 4.0]), "ks": torch.tensor([1.0, 1.0, 1.0, 5.0])}
    found = trained(gpt2, task(one, saves={"w": "$f.w", "loss": "$f.loss"}, constants=constants))
    assert float(found["w"]) == pytest.approx((1 + 2 + 3 + 20) / 8)
    assert float(found["loss"][0]) == pytest.approx((1 + 4 + 9 + 5 * 16) / 8)


def test_adapters_of_low_rank_are_trained_as_writes_and_no_weight_changes(gpt2: Engine, weights: Any):
    before = weights(module(gpt2))
    site = "transformer.h.2.mlp.c_fc"
    nodes = [
        get("i", f"{site}:input"),
        get("o", f"{site}:output"),
        call("ia", "matmul", "$i", "$A"),
        call("ib", "matmul", "$ia", "$B"),
        call("n", "add", "$o", "$ib"),
        put("w", f"{site}:output", "$n"),
        get("z", "lm_head:output", [0, "0:-1"]),
        call("t", "index", "$ids", ["1:"]),
        call("ce", "cross_entropy", "$z", "$t"),
    ]
    params = {"A": {"init": "$A0"}, "B": {"init": "$B0"}}
    one = fit({"ids": "$all"}, nodes, params, {"loss": "$ce"}, runs=runs(x="$ids"), epochs=2, batch_size=3)
    one |= {"optimiser": {"name": "adamw", "lr": 0.02}}
    first, second = normal(48, 4) * 0.1, torch.zeros(4, 192)
    prompts = [torch.tensor(ids) for ids in PROMPTS if len(ids) > 2]
    stacked = torch.stack([one[:3] for one in prompts])
    constants = {"all": stacked, "A0": first, "B0": second}
    found = trained(gpt2, task(one, saves={"A": "$f.A", "B": "$f.B", "loss": "$f.loss"}, constants=constants))
    low, high = first.clone(), second.clone()
    layer = module(gpt2).get_submodule(site)

    def example(ids: torch.Tensor) -> torch.Tensor:
        handle = layer.register_forward_hook(lambda _, given, output: output + given[0] @ low @ high)
        try:
            logits = module(gpt2)(input_ids=ids[None], use_cache=False).logits[0, :-1]
        finally:
            handle.remove()
        return functional.cross_entropy(logits, ids[1:])

    batches = [stacked[:3], stacked[3:]] * 2
    losses = stepped(
        [low, high],
        lambda step: torch.stack([example(ids) for ids in batches[step]]).mean(),
        4,
        lambda leaves: torch.optim.AdamW(leaves, 0.02),
    )
    torch.testing.assert_close(found["loss"], torch.tensor(losses), **CLOSE)
    torch.testing.assert_close(found["A"] @ found["B"], (low @ high).detach(), rtol=1e-2, atol=1e-4)
    assert losses[2] < losses[0]
    assert weights(module(gpt2)) == before


def test_a_learned_rotation_stays_orthogonal_while_the_loss_falls(gpt2: Engine):
    nodes = [
        get("hs", "blocks.1:resid_post", [":", -1], invoke="s"),
        get("hb", "blocks.1:resid_post", [":", -1], invoke="b"),
        call("Rk", "index", "$R", [":", "0:8"]),
        call("dh", "sub", "$hs", "$hb"),
        call("c", "matmul", "$dh", "$Rk"),
        call("Rt", "mT", "$Rk"),
        call("u", "matmul", "$c", "$Rt"),
        call("hn", "add", "$hb", "$u"),
        put("w", "blocks.1:resid_post", "$hn", [":", -1], invoke="b"),
        get("z", "lm_head:output", [":", -1], invoke="b"),
        call("yy", "unsqueeze", "$y", 0),
        call("ce", "cross_entropy", "$z", "$yy"),
        call("am", "argmax", "$z", -1),
        call("eq", "eq", "$am", "$yy"),
        call("hit", "to", "$eq", "float32"),
    ]
    one = fit(
        {"base": "$bases", "source": "$sources", "y": "$labels"},
        nodes,
        {"R": {"init": "$eye", "constraint": "orthogonal"}},
        {"loss": "$ce", "hit": "$hit"},
        runs=runs(s="$source", b="$base"),
        steps=12,
        batch_size=6,
        reduce={"hit": "mean"},
        emit={"iia": "$f.hit"},
        optimiser={"name": "adam", "lr": 0.05},
    )
    constants = {"bases": PROMPTS, "sources": PROMPTS[::-1], "labels": torch.tensor(LABELS), "eye": torch.eye(48)}
    saves = {"R": "$f.R", "loss": "$f.loss", "iia": "$f.log.iia"}
    found = trained(gpt2, task(one, saves=saves, constants=constants))
    torch.testing.assert_close(found["R"].T @ found["R"], torch.eye(48), rtol=0, atol=1e-5)
    assert float((found["R"] - torch.eye(48)).abs().max()) > 0.05
    assert float(found["loss"][-1]) < float(found["loss"][0]) - 0.01
    assert found["iia"].shape == (12, 1)


def test_a_first_step_of_a_rotation_is_the_projected_gradient_brought_back(gpt2: Engine):
    nodes = [call("p", "mul", "$x", "$R"), call("l", "sum", "$p")]
    one = fit({"x": "$xs"}, nodes, {"R": {"init": "$R0", "constraint": "orthogonal"}}, {"loss": "$l"}, steps=1)
    one |= {"buffer": {}, "batch_size": 1, "optimiser": {"name": "sgd", "lr": 0.1}}
    for rows, columns in ((5, 3), (3, 5), (4, 4)):
        start = torch.linalg.qr(normal(5, 5))[0][:rows, :columns]
        start = torch.linalg.qr(start if rows >= columns else start.T)[0]
        start = start if rows >= columns else start.T.contiguous()
        gradient = normal(rows, columns, seed=4)
        constants = {"xs": gradient[None], "R0": start}
        found = trained(gpt2, task(one, saves={"R": "$f.R"}, constants=constants))["R"]
        tall, slope = (start, gradient) if rows >= columns else (start.T, gradient.T)
        inner = tall.T @ slope
        moved = tall - 0.1 * (slope - tall @ (inner + inner.T) / 2)
        basis = moved @ torch.linalg.inv(torch.linalg.cholesky(moved.T @ moved, upper=True))
        torch.testing.assert_close(found if rows >= columns else found.T, basis, rtol=1e-4, atol=1e-5)


def test_vectors_of_unit_norm_move_along_the_sphere(gpt2: Engine):
    nodes = [call("p", "matmul", "$x", "$D"), call("l", "sum", "$p")]
    one = fit({"x": "$xs"}, nodes, {"D": {"init": "$D0", "constraint": "unit_norm", "dim": 1}}, {"loss": "$l"}, steps=3)
    one |= {"buffer": {}, "batch_size": 4}
    start, rows = normal(6, 5), normal(4, 6, seed=7)
    found = trained(gpt2, task(one, saves={"D": "$f.D"}, constants={"xs": rows, "D0": start}))["D"]
    own = functional.normalize(start, dim=1)

    def projected(step: int) -> None:
        assert own.grad is not None
        own.grad -= (own.grad * own.detach()).sum(1, keepdim=True) * own.detach()

    stepped(
        [own],
        lambda step: (rows @ own).sum(),
        3,
        lambda leaves: torch.optim.Adam(leaves, 0.01),
        after=lambda step: own.copy_(functional.normalize(own, dim=1)),
        before=projected,
    )
    torch.testing.assert_close(found, own.detach(), **CLOSE)


def test_a_positive_parameter_stays_above_zero(gpt2: Engine):
    nodes = [call("l", "mul", "$x", "$s")]
    one = fit({"x": "$xs"}, nodes, {"s": {"init": 0.05, "constraint": "positive"}}, {"loss": "$l"}, steps=8)
    found = trained(gpt2, task(one, saves={"s": "$f.s"}, constants={"xs": torch.ones(4)}))["s"]
    assert 0 < float(found) < 1e-30


def test_a_fit_stops_when_it_says_so_and_gives_the_steps_it_made(gpt2: Engine):
    after = {"nodes": [call("done", "ge", "$step", 4)], "stop": "$done"}
    one = probe(steps=50, after=after)
    found = trained(gpt2, task(one, saves={**SAVED, "why": "$f.stopped"}, constants=DATA))
    assert (int(found["steps"]), len(found["loss"]), int(found["why"])) == (5, 5, 1)


def test_held_out_data_is_looked_at_every_so_many_steps(gpt2: Engine):
    nodes = [call("mm", "matmul", "$held", "$W"), call("zz", "add", "$mm", "$b")]
    nodes += [call("ev", "cross_entropy", "$zz", "$hy")]
    one = probe(steps=10, evaluate={"every": 4, "body": {"nodes": nodes, "out": {"ce": "$ev"}}})
    constants = {**DATA, "held": normal(12, 48, seed=9), "hy": Y[:12]}
    found = trained(gpt2, task(one, saves={"ce": "$f.eval.ce", "W": "$f.W"}, constants=constants))
    assert found["ce"].shape == (2,)
    again = trained(gpt2, task(probe(steps=8), saves=SAVED, constants=DATA))
    expected = functional.cross_entropy(constants["held"] @ again["W"] + again["b"], Y[:12])
    torch.testing.assert_close(found["ce"][1], expected, **CLOSE)


def test_what_a_fit_emits_is_told_as_it_comes(gpt2: Engine, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("telepatch_worker.fit.TELL_SECONDS", 0.0)
    told: list[tuple[str, dict[str, Any]]] = []
    one = task(probe(steps=3, emit={"loss": "$f.loss"}), saves=SAVED, constants=DATA)
    [outcome] = gpt2.run([one], values=lambda job, values: told.append((job, values)))
    assert outcome.saved is not None
    assert [values["at"] for _, values in told] == [[0], [1], [2]]
    assert all(job == one.id and values["node"] == "f" for job, values in told)
    assert [values["values"]["loss"] for _, values in told] == pytest.approx(outcome.saved["loss"].tolist())


def test_a_loss_that_is_not_finite_ends_the_fit_with_the_last_good_checkpoint(gpt2: Engine):
    nodes = [call("n", "sub", 5, "$step"), call("g", "log", "$n"), call("p", "mul", "$g", "$w")]
    nodes += [call("q", "mean", "$x"), call("l", "mul", "$p", "$q")]
    one = fit({"x": "$xs"}, nodes, {"w": {"init": 1.0}}, {"loss": "$l"}, steps=20, buffer={}, checkpoint_every=2)
    saves = {"w": "$f.w", "loss": "$f.loss", "steps": "$f.steps", "why": "$f.stopped"}
    [outcome] = gpt2.run([task(one, saves=saves, constants={"xs": torch.ones(8)})])
    assert outcome.saved is not None, outcome.error
    found = outcome.saved
    assert (int(found["steps"]), len(found["loss"]), int(found["why"])) == (4, 4, 2)
    assert bool(torch.isfinite(found["w"]))
    assert "fit 'f' stopped at step 5, where its loss was -inf; its result is that of step 4" in outcome.warnings[0]


def test_what_goes_wrong_in_a_fit_says_at_which_step_and_with_which_example(gpt2: Engine):
    nodes = [call("i", "add", "$step", "$x"), call("p", "index", "$t", ["$i"]), call("l", "mul", "$p", "$w")]
    one = fit({"x": "$xs"}, nodes, {"w": {"init": 1.0}}, {"loss": "$l"}, steps=9, batch_size=1)
    constants = {"xs": [0, 2], "t": torch.ones(5)}
    [outcome] = gpt2.run([task(one, saves={"w": "$f.w"}, constants=constants)])
    assert str(outcome.error).endswith("[in element 1 of step 3 of fit 'f' (x=2)]")


def test_the_model_serves_others_between_fits_as_before(gpt2: Engine, build: Any, saved: Any):
    plain = build.task(MODEL, {"a": [5, 6, 7]}, build.get("z", "lm_head:output"))
    before = saved(gpt2, plain)["z"]
    nodes = [get("h", "blocks.0:resid_post"), call("n", "add", "$h", "$v"), put("w", "blocks.0:resid_post", "$n")]
    nodes += [get("z2", "lm_head:output"), call("m", "mean", "$z2")]
    one = fit({"ids": "$all"}, nodes, {"v": {"init": "$v0"}}, {"loss": "$m"}, runs=runs(x="$ids"))
    training = task(one, saves={"v": "$f.v"}, constants={"all": PROMPTS, "v0": torch.zeros(48)})
    beside = build.task(MODEL, {"a": [5, 6, 7]}, build.get("z", "lm_head:output"))
    _, found = saved(gpt2, training, beside)
    assert torch.equal(found["z"], before)
