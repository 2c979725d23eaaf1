"""PEFT adapters of a card: loaded beside each other, each in force in the jobs that name it, which equal PEFT alone."""

from __future__ import annotations

import importlib.util
import shutil
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from tests.worker.training import call, fit, runs

from telepatch_protocol.errors import UnknownName
from telepatch_worker import random_weights
from telepatch_worker.adapters import adapters_identity
from telepatch_worker.cards import CardFile, LoadError, read_card
from telepatch_worker.engine import Desk, Engine, Settled, Task
from telepatch_worker.load import load
from telepatch_worker.long import Turns

MODELS = Path(__file__).parents[2] / "models"
NAME = "llama-random"
LLAMA = read_card(MODELS / f"{NAME}.toml")
IDS = [11, 12, 13, 14, 15]
LOGITS = {"kind": "get", "id": "logits", "site": "unembed:output", "invoke": "a"}


def with_adapters(**folders: Path) -> CardFile:
    return LLAMA.model_copy(update={"adapters": {name: str(folder) for name, folder in folders.items()}})


@pytest.fixture(scope="module")
def peft(tmp_path_factory, one_thread):
    """Two adapters as PEFT saves them, each with the model that has it alone."""
    folder = tmp_path_factory.mktemp("adapters")
    return folder, {
        "one": made(folder / "one", target_modules=["q_proj"]),
        "other": made(folder / "other", target_modules=["q_proj", "down_proj"], modules_to_save=["lm_head"]),
    }


@pytest.fixture(scope="module")
def engine(peft, tmp_path_factory):
    folder, _ = peft
    card = with_adapters(one=folder / "one", other=folder / "other")
    with_both = Engine(load(card, cache=tmp_path_factory.mktemp("cache")))
    yield with_both
    with_both.close()


def made(folder: Path, **settings) -> torch.nn.Module:
    torch.manual_seed(len(folder.name))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # PEFT asks transformers by an old name
        model = get_peft_model(plain_model(), LoraConfig(r=2, init_lora_weights=False, **settings)).eval()
    if "lm_head" in settings.get("modules_to_save", ()):
        with torch.no_grad():
            model.base_model.model.lm_head.modules_to_save["default"].weight.mul_(1.5)
    model.save_pretrained(folder)
    return model.requires_grad_(False)


def plain_model() -> torch.nn.Module:
    return random_weights.build(LLAMA).eval().requires_grad_(False)


def under(adapter: str | None) -> dict:
    return {} if adapter is None else {"protocol": [1, 1], "options": {"adapter": adapter}}


def test_jobs_of_two_adapters_and_of_the_base_model_submitted_together_equal_peft_alone(
    engine, peft, build, saved, monkeypatch
):
    _, alone = peft
    alone = {**alone, None: plain_model()}
    forward, called = engine.model.forward, []
    monkeypatch.setattr(engine.model, "forward", lambda *a, **k: (called.append(len(a[1])), forward(*a, **k)))
    jobs = [
        build.task(NAME, {"a": ids}, build.get("h", "model.layers.1.self_attn.q_proj:output"), LOGITS, **under(name))
        for ids in ([1, 2, 3, 4], [9, 8, 7])
        for name in alone
    ]
    found = saved(engine, *jobs)
    assert called == [2, 2, 2]
    for job, one in zip(jobs, found, strict=True):
        [invoke] = job.graph.runs[0].invokes
        model, ids = alone[job.graph.options.adapter], torch.tensor([invoke.ids])
        torch.testing.assert_close(one["logits"], model(input_ids=ids).logits, rtol=1e-5, atol=1e-5)
    assert len({float(one["h"].sum()) for one in found[:3]}) == 3


def test_alone_a_job_is_bit_for_bit_what_peft_or_the_model_without_adapters_gives(engine, peft, build, saved):
    for name, model in {**peft[1], None: plain_model()}.items():
        options = {"exact": True, **({} if name is None else {"adapter": name})}
        job = build.task(NAME, {"a": IDS}, LOGITS, protocol=[1, 1], options=options)
        assert torch.equal(saved(engine, job)["logits"], model(input_ids=torch.tensor([IDS])).logits)


