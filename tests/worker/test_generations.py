"""Generations as data: the same numbers as transformers and as hooks, alone and in company."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import torch
from tests.worker.generating import ids, plain

from telepatch_protocol.errors import (
    BadArgument,
    Cancelled,
    ExecutionError,
    IndexOutOfRange,
    ShapeError,
    TimeLimit,
    TooLarge,
)
from telepatch_protocol.generating import REASONS
from telepatch_protocol.wire import from_dict
from telepatch_worker.engine import Engine, Task

GPT2 = "gpt2-random"


def run(prompt, new=8, *, id="r", invoke="x", each=None, **settings):
    found = {
        "id": id,
        "generate": {"max_new_tokens": new, **settings},
        "invokes": [{"id": invoke, "ids": prompt}],
    }
    return found | ({"each": each} if each else {})


def task(runs, saves, nodes=(), id="job", model=GPT2, **more):
    own = {name: more.pop(name) for name in ("attachment", "results", "tokens") if name in more}
    document = {"protocol": [1, 1], "model": {"id": model}, "runs": runs, "nodes": list(nodes), "saves": saves, **more}
    return Task(id, from_dict(document), **own)


TOKENS = {"tokens": "$r.tokens"}


@contextmanager
def hooked(engine: Engine, layer: int, change: Callable[[torch.Tensor], torch.Tensor]) -> Iterator[None]:
    """The output of a block, changed in every forward."""
    block = engine.loaded.module.transformer.h[layer]

    def hook(module, args, output):
        tensor = output[0] if isinstance(output, tuple) else output
        new = change(tensor.clone())
        return (new, *output[1:]) if isinstance(output, tuple) else new

    handle = block.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def test_greedy_tokens_are_those_of_transformers(gpt2, saved):
    found = saved(gpt2, task([run(ids(7))], {name: f"$r.{name}" for name in ("tokens", "lengths", "reasons", "seed")}))
    expected, _ = plain(gpt2, ids(7), 8)
    assert found["tokens"].tolist() == expected
    assert found["lengths"].tolist() == [8]
    assert [REASONS[one] for one in found["reasons"].tolist()] == ["length"]
    assert found["seed"].item() == -1


def test_jobs_of_strangers_generate_together_and_each_gets_what_it_gets_alone(gpt2, saved, monkeypatch):
    rows = []
    whole = gpt2.model.whole

    def counted(inputs, *args, **kwargs):
        rows.append(inputs["input_ids"].shape[0])
        return whole(inputs, *args, **kwargs)

    monkeypatch.setattr(gpt2.model, "whole", counted)
    jobs = [task([run(ids(3 + 4 * at, at), 6 + at)], TOKENS, id=f"job-{at}") for at in range(4)]
    together = saved(gpt2, *jobs)
    assert rows[0] == 4
    assert sum(rows) == 6 + 7 + 8 + 9
    for at, found in enumerate(together):
        assert found["tokens"].tolist() == plain(gpt2, ids(3 + 4 * at, at), 6 + at)[0]


def test_generations_of_one_job_have_settings_of_their_own_and_share_steps(gpt2, saved, monkeypatch):
    runs = [
        run(ids(5), 4, id="r", invoke="x"),
        run(ids(9, 2), 6, id="q", invoke="y", temperature=0.9, top_p=0.8, seed=5),
        run(ids(9, 2), 6, id="p", invoke="z", temperature=0.9, top_k=3, seed=6),
    ]
    saves = {"r": "$r.tokens", "q": "$q.tokens", "p": "$p.tokens", "seed": "$q.seed"}
    found = saved(gpt2, task(runs, saves))
    assert found["r"].tolist() == plain(gpt2, ids(5), 4)[0]
    assert found["seed"].item() == 5
    for at, name in ((1, "q"), (2, "p")):
        alone = saved(gpt2, task([runs[at]], {"tokens": f"${name}.tokens"}))["tokens"]
        assert torch.equal(found[name], alone)
    assert not torch.equal(found["q"], found["p"])


def test_steering_at_every_step_is_what_a_hook_does(gpt2, saved):
    torch.manual_seed(1)
    push = 2 * torch.randn(48)
    write = {"kind": "set", "id": "w", "site": "blocks.1:resid_post", "invoke": "x", "value": "$sum"}
    each = {
        "nodes": [
            {"kind": "get", "id": "h", "site": "blocks.1:resid_post", "invoke": "x"},
            {"kind": "call", "id": "sum", "op": "add", "args": ["$h", {"tensor": "push"}]},
            write,
        ]
    }
    found = saved(
        gpt2,
        task([run(ids(6), each=each)], TOKENS, attachment={"push": push}),
        task([run(ids(11, 3))], TOKENS, id="stranger"),
    )
    with hooked(gpt2, 1, lambda tensor: tensor + push):
        steered, _ = plain(gpt2, ids(6), 8)
    assert found[0]["tokens"].tolist() == steered
    assert steered != plain(gpt2, ids(6), 8)[0]
    assert found[1]["tokens"].tolist() == plain(gpt2, ids(11, 3), 8)[0]


def test_a_write_at_chosen_steps_is_made_at_these_alone(gpt2, saved):
    write = {"kind": "set", "id": "w", "site": "blocks.2:resid_post", "invoke": "x", "value": 0.25, "step": "2:4"}
    found = saved(gpt2, task([run(ids(6))], TOKENS, [write]))["tokens"]
    step = -1

    def change(tensor):
        nonlocal step
        step += 1
        return torch.full_like(tensor, 0.25) if step in (2, 3) else tensor

    with hooked(gpt2, 2, change):
        expected, _ = plain(gpt2, ids(6), 8)
    assert found.tolist() == expected
    assert expected != plain(gpt2, ids(6), 8)[0]


def test_reads_have_the_values_of_their_steps(gpt2, saved):
    def get(id, step, index=None, site="blocks.2:resid_post"):
        return {
            "kind": "get",
            "id": id,
            "site": site,
            "invoke": "x",
            "step": step,
            **({"index": index} if index else {}),
        }

    nodes = [
        get("prompt", 0),
        get("third", 3),
        get("all", ":", [":", -1]),
        get("late", "1:"),
        get("two", "2:4"),
        get("logits", ":", [":", -1], "lm_head:output"),
    ]
    found = saved(gpt2, task([run(ids(6))], {node["id"]: f"${node['id']}" for node in nodes}, nodes))
    seen = []
    with hooked(gpt2, 2, lambda tensor: (seen.append(tensor), tensor)[1]):
        _, logits = plain(gpt2, ids(6), 8)
    close = {"rtol": 1e-5, "atol": 1e-5}
    torch.testing.assert_close(found["prompt"], seen[0], **close)
    torch.testing.assert_close(found["third"], seen[3], **close)
    torch.testing.assert_close(found["all"], torch.stack([one[:, -1] for one in seen]), **close)
    torch.testing.assert_close(found["late"], torch.stack(seen[1:]), **close)
    torch.testing.assert_close(found["two"], torch.stack(seen[2:4]), **close)
    torch.testing.assert_close(found["logits"], torch.stack(logits), **close)


def latch(threshold, stop_after):
    """Experiment 5: once a probe fires, the last position is steered, and the generation ends some steps later."""
    return {
        "state": {"fired": False, "since": 0},
        "nodes": [
            {"kind": "get", "id": "h", "site": "blocks.2:resid_post", "invoke": "x", "index": [":", -1]},
            {"kind": "call", "id": "s", "op": "matmul", "args": ["$h", {"tensor": "w"}]},
            {"kind": "call", "id": "hot", "op": "gt", "args": ["$s", threshold]},
            {"kind": "call", "id": "any", "op": "any", "args": ["$hot"]},
            {"kind": "call", "id": "f", "op": "logical_or", "args": ["$fired", "$any"]},
            {"kind": "call", "id": "v6", "op": "mul", "args": [{"tensor": "v"}, 6.0]},
            {"kind": "call", "id": "hs", "op": "sub", "args": ["$h", "$v6"]},
            {"kind": "call", "id": "hw", "op": "where", "args": ["$f", "$hs", "$h"]},
            {
                "kind": "set",
                "id": "wr",
                "site": "blocks.2:resid_post",
                "invoke": "x",
                "index": [":", -1],
                "value": "$hw",
            },
            {"kind": "call", "id": "n", "op": "add", "args": ["$since", "$f"]},
            {"kind": "call", "id": "end", "op": "gt", "args": ["$n", stop_after]},
        ],
        "carry": {"fired": "$f", "since": "$n"},
        "stop": "$end",
        "emit": {"score": "$s"},
        "out": {"score": "$s", "was": "$f"},
    }


def by_hand(engine, prompt, w, v, threshold, stop_after, most):
    """The same loop over transformers' own cache, with a hook."""
    model, fired, since, scores, tokens = engine.loaded.module, False, 0, [], []
    current, past = torch.tensor(prompt), None

    def change(tensor):
        nonlocal fired
        score = tensor[:, -1] @ w
        scores.append(score)
        fired = fired or bool((score > threshold).any())
        if fired:
            tensor[:, -1] -= 6.0 * v
        return tensor

    with hooked(engine, 2, change), torch.no_grad():
        for _ in range(most):
            made = model(current, cache=past, use_cache=True)
            past = made.cache
            current = made.logits[:, -1:].argmax(-1)
            tokens.append(int(current))
            since += fired
            if since > stop_after:
                break
    return tokens, torch.stack(scores), since


