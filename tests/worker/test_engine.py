"""The engine: every job as if it ran alone, whatever its company does."""

from __future__ import annotations

import time

import pytest
import torch

from telepatch_protocol.errors import (
    BadArgument,
    Cancelled,
    CausalLoop,
    ExecutionError,
    IndexOutOfRange,
    NotFound,
    OutOfMemory,
    ShapeError,
    TimeLimit,
    TooLarge,
    UnknownOperation,
)
from telepatch_worker import evaluate
from telepatch_worker.engine import BatchLimits, Task

GPT2, LLAMA, BERT = "gpt2-random", "llama-random", "bert-random"
EXACT = {"exact": True}
A, B = [5, 6, 7, 8, 9], [20, 21, 22]


def hooked(module, ids, hooks):
    """The logits, or what comes out, of a plain forward with hooks: ``path -> function of the output tensor``."""
    handles = [
        module.get_submodule(path).register_forward_hook(
            lambda m, a, out, do=do: (do(out[0]), *out[1:]) if isinstance(out, tuple) else do(out)
        )
        for path, do in hooks.items()
    ]
    try:
        with torch.no_grad():
            out = module(input_ids=torch.tensor([ids]))
    finally:
        for handle in handles:
            handle.remove()
    return out[0]


def patched(value, position):
    def do(out):
        out = out.clone()
        out[:, position] = value
        return out

    return do


# Reads


def test_a_read_is_the_value_at_its_place_and_later_writes_never_change_it(gpt2, build, saved):
    site = "blocks.1:resid_post"
    found = saved(
        gpt2,
        build.task(GPT2, {"a": A}, build.get("before", site), build.set(site, 0), build.get("after", site)),
    )
    assert found["before"].shape == (1, 5, 48)
    assert found["before"].abs().sum() > 0
    assert found["after"].abs().sum() == 0


def test_an_index_takes_a_part_where_it_lies(gpt2, build, saved):
    found = saved(
        gpt2,
        build.task(
            GPT2,
            {"a": A},
            build.get("whole", "blocks.2.mlp:output"),
            build.get("part", "blocks.2.mlp:output", [":", "1::2", [0, 3]]),
            build.get("last", "blocks.2.mlp:output", ["...", -1, "$where"]),
            constants={"where": [4, 4]},
        ),
    )
    assert torch.equal(found["part"], found["whole"][:, 1::2, [0, 3]])
    assert torch.equal(found["last"], found["whole"][..., -1, [4, 4]])


def test_a_starred_read_stacks_all_modules_whatever_its_index(gpt2, build, saved):
    indices = {
        "all": None,
        "each": [":", ":", -1],
        "dots": ["...", 3],
        "one": [2],
        "some": ["1:", 0],
        "apart": [":", [0, 0], ":", [1, 2]],
        "full": ["...", 1, 0, 2, 3],
        "wide": [":", None, ":", "1:3"],
    }
    nodes = [build.get(name, "blocks.*:resid_post", index) for name, index in indices.items()]
    found = saved(gpt2, build.task(GPT2, {"a": A}, *nodes))
    whole = found["all"]
    assert whole.shape == (4, 1, 5, 48)
    assert torch.equal(found["each"], whole[:, :, -1])
    assert torch.equal(found["dots"], whole[..., 3])
    assert torch.equal(found["one"], whole[2])
    assert torch.equal(found["some"], whole[1:, 0])
    assert torch.equal(found["apart"], whole[:, [0, 0], :, [1, 2]])
    assert torch.equal(found["full"], whole[..., 1, 0, 2, 3])
    assert torch.equal(found["wide"], whole[:, None, :, 1:3])