def test_generations_and_gradients_run_under_the_adapter_of_their_job(engine, peft, build, saved):
    _, alone = peft
    for name, model in {**alone, None: plain_model()}.items():
        run = {"id": "r", "invokes": [{"id": "a", "ids": IDS}], "generate": {"max_new_tokens": 6}}
        job = build.task(
            NAME, {}, runs=[run], nodes=[build.get("t", ":token", step=":")], saves={"t": "$t"}, **under(name)
        )
        wanted = model.generate(input_ids=torch.tensor([IDS]), max_new_tokens=6, do_sample=False)
        assert saved(engine, job)["t"].flatten().tolist() == wanted[0, len(IDS) :].tolist()
        top = build.call("top", "sum", "$logits")
        grad = {"kind": "grad", "id": "g", "of": "$top", "wrt": ["$e"]}
        nodes = [build.get("e", "embed:output"), LOGITS, top, grad]
        found = saved(engine, build.task(NAME, {"a": IDS}, *nodes, saves={"g": "$g.0"}, **under(name)))["g"]
        inputs = model.get_input_embeddings()(torch.tensor([IDS])).detach().requires_grad_()
        [wanted] = torch.autograd.grad(model(inputs_embeds=inputs).logits.sum(), inputs)
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6)


def test_a_job_that_trains_in_turns_has_its_adapter_back_at_every_turn(engine, build, saved):
    body = [
        {"kind": "get", "id": "h", "site": "blocks.1:resid_post", "invoke": "x"},
        call("sum", "add", "$h", "$v"),
        {"kind": "set", "id": "w", "site": "blocks.1:resid_post", "invoke": "x", "value": "$sum"},
        {"kind": "get", "id": "y", "site": "unembed:output", "invoke": "x", "index": [0, -1]},
        call("loss", "logsumexp", "$y", 0),
    ]
    trains = fit({"k": [1, 2, 3, 4]}, body, {"v": {"init": [0.0] * 64}}, {"loss": "$loss"}, runs=runs(x=IDS), steps=3)
    losses = {}
    for name in ("one", None):
        job = Task("long", build.graph(NAME, {}, nodes=[trains], saves={"l": "$f.loss"}, **under(name)))
        losses[name] = saved(engine, job)["l"]
        ended: list[Any] = []
        quiet = [lambda *told: None] * 3
        turns = Turns(engine, Desk(set, *quiet, Settled(ended.append)))
        turns.add(job)
        while len(turns):
            turns.turn(0.001)
            other = build.task(NAME, {"a": IDS}, LOGITS, **under("other" if name else "one"))
            saved(engine, other)
        assert torch.equal(ended[0].saved["l"], losses[name])
    assert not torch.equal(losses["one"], losses[None])


def test_no_job_leaves_its_adapter_behind_however_it_ends(engine, build, monkeypatch):
    wanted = plain_model()(input_ids=torch.tensor([IDS])).logits
    job = build.task(NAME, {"a": IDS}, LOGITS, **under("other"))
    monkeypatch.setattr(engine.model, "forward", lambda *a, **k: 1 / 0)
    [outcome] = engine.run([job])
    assert outcome.error is not None
    assert torch.equal(engine.loaded.module(input_ids=torch.tensor([IDS])).logits, wanted)
    assert not any(parameter.requires_grad for parameter in engine.loaded.module.parameters())


def test_modules_applied_to_values_are_those_of_the_adapter(engine, peft, build, saved):
    nodes = [build.get("x", "model.layers.2.mlp:input"), build.get("y", "model.layers.2.mlp:output")]
    nodes.append(build.module("z", "model.layers.2.mlp", "$x"))
    found = saved(engine, build.task(NAME, {"a": IDS}, *nodes, **under("other")))
    torch.testing.assert_close(found["z"], found["y"])


def test_an_adapter_that_there_is_not_is_refused_with_the_names_of_those_there_are(engine, gpt2, build):
    with pytest.raises(UnknownName, match=r"llama-random.* has no adapter 'french'; it has 'one', 'other'"):
        engine.plan(build.task(NAME, {"a": IDS}, LOGITS, **under("french")))
    with pytest.raises(UnknownName, match=r"has no adapter 'one'; it has none; leave 'adapter' out"):
        gpt2.plan(build.task("gpt2-random", {"a": IDS}, LOGITS, **under("one")))