@pytest.fixture
def probe(gpt2):
    """A probe that scores some later step higher than all before it, and a vector to steer by."""
    for seed in range(200):
        torch.manual_seed(seed)
        w, v = torch.randn(48), torch.randn(48)
        free = by_hand(gpt2, ids(6), w, v, float("inf"), 99, 12)[1][:, 0]
        if int(free.argmax()) in (3, 4, 5):
            return w, v
    raise AssertionError("no such probe")


def test_a_latch_that_a_probe_fires_is_a_loop_written_by_hand(gpt2, saved, probe):
    w, v = probe
    prompt, saves = (
        ids(6),
        {**TOKENS, "score": "$r.score", "since": "$r.since", "fired": "$r.fired", "why": "$r.reasons"},
    )
    _, free, _ = by_hand(gpt2, prompt, w, v, float("inf"), 99, 12)
    threshold = float(free.max()) - 1e-3
    tokens, scores, since = by_hand(gpt2, prompt, w, v, threshold, 2, 12)
    assert 3 < len(tokens) < 12  # it fires in the middle, and it stops
    made = task([run(prompt, 12, each=latch(threshold, 2))], saves, attachment={"w": w, "v": v})
    for others in ((), (task([run(ids(9, 1), 10)], TOKENS, id="stranger"),)):
        found = saved(gpt2, made, *others)
        found = found[0] if others else found
        assert found["tokens"].tolist() == [tokens]
        torch.testing.assert_close(found["score"], scores, rtol=1e-4, atol=1e-4)
        assert (found["since"].item(), found["fired"].item()) == (since, True)
        assert REASONS[found["why"].item()] == "asked"