def test_parameters_are_read_before_any_forward_and_cannot_be_changed_by_what_is_saved(gpt2, build, saved, weights):
    before = weights(gpt2.loaded.module)
    task = build.task(
        GPT2, {}, build.get("w", "lm_head:param.weight", ["2:4"]), build.get("b", "blocks.*.ln_1:param.bias")
    )
    found = saved(gpt2, task)
    assert torch.equal(found["w"], gpt2.loaded.module.lm_head.weight[2:4])
    assert found["b"].shape == (4, 48)
    found["w"].zero_()
    found["b"].zero_()
    assert weights(gpt2.loaded.module) == before


def test_a_job_without_any_run_computes(gpt2, build, saved):
    assert saved(gpt2, build.task(GPT2, {}, build.call("x", "add", [1.0, 2.0], 3)))["x"].tolist() == [4.0, 5.0]


# Writes


def test_a_write_is_bit_for_bit_what_a_hook_does(gpt2, build, saved):
    task = build.task(
        GPT2,
        {"a": A},
        build.set("transformer.h.1.mlp:output", 0.25, [":", 2]),
        build.get("l", "lm_head:output"),
        options=EXACT,
    )
    expected = hooked(gpt2.loaded.module, A, {"transformer.h.1.mlp": patched(0.25, 2)})
    assert torch.equal(saved(gpt2, task)["l"], expected)


def test_several_writes_and_reads_at_one_place_happen_as_they_stand(gpt2, build, saved):
    site = "blocks.0:resid_post"
    found = saved(
        gpt2,
        build.task(
            GPT2,
            {"a": A},
            build.set(site, 1.0, [":", 0]),
            build.get("one", site, [0, ":", 0]),
            build.set(site, 2.0, [":", "0:2"]),
            build.get("two", site, [0, ":", 0]),
            build.call("sum", "mul", "$two", 10),
            build.set(site, "$sum", [0, ":", 0]),
            build.get("three", site, [0, ":", 0]),
        ),
    )
    assert found["one"][0] == 1.0
    assert found["two"][:2].tolist() == [2.0, 2.0]
    assert torch.equal(found["three"], found["two"] * 10)


def test_a_value_read_between_two_writes_stays_what_it_was(gpt2, build, saved):
    site = "blocks.0:resid_post"
    nodes = build.set(site, 1.0), build.get("one", site), build.set(site, 2.0), build.get("two", site)
    found = saved(gpt2, build.task(GPT2, {"a": A}, *nodes))
    assert (found["one"].unique().tolist(), found["two"].unique().tolist()) == ([1.0], [2.0])


def test_a_write_to_a_port_changes_only_what_flows_through_it(gpt2, build, saved):
    # The input of a block and the output of the one before are one tensor; the write replaces only the former.
    task = build.task(
        GPT2,
        {"a": A},
        build.get("before", "transformer.h.1:output"),
        build.set("transformer.h.2.ln_1:input", 0),
        build.get("skip", "transformer.h.2.ln_2:input"),
        build.get("attn", "transformer.h.2.attn:output"),
    )
    found = saved(gpt2, task)
    assert torch.allclose(found["skip"], found["before"] + found["attn"], atol=1e-6)
    assert found["before"].abs().sum() > 0


def test_a_starred_write_gives_each_module_its_own_part_or_the_same_to_all(gpt2, build, saved):
    read = build.get("m", "blocks.*.mlp:output", [":", 0, -1, 0])
    own = build.task(
        GPT2,
        {"a": A},
        build.set("blocks.*.mlp:output", "$v", [":", ":", -1]),
        read,
        constants={"v": [[[float(i)] * 48] for i in range(4)]},
    )
    same = build.task(GPT2, {"a": A}, build.set("blocks.*.mlp:output", 7, [":", ":", -1]), read)
    assert saved(gpt2, own)["m"].tolist() == [0.0, 1.0, 2.0, 3.0]
    assert saved(gpt2, same)["m"].tolist() == [7.0] * 4


