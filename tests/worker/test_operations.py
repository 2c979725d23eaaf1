"""Operations inside a module's forward: named as nnsight names them, read, written, and gone when nobody asks."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch

from telepatch_protocol.errors import BadArgument, UnknownSite
from telepatch_protocol.sites import find, parse
from telepatch_worker.attention import implementation
from telepatch_worker.cards import read_card
from telepatch_worker.engine import Engine
from telepatch_worker.load import Loaded, load

IDS = [5, 17, 3, 44, 29, 8, 51]
MODELS = Path(__file__).parents[2] / "models"
ATTN = "transformer.h.1.attn:source"
BLOCK = "transformer.h.1:source"
EXACT = {"exact": True}


@pytest.fixture(scope="module")
def plain(tmp_path_factory) -> Loaded:
    """The same GPT-2, under eager attention from the start, with nobody's hands on it."""
    file = read_card(MODELS / "gpt2-random.toml").model_copy(update={"attention": "eager"})
    return load(file, cache=tmp_path_factory.mktemp("plain"))


@pytest.fixture(scope="module")
def traced(tmp_path_factory):
    """The same GPT-2 under nnsight."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from nnsight import NNsight

        return NNsight(load(MODELS / "gpt2-random.toml", cache=tmp_path_factory.mktemp("traced")).module)


def test_the_names_on_the_card_are_nnsights_and_the_lines_are_the_code(gpt2, traced):
    for path, envoy in (
        ("transformer.h.1", traced.transformer.h[1]),
        ("transformer.h.1.attn", traced.transformer.h[1].attn),
    ):
        operations = gpt2.card.sources[gpt2.card.by_path[path].source].operations
        names = [one.name for one in operations if ".source." not in one.name]
        assert set(names) <= set(envoy.source.names)
        ends = [find(gpt2.card, parse(f"{path}:source.{one.name}.output"))[0].order for one in operations if one.output]
        assert len(set(ends)) == len(ends)
        for one in operations:
            if ".source." not in one.name:
                assert envoy.source.compiled.source.split("\n")[one.line - 1].strip() == one.text


@pytest.mark.parametrize(
    ("path", "operation", "leaf"),
    [
        ("mlp", "self_act_0", "output"),
        ("", "hidden_states_1", "output"),
        ("attn", "split_1", "outputs.1"),
        ("attn.c_attn", "torch_addmm_0", "output"),
    ],
)
def test_a_read_gives_what_nnsight_gives(path, operation, leaf, gpt2, traced, build, saved):
    native = f"transformer.h.1.{path}".rstrip(".")
    task = build.task("gpt2-random", {"a": IDS}, build.get("x", f"{native}:source.{operation}.{leaf}"), options=EXACT)
    kept = []
    envoy = traced.get(native)
    with torch.no_grad(), traced.trace(input_ids=torch.tensor([IDS]), use_cache=False):
        value = getattr(envoy.source, operation).output
        kept.append(value[1] if leaf == "outputs.1" else value)
    assert torch.equal(saved(gpt2, task)["x"], kept[0])


def test_a_write_inside_a_forward_changes_all_that_follows_and_nothing_before(gpt2, build, saved):
    found = saved(
        gpt2,
        build.task(
            "gpt2-random",
            {"a": IDS},
            build.get("before", f"{BLOCK}.self_attn_0.outputs.0"),
            build.set(f"{BLOCK}.hidden_states_1.output", 0.0),
            build.get("skip", f"{BLOCK}.residual_2.output"),
            build.get("norm", "transformer.h.1.ln_2:input"),
            build.get("mlp", "transformer.h.1.mlp:output"),
            build.get("end", "transformer.h.1:output"),
        ),
    )
    assert found["before"].abs().sum() > 0
    assert not found["skip"].any()
    assert not found["norm"].any()
    assert torch.equal(found["end"], found["mlp"])


def test_an_input_of_an_operation_is_written_leaf_by_leaf(gpt2, build, saved):
    found = saved(
        gpt2,
        build.task(
            "gpt2-random",
            {"a": IDS},
            build.set(f"{ATTN}.attention_interface_1.inputs.3", 0.0),
            build.get("keys", f"{ATTN}.attention_interface_1.inputs.2"),
            build.get("z", "blocks.1:z"),
        ),
    )
    assert found["keys"].any()
    assert not found["z"].any()


def test_an_alias_and_the_native_place_are_one_site_in_document_order(gpt2, build, saved):
    native = "transformer.h.1.attn.c_attn:output"
    found = saved(
        gpt2,
        build.task(
            "gpt2-random",
            {"a": IDS},
            build.get("first", native),
            build.set("blocks.1:k", 1.0, [":", 2, 0]),
            build.get("second", native),
            build.set(native, 2.0, [":", 2, "48:60"]),
            build.get("third", "blocks.1:k"),
            build.set("blocks.1:v", 3.0),
            build.get("fourth", native),
        ),
    )
    assert (found["second"] != found["first"]).nonzero()[:, 1:].tolist() == [[2, column] for column in range(48, 60)]
    assert found["third"][0, 2, 0].tolist() == [2.0] * 12
    assert found["fourth"][..., 96:].unique().tolist() == [3.0]
    assert torch.equal(found["fourth"][..., :48], found["first"][..., :48])


def test_patterns_come_from_eager_attention_bit_for_bit_and_the_outcome_says_so(gpt2, plain, build):
    task = build.task(
        "gpt2-random",
        {"a": IDS},
        build.get("p", "blocks.*:pattern"),
        build.get("z", "unembed:output"),
        options=EXACT,
    )
    [outcome] = gpt2.run([task])
    with torch.no_grad():
        wanted = plain.module(input_ids=torch.tensor([IDS]), use_cache=False, output_attentions=True)
    assert outcome.error is None
    assert torch.equal(outcome.saved["p"], torch.stack(wanted.attentions))
    assert torch.equal(outcome.saved["z"], wanted.logits)
    assert "eager attention" in outcome.warnings[0]


def test_jobs_under_eager_attention_share_batches_with_each_other_only(gpt2, build, monkeypatch):
    batches = []
    forward = gpt2.model.forward

    def note(inputs, parts, dropped, **more):
        batches.append((implementation(gpt2.loaded.module), len(parts)))
        return forward(inputs, parts, dropped, **more)

    monkeypatch.setattr(gpt2.model, "forward", note)
    eager = [build.task("gpt2-random", {"a": IDS[:n]}, build.get("p", "blocks.2:scores")) for n in (3, 7)]
    other = [build.task("gpt2-random", {"a": IDS[:n]}, build.get("h", "blocks.2:q")) for n in (2, 7, 5)]
    outcomes = gpt2.run([eager[0], other[0], other[1], eager[1], other[2]])
    assert [outcome.error for outcome in outcomes] == [None] * 5
    assert sorted(batches) == [("eager", 2), ("sdpa", 3)]
    assert [len(outcome.warnings) for outcome in outcomes] == [1, 0, 0, 1, 0]


def test_the_model_is_as_it_was_after_a_job_that_failed_under_eager_attention(gpt2, build):
    task = build.task(
        "gpt2-random",
        {"a": IDS},
        build.get("p", "blocks.1:pattern"),
        build.call("x", "cholesky", "$p"),
        build.get("z", "unembed:output"),
    )
    [outcome] = gpt2.run([task])
    assert outcome.error is not None
    assert implementation(gpt2.loaded.module) == "sdpa"


def test_no_forward_stays_instrumented(gpt2, build, saved):
    saved(gpt2, build.task("gpt2-random", {"a": IDS}, build.get("x", f"{BLOCK}.hidden_states_1.output")))
    states = [module.__dict__["__nnsight__"] for module in gpt2.loaded.module.modules()]
    assert all(state.body is state.original for state in states)


def test_in_company_each_job_sees_its_own_part_of_an_operation(gpt2, build, saved):
    def job(length):
        return build.task(
            "gpt2-random", {"a": IDS[:length]}, build.get("p", "blocks.1:pattern"), build.get("q", "blocks.1:q")
        )

    alone = [saved(gpt2, job(length)) for length in (2, 7, 4)]
    together = saved(gpt2, *(job(length) for length in (2, 7, 4)))
    for one, other in zip(alone, together, strict=True):
        assert one["p"].shape == other["p"].shape
        torch.testing.assert_close(one["p"], other["p"])
        torch.testing.assert_close(one["q"], other["q"])


@pytest.mark.parametrize(
    ("site", "message"),
    [
        (f"{BLOCK}.hidden_state_1.output", "did you mean 'hidden_states_1'"),
        (f"{BLOCK}.hidden_states_1", "write 'source.hidden_states_1.output'"),
        (f"{BLOCK}.hidden_states_1.input", "it has: output"),
        ("transformer.h.1.ln_1:source.x_0.output", "offers no operations"),
        ("transformer:source.block_0.output", "4 times in one forward"),
        ("blocks.1:q.0", "has no parts"),
    ],
)
def test_what_is_not_there_is_refused_with_what_is(site, message, gpt2, build):
    with pytest.raises(UnknownSite, match=message):
        gpt2.plan(build.task("gpt2-random", {"a": IDS}, build.get("x", site)))


def test_an_operation_in_a_loop_is_read_at_one_of_its_turns(gpt2, build, saved):
    found = saved(
        gpt2,
        build.task(
            "gpt2-random",
            {"a": IDS},
            build.get("x", "transformer:source.block_0.output", call=2),
            build.get("h", "blocks.2:resid_post"),
        ),
    )
    assert torch.equal(found["x"], found["h"])


def test_integers_and_masks_inside_a_forward_are_only_read(engines, build):
    llama: Engine = engines("llama-random")
    for site in (
        "model:source.position_ids_0.output",
        "model.layers.0.self_attn:source.apply_rotary_pos_emb_0.inputs.2",
    ):
        with pytest.raises(BadArgument, match="belongs to the engine"):
            llama.plan(build.task("llama-random", {"a": IDS}, build.set(site, 0), build.get("z", "unembed:output")))