def test_forced_tokens_are_what_the_model_reads_next(gpt2, saved):
    forced = [9, 8, 7, 6, 5]
    each = {
        "nodes": [
            {"kind": "get", "id": "t", "site": ":token", "invoke": "x"},
            {"kind": "call", "id": "f", "op": "index", "args": [{"tensor": "forced"}, ["$step"]]},
            {"kind": "set", "id": "w", "site": ":token", "invoke": "x", "value": "$f"},
            {"kind": "get", "id": "after", "site": ":token", "invoke": "x"},
            {"kind": "get", "id": "z", "site": "lm_head:output", "invoke": "x", "index": [":", -1]},
        ],
        "out": {"t": "$t", "z": "$z", "after": "$after"},
    }
    made = task(
        [run(ids(4), 5, each=each)],
        {**TOKENS, "t": "$r.t", "z": "$r.z", "after": "$r.after"},
        attachment={"forced": torch.tensor(forced)},
    )
    found = saved(gpt2, made)
    assert found["tokens"].tolist() == [forced]
    assert found["after"].squeeze(1).tolist() == forced
    with torch.no_grad():
        logits = gpt2.loaded.module(torch.tensor([ids(4)[0] + forced])).logits[0, 3:-1]
    torch.testing.assert_close(found["z"][:, 0], logits, rtol=1e-4, atol=1e-4)
    assert found["t"].squeeze(1).tolist() == logits.argmax(-1).tolist()


def test_a_forced_token_that_the_model_does_not_have_fails_the_job_alone(gpt2):
    write = {"kind": "set", "id": "w", "site": ":token", "invoke": "x", "value": 300, "step": ":"}
    bad, good = gpt2.run([task([run(ids(4))], TOKENS, [write]), task([run(ids(5))], TOKENS, id="good")])
    assert isinstance(bad.error, IndexOutOfRange)
    assert good.saved["tokens"].tolist() == plain(gpt2, ids(5), 8)[0]