def test_written_values_are_cast_and_infinities_are_allowed(gpt2, build, saved):
    site = "blocks.1:resid_post"
    task = build.task(
        GPT2,
        {"a": A},
        build.set(site, "$v", [":", 0, 0]),
        build.set(site, "inf", [":", 1, 0]),
        build.get("h", site, [0, ":2", 0]),
        constants={"v": {"tensor": "t"}},
        attachment={"t": torch.tensor([3], dtype=torch.int64)},
    )
    assert saved(gpt2, task)["h"].tolist() == [3.0, float("inf")]


def test_a_masked_write_is_decided_by_the_data(gpt2, build, saved):
    site = "blocks.1:resid_post"
    found = saved(
        gpt2,
        build.task(
            GPT2,
            {"a": A},
            build.get("h", site),
            build.call("m", "gt", "$h", 0),
            build.set(site, 0, ["$m"]),
            build.get("r", site),
        ),
    )
    assert torch.equal(found["r"], found["h"].clamp(max=0))


def test_token_ids_can_be_rewritten_but_not_to_ones_that_are_not_there(gpt2, build, saved):
    logits = build.get("l", "lm_head:output")
    good = build.task(GPT2, {"a": A}, build.set("transformer:input", B[0], [":", 1]), logits, options=EXACT)
    changed = [A[0], B[0], *A[2:]]
    assert torch.equal(saved(gpt2, good)["l"], hooked(gpt2.loaded.module, changed, {}))
    [bad] = gpt2.run([build.task(GPT2, {"a": A}, build.set("transformer:input", 300, [":", 1]), logits)])
    assert isinstance(bad.error, IndexOutOfRange)


@pytest.mark.parametrize(
    ("name", "port"), [(LLAMA, "model.layers.1.self_attn:input"), (BERT, "encoder.layer.1.attention:input")]
)
def test_inputs_are_read_and_written_whether_by_position_or_by_name(engines, build, saved, name, port):
    engine = engines(name)
    found = saved(
        engine, build.task(name, {"a": A}, build.get("x", port), build.set(port, 0, [":", 0]), build.get("y", port))
    )
    assert torch.equal(found["y"][:, 1:], found["x"][:, 1:])
    assert found["y"][:, 0].abs().sum() == 0


def test_a_child_called_output_is_a_place_like_any_other(engines, build, saved):
    engine = engines(BERT)
    site = "encoder.layer.2.output:output"
    task = build.task(
        BERT, {"a": A}, build.set(site, 0), build.get("x", site), build.get("h", "encoder.layer.2:output")
    )
    found = saved(engine, task)
    assert found["x"].abs().sum() == 0
    assert torch.equal(found["x"], found["h"])


# Invokes and passes


def test_values_flow_between_invokes_in_one_forward(gpt2, build, saved):
    site = "blocks.1:resid_post"
    task = build.task(
        GPT2,
        {"a": A, "b": B},
        build.get("clean", site, [":", -1]),
        build.set(site, "$clean", [":", -1], invoke="b"),
        build.get("l", "lm_head:output", [":", -1], invoke="b"),
    )
    assert len(gpt2.plan(task).root.passes) == 1
    found = saved(gpt2, task)
    expected = hooked(gpt2.loaded.module, B, {"transformer.h.1": patched(found["clean"], -1)})
    assert torch.allclose(found["l"], expected[:, -1], atol=1e-5)


@pytest.mark.parametrize("options", [{}, EXACT])
def test_a_late_value_written_early_in_another_invoke_takes_another_forward(gpt2, build, saved, options):
    task = build.task(
        GPT2,
        {"b": B, "a": A},
        build.set("blocks.0:resid_post", "$late", [":", -1], invoke="b"),
        build.get("l", "lm_head:output", invoke="b"),
        build.get("late", "blocks.3:resid_post", [":", -1]),
        options=options,
    )
    assert len(gpt2.plan(task).root.passes) == 2
    found = saved(gpt2, task)
    expected = hooked(gpt2.loaded.module, B, {"transformer.h.0": patched(found["late"], -1)})
    assert torch.allclose(found["l"], expected, atol=0 if options else 1e-5)