def test_the_tree_keeps_its_names_and_shows_what_adapters_have_put_in(engine, engines):
    card = engine.card
    assert (card.adapters, card.adapter) == (("one", "other"), None)
    assert card.aliases.modules["blocks.*.attn"] == "model.layers.*.self_attn"
    plain = {one.path: one for one in engines(NAME).card.modules}
    query = "model.layers.0.self_attn.q_proj"
    assert card.by_path[query].output.leaves == plain[query].output.leaves
    assert card.by_path[f"{query}.base_layer"].output.leaves == plain[query].output.leaves
    inner = card.by_path[f"{query}.lora_A.one"]
    assert (inner.output, inner.params["weight"].shape) == (None, (2, 64))


def test_the_adapter_of_a_card_is_in_force_in_jobs_that_name_none(peft, build, saved, tmp_path):
    folder, alone = peft
    cards = [with_adapters(one=folder / "one", other=folder / "other")]
    cards.append(cards[0].model_copy(update={"adapter": "one"}))
    both, loaded = (load(card, cache=tmp_path) for card in cards)
    engine = Engine(loaded)
    for name in (None, "other"):
        found = saved(engine, build.task(NAME, {"a": IDS}, LOGITS, **under(name)))["logits"]
        assert torch.equal(found, alone[name or "one"](input_ids=torch.tensor([IDS])).logits)
    engine.close()
    assert len({loaded.revision, both.revision, load(LLAMA, cache=tmp_path).revision}) == 3


def test_adapters_without_peft_are_refused_by_name_before_anything_is_fetched(tmp_path, monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *more: None if name == "peft" else found(name, *more))
    with pytest.raises(LoadError, match=r"adapters need the package peft.*pip install peft"):
        load(with_adapters(one=tmp_path), cache=tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("q_proj", "absent", r"adapter .one. of .* does not fit the model"),
        (
            '"bias": "none"',
            '"bias": "all"',
            r"'one': bias is 'all', which trains the model's own; 'none' works",
        ),
        ('"init_lora_weights": false', '"init_lora_weights": "pissa"', r"is 'pissa', which changes the model's own"),
        ('"r": 2', '"r": 3', r"adapter .one. of .* does not fit the model"),
        ('"q_proj"', '"q_proj", "v_proj"', r"do not have the same weights \(.*v_proj\.lora_A"),
        ("{", "", r"adapter 'one': .*adapter_config\.json is not JSON"),
    ],
)
def test_an_adapter_that_does_not_fit_or_changes_the_model_itself_is_refused(peft, tmp_path, old, new, says):
    copy = shutil.copytree(peft[0] / "one", tmp_path / "one")
    text = (copy / "adapter_config.json").read_text()
    assert old in text
    (copy / "adapter_config.json").write_text(text.replace(old, new, 1))
    with pytest.raises(LoadError, match=says):
        load(with_adapters(one=copy), cache=tmp_path)


def test_a_folder_that_holds_no_adapter_is_refused_by_name(tmp_path):
    with pytest.raises(LoadError, match=r"adapter 'one'.*it has no 'adapter_config\.json'"):
        load(with_adapters(one=tmp_path), cache=tmp_path)


def test_adapters_are_found_beside_the_card_file(tmp_path):
    (tmp_path / "m.toml").write_text(
        'id = "m"\nsource = "config:llama"\ntokenizer = "bytes"\n[adapters]\none = "french"\n'
    )
    assert read_card(tmp_path / "m.toml").adapters == {"one": str(tmp_path / "french")}


def test_the_contents_of_adapters_tell_models_apart(tmp_path):
    names = ("adapter_config.json", "adapter_model.safetensors")
    for folder, text in (("a", "1"), ("b", "1"), ("c", "2")):
        (tmp_path / folder).mkdir()
        for name in names:
            (tmp_path / folder / name).write_text(text)
    first, same, other = (adapters_identity(with_adapters(one=tmp_path / folder)) for folder in "abc")
    assert first == same != other


def test_a_loader_takes_no_adapters():
    fields = {"id": "m", "source": "config:x", "kind": "module", "loader": "a:b", "adapters": {"one": "x"}}
    with pytest.raises(ValueError, match="a loader brings its own"):
        CardFile.model_validate(fields)