def test_several_rows_of_one_invoke_generate_side_by_side(gpt2, saved):
    prompt = ids(5, rows=3)
    each = {
        "nodes": [{"kind": "get", "id": "h", "site": "blocks.0:resid_post", "index": [":", -1]}],
        "out": {"h": "$h"},
    }
    found = saved(gpt2, task([run(prompt, each=each)], {**TOKENS, "h": "$r.h", "n": "$r.lengths"}))
    assert found["tokens"].tolist() == plain(gpt2, prompt, 8)[0]
    assert (found["h"].shape, found["n"].tolist()) == ((8, 3, 48), [8, 8, 8])


def test_rows_end_at_stop_tokens_one_by_one(gpt2, saved):
    tokens = plain(gpt2, ids(5, rows=2), 8)[0]
    stop = tokens[0][2]
    found = saved(
        gpt2,
        task([run(ids(5, rows=2), stop=[stop])], {**TOKENS, "n": "$r.lengths", "why": "$r.reasons"}),
    )
    ends = [row.index(stop) + 1 if stop in row else 8 for row in tokens]
    assert found["n"].tolist() == ends
    assert [REASONS[one] for one in found["why"].tolist()] == ["stop" if stop in row else "length" for row in tokens]


def test_a_stop_text_ends_where_it_is_spelled(gpt2, saved):
    made = plain(gpt2, ids(5), 8)[0][0]
    text = gpt2.loaded.tokenizer.decode(made)
    found = saved(gpt2, task([run(ids(5), stop=[text[3:5]])], {**TOKENS, "why": "$r.reasons"}))
    assert found["tokens"].shape[1] < 8
    assert text[3:5] in gpt2.loaded.tokenizer.decode(found["tokens"][0])
    assert REASONS[found["why"].item()] == "stop"


def test_values_flow_from_forwards_into_generations_and_on_into_forwards(gpt2, saved):
    runs = [
        {"id": "first", "invokes": [{"id": "a", "ids": [7, 8, 9]}]},
        run(ids(6)),
        {"id": "then", "invokes": [{"id": "b", "ids": "$r.tokens"}]},
    ]
    nodes = [
        {"kind": "get", "id": "v", "site": "blocks.1:resid_post", "invoke": "a", "index": [":", -1]},
        {
            "kind": "set",
            "id": "w",
            "site": "blocks.1:resid_post",
            "invoke": "x",
            "index": [":", -1],
            "value": "$v",
            "step": 0,
        },
        {"kind": "get", "id": "z", "site": "lm_head:output", "invoke": "b"},
    ]
    found = saved(gpt2, task(runs, {**TOKENS, "z": "$z"}, nodes))
    with torch.no_grad():
        seen = []
        with hooked(gpt2, 1, lambda tensor: (seen.append(tensor), tensor)[1]):
            gpt2.loaded.module(torch.tensor([[7, 8, 9]]))
        steps = iter(range(99))

        def change(tensor):
            if next(steps) == 0:
                tensor[:, -1] = seen[0][:, -1]
            return tensor

        with hooked(gpt2, 1, change):
            tokens, _ = plain(gpt2, ids(6), 8)
        assert found["tokens"].tolist() == tokens
        torch.testing.assert_close(found["z"], gpt2.loaded.module(torch.tensor(tokens)).logits, rtol=1e-4, atol=1e-4)


def test_the_elements_of_a_map_generate_together(gpt2, saved, monkeypatch):
    turns = []
    whole = gpt2.model.whole

    def counted(inputs, *args, **kwargs):
        turns.append(inputs["input_ids"].shape[0])
        return whole(inputs, *args, **kwargs)

    monkeypatch.setattr(gpt2.model, "whole", counted)
    prompts = [ids(4, 1)[0], ids(9, 2)[0], ids(6, 3)[0]]
    body = {
        "runs": [run("$p", "$n")],
        "nodes": [{"kind": "call", "id": "last", "op": "index", "args": ["$r.tokens", [0, -1]]}],
        "out": {"last": "$last", "n": "$r.lengths"},
    }
    node = {"kind": "map", "id": "m", "over": {"p": "$ps", "n": [2, 5, 8]}, "body": body}
    found = saved(gpt2, task([], {"last": "$m.last", "n": "$m.n"}, [node], constants={"ps": prompts}))
    alone = [plain(gpt2, [prompt], new)[0][0][-1] for prompt, new in zip(prompts, (2, 5, 8), strict=True)]
    assert found["last"].tolist() == alone
    assert found["n"].tolist() == [[2], [5], [8]]
    assert turns[:2] == [3, 3]
    assert len(turns) == 8