def test_a_write_of_several_forwards_keeps_its_value_until_the_last(gpt2, build, saved):
    task = build.task(
        GPT2,
        {"a": A, "b": B},
        build.call("k", "mul", [2.0], 2),
        build.set("blocks.0:resid_post", "$k", [":", 0]),  # made in the first forward and again in the third
        build.get("mid", "blocks.1:resid_post", [":", -1]),
        build.set("blocks.0:resid_post", "$mid", [":", 0], invoke="b"),
        build.get("late", "blocks.3:resid_post", [":", -1], invoke="b"),
        build.set("blocks.2:resid_post", "$late", [":", -1]),
        build.get("end", "lm_head:output"),
        saves={"mid": "$mid", "late": "$late", "end": "$end"},
    )
    assert [one.invokes for one in gpt2.plan(task).checked.schedule.passes] == [("a",), ("b",), ("a",)]
    found = saved(gpt2, task)
    writes = {"transformer.h.0": patched(4.0, 0), "transformer.h.2": patched(found["late"], -1)}
    assert torch.equal(found["end"], hooked(gpt2.loaded.module, A, writes))


def test_progress_is_told_of_jobs_of_several_forwards(gpt2, build):
    nodes = [
        build.get("late", "blocks.3:resid_post", [":", -1]),
        build.set("blocks.0:resid_post", "$late", [":", -1], invoke="b"),
        build.get("l", "lm_head:output", invoke="b"),
    ]
    task = build.task(GPT2, {"a": A, "b": B}, *nodes, id="job")
    told = []
    gpt2.run([task], progress=lambda *how: told.append(how))
    assert told == [("job", 1, 2), ("job", 2, 2)]


# Modules


def test_a_module_is_applied_to_a_value_in_mid_forward_without_anyone_noticing(gpt2, build, saved):
    module = gpt2.loaded.module
    task = build.task(
        GPT2,
        {"a": A},
        build.set("blocks.3.mlp:output", 0, [":", 0]),  # not for the applied block, though it is the same module
        build.get("h", "blocks.1:resid_post"),
        build.module("block", "blocks.3", "$h"),
        build.module("lens", "lm_head", "$block"),
        build.get("out", "blocks.3:resid_post"),
        build.get("l", "lm_head:output"),
    )
    found = saved(gpt2, task)
    with torch.no_grad():
        expected = module.transformer.h[3](found["h"])
        expected = expected[0] if isinstance(expected, tuple) else expected
        assert torch.allclose(found["block"], expected, atol=1e-6)
        assert torch.allclose(found["lens"], module.lm_head(expected), atol=1e-5)
    plain = hooked(module, A, {"transformer.h.3.mlp": patched(0, 0)})
    assert torch.allclose(found["l"], plain, atol=1e-5)


def test_a_module_keeps_further_leading_axes(gpt2, build, saved):
    task = build.task(
        GPT2, {"a": A}, build.get("h", "blocks.*:resid_post", [":", ":", -1]), build.module("l", "lm_head", "$h")
    )
    assert saved(gpt2, task)["l"].shape == (4, 1, 257)


def test_an_embedding_is_not_asked_for_rows_that_it_does_not_have(gpt2, build):
    task = build.task(GPT2, {}, build.call("i", "add", [250, 250], 7), build.module("e", "transformer.wte", "$i"))
    [outcome] = gpt2.run([task])
    assert isinstance(outcome.error, IndexOutOfRange)
    assert outcome.error.node == "e"


# Company


def test_jobs_in_one_batch_give_what_they_give_alone(engines, build, saved):
    for name, last in ((GPT2, "lm_head:output"), (LLAMA, "lm_head:output"), (BERT, "encoder.layer.3:output")):
        engine = engines(name)
        lengths = [1, 4, 12, 48, 64, 5, 8]  # among them the number of heads, of d_head, of d_model
        tasks = [
            build.task(
                name,
                {"a": [(3 * length + at) % 250 for at in range(length)]},
                build.set("blocks.1:resid_post", 0.5, [":", 0]),
                build.get("h", "blocks.2:resid_post"),
                build.get("l", last),
            )
            for length in lengths
        ]
        together = engine.run(tasks)
        for task, outcome in zip(tasks, together, strict=True):
            alone = saved(engine, task)
            for value, found in alone.items():
                assert torch.allclose(outcome.saved[value], found, atol=1e-5, rtol=1e-5), (name, value)


def test_the_results_of_an_exact_job_do_not_depend_on_its_company(gpt2, build, saved):
    exact = build.task(GPT2, {"a": A}, build.get("l", "lm_head:output"), options=EXACT)
    others = [build.task(GPT2, {"a": B * 9}, build.get("l", "lm_head:output")) for _ in range(3)]
    first, *_ = gpt2.run([exact, *others])
    assert torch.equal(first.saved["l"], hooked(gpt2.loaded.module, A, {}))


def test_a_write_where_all_rows_share_one_value_stays_in_its_own_job(gpt2, build):
    site = "transformer.wpe:output"
    writer = build.task(GPT2, {"a": A}, build.set(site, 0), build.get("l", "lm_head:output"))
    reader = build.task(GPT2, {"a": B}, build.get("p", site), build.get("l", "lm_head:output"))
    first, second = gpt2.run([writer, reader])
    assert first.error is None
    assert second.saved["p"].shape == (1, 3, 48)
    assert torch.allclose(second.saved["l"], hooked(gpt2.loaded.module, B, {}), atol=1e-5)
    assert torch.allclose(
        first.saved["l"], hooked(gpt2.loaded.module, A, {"transformer.wpe": lambda out: out * 0}), atol=1e-5
    )


def test_a_job_of_several_rows_sees_all_of_them_and_no_other(gpt2, build, saved):
    rows = build.task(GPT2, {"a": [A, A[::-1]]}, build.get("l", "lm_head:output"))
    other = build.task(GPT2, {"a": B}, build.get("l", "lm_head:output"))
    both, _ = gpt2.run([rows, other])
    assert both.saved["l"].shape == (2, 5, 257)
    assert torch.allclose(both.saved["l"][1:], hooked(gpt2.loaded.module, A[::-1], {}), atol=1e-5)


def test_an_encoder_shows_its_mask_in_the_job_s_own_form(engines, build):
    name, site = BERT, ":inputs.attention_mask"
    tasks = [build.task(name, {"a": ids}, build.get("m", site)) for ids in (A, B)]
    first, second = engines(name).run(tasks)
    assert first.saved["m"].tolist() == [[1] * 5]
    assert second.saved["m"].tolist() == [[1] * 3]


# Failures


def failing(build, kind):
    get = build.get("h", "blocks.1:resid_post")
    logits = build.get("l", "lm_head:output")
    lines = {"x": "study.py:7"}
    nodes = {
        "kernel": [get, build.call("x", "solve", "$h", "$h"), logits],
        "broadcast": [
            get,
            build.call("m", "gt", "$h", 0),
            build.call("x", "index", "$h", ["$m"]),
            {**build.set("blocks.2:resid_post", "$x", [":", 0]), "id": "w"},
            logits,
        ],
        "unknown": [get, build.call("x", "fft", "$h"), logits],
    }
    return build.task(GPT2, {"a": A}, *nodes[kind], lines=lines, saves={"l": "$l"})


@pytest.mark.parametrize("kind", ["kernel", "broadcast", "unknown"])
def test_a_failing_job_says_where_and_leaves_its_neighbours_and_the_model_alone(gpt2, build, kind, weights):
    before = weights(gpt2.loaded.module)
    good = [build.task(GPT2, {"a": ids}, build.get("l", "lm_head:output")) for ids in (A, B)]
    first, bad, last = gpt2.run([good[0], failing(build, kind), good[1]])
    assert bad.saved is None
    assert isinstance(bad.error, UnknownOperation if kind == "unknown" else ExecutionError | ShapeError)
    assert bad.error.node == ("w" if kind == "broadcast" else "x")
    if kind != "broadcast":
        assert (bad.error.file, bad.error.line) == ("study.py", 7)
    assert torch.allclose(first.saved["l"], hooked(gpt2.loaded.module, A, {}), atol=1e-5)
    assert torch.allclose(last.saved["l"], hooked(gpt2.loaded.module, B, {}), atol=1e-5)
    assert weights(gpt2.loaded.module) == before