def test_a_gradient_of_a_forward_over_generated_tokens(gpt2, saved):
    runs = [run(ids(6)), {"id": "then", "invokes": [{"id": "b", "ids": "$r.tokens"}]}]
    nodes = [
        {"kind": "get", "id": "h", "site": "blocks.1:resid_post", "invoke": "b"},
        {"kind": "get", "id": "z", "site": "lm_head:output", "invoke": "b", "index": [0, -1, 5]},
        {"kind": "grad", "id": "g", "of": "$z", "wrt": ["$h"]},
    ]
    found = saved(gpt2, task(runs, {**TOKENS, "g": "$g.0"}, nodes))
    assert found["tokens"].tolist() == plain(gpt2, ids(6), 8)[0]
    assert found["g"].shape == (1, 8, 48)
    assert found["g"].abs().sum() > 0


def test_an_exact_generation_is_alone_and_the_same(gpt2, saved, monkeypatch):
    rows = []
    whole = gpt2.model.whole

    def counted(inputs, *args, **kwargs):
        rows.append(inputs["input_ids"].shape[0])
        return whole(inputs, *args, **kwargs)

    monkeypatch.setattr(gpt2.model, "whole", counted)
    runs = [run(ids(5)), run(ids(5, 2), id="q", invoke="y")]
    found = saved(gpt2, task(runs, {**TOKENS, "q": "$q.tokens"}, options={"exact": True}))
    assert set(rows) == {1}
    assert found["tokens"].tolist() == plain(gpt2, ids(5), 8)[0]
    assert found["q"].tolist() == plain(gpt2, ids(5, 2), 8)[0]


def test_a_read_of_a_step_that_is_not_reached_says_so(gpt2):
    each = {"nodes": [{"kind": "call", "id": "e", "op": "ge", "args": [{"tensor": "n"}, "$step"]}], "stop": "$e"}
    node = {"kind": "get", "id": "late", "site": "blocks.0:resid_post", "invoke": "x", "step": 5}
    [outcome] = gpt2.run([task([run(ids(5), each=each)], {"late": "$late"}, [node], attachment={"n": torch.tensor(0)})])
    assert isinstance(outcome.error, ExecutionError)
    assert "'late' is of steps that were never reached: the generation took 1" in str(outcome.error)


def test_tokens_text_and_emitted_values_are_told_as_they_come(gpt2, probe):
    w, v = probe
    heard = []
    made = task([run(ids(6), 5, each=latch(1e9, 2))], {**TOKENS, "s": "$r.score"}, attachment={"w": w, "v": v})
    ended = []
    [outcome] = gpt2.run(
        [made], values=lambda job, data: heard.append((job, data)), ended=lambda one: ended.append(len(heard))
    )
    assert ended == [6]
    assert {job for job, _ in heard} == {"job"}
    steps = [data for _, data in heard[:-1]]
    assert [one["step"] for one in steps] == list(range(5))
    assert [one["tokens"] for one in steps] == [[token] for token in outcome.saved["tokens"][0].tolist()]
    assert "".join(one["text"][0] for one in steps) in gpt2.loaded.tokenizer.decode(outcome.saved["tokens"][0])
    for one, score in zip(steps, outcome.saved["s"], strict=True):
        assert one["values"]["score"] == pytest.approx(score.tolist())
    assert heard[-1][1] == {"run": "r", "lengths": [5], "reasons": ["length"]}