def test_a_missing_result_a_bad_token_and_a_causal_loop_are_refused_each_by_itself(gpt2, build):
    logits = build.get("l", "lm_head:output")
    outcomes = gpt2.run(
        [
            build.task(
                GPT2, {"a": A}, logits, build.call("y", "add", "$r", 1), constants={"r": {"result": "j", "name": "n"}}
            ),
            build.task(GPT2, {"a": [1, 400]}, logits),
            build.task(
                GPT2, {"a": A}, build.set("blocks.0:resid_post", "$late"), build.get("late", "blocks.2:resid_post")
            ),
            build.task(GPT2, {"a": A}, logits),
        ]
    )
    errors = [type(outcome.error) for outcome in outcomes]
    assert errors[0] is NotFound
    assert errors[1] is BadArgument
    assert errors[2] is CausalLoop
    assert errors[3] is type(None)


def test_texts_of_unequal_length_in_one_invoke_are_refused_and_equal_ones_are_rows(gpt2, build, saved):
    def text(prompts):
        graph = build.graph(GPT2, {"a": A}, build.get("l", "lm_head:output")).to_dict()
        graph["runs"][0]["invokes"][0] = {"id": "a", "text": prompts}
        from telepatch_protocol.wire import from_dict

        return Task("t", from_dict(graph))

    assert saved(gpt2, text(["abc", "xyz"]))["l"].shape == (2, 3, 257)
    assert saved(gpt2, text("$$5"))["l"].shape == (1, 2, 257)
    [outcome] = gpt2.run([text(["abc", "wxyz"])])
    assert isinstance(outcome.error, ShapeError)


def test_a_job_over_its_time_is_stopped_inside_the_forward_and_its_neighbours_go_on(limited, build, monkeypatch):
    engine = limited(max_seconds=0.15)
    plain = evaluate.run_op

    def slow(name, *args, **kwargs):
        if name == "exp":
            time.sleep(0.2)
        return plain(name, *args, **kwargs)

    monkeypatch.setattr(evaluate, "run_op", slow)
    get, logits = build.get("h", "blocks.0:resid_post"), build.get("l", "lm_head:output")
    task = build.task(GPT2, {"a": A}, get, build.call("x", "exp", "$h"), logits)
    good = build.task(GPT2, {"a": B}, logits)
    bad, other = engine.run([task, good])
    assert isinstance(bad.error, TimeLimit)
    assert other.error is None
    assert other.seconds < 0.15 < bad.seconds


@pytest.mark.parametrize("round", range(3))
def test_a_cancelled_job_stops_at_its_next_site_again_and_again(gpt2, build, round):
    seen = []
    logits = build.get("l", "lm_head:output")
    gone = build.task(GPT2, {"a": A}, build.get("h", "blocks.0:resid_post"), logits, id="gone")
    stays = build.task(GPT2, {"a": B}, logits)

    def cancelled():
        seen.append(None)
        return {"gone"} if len(seen) > 60 else set()

    first, second = gpt2.run([gone, stays], cancelled=cancelled)
    assert isinstance(first.error, Cancelled)
    assert torch.allclose(second.saved["l"], hooked(gpt2.loaded.module, B, {}), atol=1e-5)