def test_maps_and_repeats_tell_what_they_emit(gpt2):
    body = {
        "runs": [{"id": "f", "invokes": [{"id": "y", "ids": [1, 2, 3]}]}],
        "nodes": [
            {"kind": "get", "id": "h", "site": "blocks.{l}:resid_post", "invoke": "y"},
            {"kind": "call", "id": "n", "op": "norm", "args": ["$h"]},
        ],
        "out": {"n": "$n"},
    }
    loop = {"nodes": [{"kind": "call", "id": "y2", "op": "mul", "args": ["$z", 2]}], "out": {"z": "$y2"}}
    nodes = [
        {"kind": "map", "id": "m", "over": {"l": [0, 2]}, "body": body, "emit": {"norm": "$n"}},
        {"kind": "repeat", "id": "p", "n": 3, "carry": {"z": 1}, "body": loop, "emit": {"z": "$z"}},
    ]
    heard = []
    [outcome] = gpt2.run([task([], {"n": "$m.n", "z": "$p.z"}, nodes)], values=lambda job, data: heard.append(data))
    assert outcome.error is None
    norms = outcome.saved["n"].tolist()
    maps = {tuple(one["at"]): one["values"]["norm"] for one in heard if one["node"] == "m"}
    assert maps == {(0,): pytest.approx(norms[0]), (1,): pytest.approx(norms[1])}
    assert [(one["at"], one["values"]["z"]) for one in heard if one["node"] == "p"] == [([0], 2), ([1], 4), ([2], 8)]


def test_a_job_that_is_cancelled_leaves_with_all_its_generations_and_the_others_go_on(gpt2, monkeypatch):
    lost, forwards = set(), []
    whole = gpt2.model.whole

    def counted(inputs, *args, **kwargs):
        forwards.append(inputs["input_ids"].shape[0])
        return whole(inputs, *args, **kwargs)

    monkeypatch.setattr(gpt2.model, "whole", counted)

    def values(job, data):
        if job == "job" and data.get("step") == 2:
            lost.add("job")

    runs = [run(ids(5), 60), run(ids(5, 3), 60, id="q", invoke="y")]
    long, other = gpt2.run(
        [task(runs, TOKENS), task([run(ids(6))], TOKENS, id="other")], values=values, cancelled=lambda: lost
    )
    assert isinstance(long.error, Cancelled)
    assert other.saved["tokens"].tolist() == plain(gpt2, ids(6), 8)[0]
    assert forwards[:3] == [3, 3, 3]
    assert set(forwards[4:]) == {1}
    assert len(forwards) == 8


def test_a_job_that_takes_too_long_ends_and_says_so(limited):
    [outcome] = limited(max_seconds=0.05).run([task([run(ids(5), 100)], TOKENS)])
    assert isinstance(outcome.error, TimeLimit)


def test_a_job_that_raises_at_a_step_fails_alone_with_its_node(gpt2):
    each = {
        "nodes": [
            {"kind": "get", "id": "h", "site": "blocks.1:resid_post", "invoke": "x", "index": [":", -1]},
            {"kind": "call", "id": "m", "op": "gt", "args": ["$h", 1e9]},
            {"kind": "call", "id": "none", "op": "index", "args": ["$h", ["$m"]]},
            {"kind": "call", "id": "bad", "op": "amax", "args": ["$none"]},
        ],
        "out": {"bad": "$bad"},
    }
    bad, good = gpt2.run([task([run(ids(5), each=each)], {"b": "$r.bad"}), task([run(ids(6))], TOKENS, id="good")])
    assert isinstance(bad.error, ShapeError)
    assert bad.error.node == "bad"
    assert str(bad.error).endswith("[in step 0 of generation 'r']")
    assert good.saved["tokens"].tolist() == plain(gpt2, ids(6), 8)[0]


def test_too_many_emitted_numbers_end_the_job(gpt2):
    each = {
        "nodes": [
            {"kind": "get", "id": "z", "site": "lm_head:output", "invoke": "x"},
            {"kind": "call", "id": "m", "op": "lt", "args": ["$z", 1e9]},
            {"kind": "call", "id": "many", "op": "index", "args": ["$z", ["$m"]]},
        ],
        "emit": {"many": "$many"},
    }
    [outcome] = gpt2.run([task([run(ids(9), each=each)], TOKENS)])
    assert isinstance(outcome.error, TooLarge)
    assert "emitted with" in str(outcome.error)


def test_out_of_memory_is_tried_again_in_smaller_company(gpt2, monkeypatch):
    whole = gpt2.model.whole

    def scarce(inputs, *args, **kwargs):
        if inputs["input_ids"].shape[0] > 2:
            raise torch.OutOfMemoryError("out of memory")
        return whole(inputs, *args, **kwargs)

    monkeypatch.setattr(gpt2.model, "whole", scarce)
    outcomes = gpt2.run([task([run(ids(4, at))], TOKENS, id=f"job-{at}") for at in range(4)])
    assert [one.error for one in outcomes] == [None] * 4
    assert outcomes[3].saved["tokens"].tolist() == plain(gpt2, ids(4, 3), 8)[0]


def test_the_values_of_a_job_are_counted_while_it_generates(limited):
    each = {
        "nodes": [{"kind": "get", "id": "h", "site": "blocks.0:resid_post", "index": [":", -1]}],
        "out": {"h": "$h"},
    }
    [outcome] = limited(max_bytes=1000).run([task([run(ids(5), each=each)], {"h": "$r.h"})])
    assert isinstance(outcome.error, TooLarge)


@pytest.mark.parametrize("settings", [{"temperature": -1}, {"top_p": 0}, {"max_new_tokens": 0}])
def test_bad_settings_are_refused_before_anything_runs(gpt2, settings):
    made = run(ids(4))
    made["generate"] |= settings
    [outcome] = gpt2.run([task([made], TOKENS)])
    assert isinstance(outcome.error, BadArgument)


@pytest.mark.parametrize("site", ["q", "pattern", "attn_out", "mlp_act"])
def test_standard_ports_have_the_newest_position_at_each_step_and_attention_all_before_it(gpt2, saved, site):
    node = {"kind": "get", "id": "v", "site": f"blocks.1:{site}", "invoke": "x", "step": 3}
    found, _ = saved(gpt2, task([run(ids(6))], {**TOKENS, "v": "$v"}, [node]), task([run(ids(13))], TOKENS, id="other"))
    seen = ids(6)[0] + found["tokens"][0, :3].tolist()
    whole = {"kind": "get", "id": "v", "site": f"blocks.1:{site}", "invoke": "y"}
    expected = saved(gpt2, task([{"id": "f", "invokes": [{"id": "y", "ids": seen}]}], {"v": "$v"}, [whole]))["v"]
    newest = expected[:, :, -1:] if site == "pattern" else expected[:, -1:]
    torch.testing.assert_close(found["v"], newest, rtol=1e-4, atol=1e-5)


def test_values_that_differ_in_size_from_step_to_step_cannot_be_stacked(gpt2):
    node = {"kind": "get", "id": "p", "site": "blocks.1:pattern", "invoke": "x", "step": "1:"}
    [outcome] = gpt2.run([task([run(ids(6))], {"p": "$p"}, [node])])
    assert isinstance(outcome.error, ShapeError)
    assert "shapes" in str(outcome.error)


def test_a_write_at_a_standard_port_of_one_generation_leaves_its_neighbours_alone(gpt2, saved):
    write = {
        "kind": "set",
        "id": "w",
        "site": "blocks.1:z",
        "invoke": "x",
        "index": [":", ":", 2],
        "value": 3.0,
        "step": ":",
    }
    jobs = [task([run(ids(6))], TOKENS, [write]), task([run(ids(13))], TOKENS, id="other")]
    together = saved(gpt2, *jobs)
    assert together[0]["tokens"].tolist() == saved(gpt2, jobs[0])["tokens"].tolist()
    assert together[1]["tokens"].tolist() == plain(gpt2, ids(13), 8)[0]


@pytest.mark.parametrize(
    "settings",
    [
        {"repetition_penalty": 1.3},
        {"no_repeat_ngram_size": 2},
        {"min_new_tokens": 9},
        {"repetition_penalty": 0.8, "no_repeat_ngram_size": 3, "min_new_tokens": 5},
    ],
)
def test_penalties_and_least_lengths_are_those_of_transformers_in_any_company(gpt2, saved, monkeypatch, settings):
    prompt = ids(7, rows=2)
    eos = plain(gpt2, prompt, 12)[0][0][3]
    monkeypatch.setattr(gpt2.loaded.module.generation_config, "eos_token_id", eos)
    given = torch.tensor(prompt)
    options = {"max_new_tokens": 12, "do_sample": False, "pad_token_id": 256, **settings}
    made = gpt2.loaded.module.generate(given, attention_mask=torch.ones_like(given), **options)[:, 7:]
    found, other, _ = saved(
        gpt2,
        task([run(prompt, 12, **settings)], {**TOKENS, "n": "$r.lengths"}),
        task([run(prompt, 12)], {**TOKENS, "n": "$r.lengths"}, id="without"),
        task([run(ids(11, 3), 12, repetition_penalty=2.0)], TOKENS, id="stranger"),
    )
    assert found["tokens"].tolist() == made.tolist()
    assert found["tokens"].tolist() != other["tokens"].tolist()