def test_values_that_grow_too_large_while_running_end_the_job(limited, build):
    engine = limited(max_bytes=200_000)
    nodes = [build.get("h", "blocks.0:resid_post"), build.call("n", "sum", "$h"), build.call("m", "gt", "$n", -1e9)]
    small = build.task(GPT2, {"a": A}, *nodes)
    assert engine.run([small])[0].error is None
    big = build.task(GPT2, {"a": A}, *nodes, build.call("x", "repeat", "$h", [1, 300, 1]))
    assert isinstance(engine.run([big])[0].error, TooLarge)


def test_a_batch_that_fails_as_a_whole_is_split_until_only_the_culprit_fails(gpt2, build, monkeypatch):
    plain, sizes = gpt2.model.forward, []

    def forward(inputs, parts, dropped, **more):
        sizes.append(len(parts))
        if (inputs["input_ids"] == 99).any():
            raise torch.OutOfMemoryError("out of memory")
        plain(inputs, parts, dropped, **more)

    monkeypatch.setattr(gpt2.model, "forward", forward)
    tasks = [build.task(GPT2, {"a": [1, 99 if at == 3 else at]}, build.get("l", "lm_head:output")) for at in range(8)]
    outcomes = gpt2.run(tasks)
    assert [type(outcome.error) for outcome in outcomes] == [OutOfMemory if at == 3 else type(None) for at in range(8)]
    assert sizes[0] == 8
    assert min(sizes) == 1


def test_a_job_that_runs_out_of_memory_beside_others_is_tried_again_alone(gpt2, build, monkeypatch):
    plain, calls = evaluate.run_op, []

    def hungry(name, *args, **kwargs):
        calls.append(name)
        if len(calls) == 1:
            raise torch.OutOfMemoryError("out of memory")
        return plain(name, *args, **kwargs)

    monkeypatch.setattr(evaluate, "run_op", hungry)
    nodes = [build.get("h", "blocks.0:resid_post"), build.call("x", "exp", "$h")]
    outcomes = gpt2.run([build.task(GPT2, {"a": ids}, *nodes) for ids in (A, B)])
    assert [outcome.error for outcome in outcomes] == [None, None]
    assert calls == ["exp"] * 3


def test_jobs_that_have_not_begun_are_left_out_once_told_not_to_proceed(gpt2, build):
    tasks = [build.task(GPT2, {"a": A}, build.get("l", "lm_head:output"), options=EXACT) for _ in range(3)]
    done = []
    outcomes = gpt2.run(tasks, ended=done.append, proceed=lambda: not done)
    assert len(outcomes) == len(done) == 1


# What stays as it was


def test_the_generators_of_random_numbers_are_left_alone(gpt2, build):
    torch.manual_seed(7)
    before = torch.get_rng_state()
    task = build.task(GPT2, {"a": A}, build.call("n", "randn", [3], [1, 2]), build.get("l", "lm_head:output"))
    first, second = (gpt2.run([task])[0].saved["n"] for _ in range(2))
    assert torch.equal(first, second)
    assert torch.equal(torch.get_rng_state(), before)


def test_two_tasks_of_one_id_are_a_mistake_of_the_caller(gpt2, build):
    task = build.task(GPT2, {"a": A}, build.get("l", "lm_head:output"))
    with pytest.raises(ValueError, match="same id"):
        gpt2.run([task, task])


def test_a_batch_limit_that_cannot_hold_anything_is_refused():
    with pytest.raises(ValueError, match="at least one token"):
        BatchLimits(tokens=0)


def test_results_of_earlier_jobs_and_attached_tensors_are_values(gpt2, build, saved):
    task = build.task(
        GPT2,
        {"a": "$ids"},
        build.set("blocks.0:resid_post", "$v", [":", -1]),
        build.get("h", "blocks.0:resid_post", [0, -1]),
        constants={"v": {"result": "job", "name": "n", "index": [":", -1]}, "ids": {"tensor": "ids"}},
        results={("job", "n"): torch.ones(1, 2, 48)},
        attachment={"ids": torch.tensor(A)},
    )
    assert saved(gpt2, task)["h"].tolist() == [1.0] * 48
