"""Weights in fewer bits: PyTorch's int8 is run, the others are refused by package where it is not installed."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch

from telepatch_worker.cards import CardFile, LoadError, Quantisation, read_card
from telepatch_worker.engine import Engine
from telepatch_worker.load import load
from telepatch_worker.quantised import check_quantisation, quantisation_options

MODELS = Path(__file__).parents[2] / "models"
PACKAGES = {"bitsandbytes": "bitsandbytes", "torchao": "torchao", "hqq": "hqq", "quanto": "optimum-quanto"}


def card(method: str, name: str = "llama-random", **options) -> CardFile:
    quantisation = Quantisation.model_validate({"method": method, **options})
    return read_card(MODELS / f"{name}.toml").model_copy(update={"quantisation": quantisation})


def there(package: str) -> bool:
    return importlib.util.find_spec(package.replace("optimum-quanto", "optimum")) is not None


@pytest.mark.parametrize("method", [one for one, package in PACKAGES.items() if not there(package)])
def test_a_method_whose_package_is_missing_is_refused_by_name_before_anything_is_fetched(method, tmp_path):
    file = card(method).model_copy(update={"source": "wheel:no-such-model==1.0", "sha256": "0" * 64, "file": "x"})
    with pytest.raises(LoadError, match=f"pip install {PACKAGES[method]}"):
        load(file, cache=tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


def test_the_options_are_those_of_transformers_own_class(monkeypatch):
    found = quantisation_options(card("bitsandbytes", load_in_8bit=True))["quantization_config"]
    assert found.load_in_8bit
    with pytest.raises(LoadError, match="HqqConfig refuses"):
        quantisation_options(card("hqq", wrong=1))


def test_pytorch_holds_linear_layers_in_int8_and_the_card_says_that_jobs_run_alone(tmp_path, build, saved):
    """The scale of an int8 layer's input is that of the whole batch, so company would move everybody's numbers."""
    plain, small = load(MODELS / "llama-random.toml", cache=tmp_path), load(card("torch-int8"), cache=tmp_path)
    assert type(small.module.model.layers[0].mlp.up_proj).__module__.startswith("torch.ao.nn.quantized")
    assert small.revision != plain.revision
    assert plain.card.shares
    assert not small.card.shares
    engine = Engine(small)
    ids = [[5, 6, 7, 8]], [[9, 10, 11, 12, 13]]
    jobs = [
        build.task(
            "llama-random",
            {"a": rows},
            build.set("model.layers.1.mlp:output", 0, [":", -1]),
            build.get("h", "model.layers.3.mlp.up_proj:output"),
            build.get("z", "lm_head:output"),
        )
        for rows in ids
    ]
    results = saved(engine, *jobs)
    engine.close()

    def zeroed(module, args, out):
        out = out.clone()
        out[:, -1] = 0
        return out

    handle = small.module.model.layers[1].mlp.register_forward_hook(zeroed)
    try:
        for rows, found in zip(ids, results, strict=True):
            with torch.no_grad():
                wanted = small.module(input_ids=torch.tensor(rows), use_cache=False).logits
            assert torch.equal(found["z"], wanted)
    finally:
        handle.remove()


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"dtype": "bfloat16"}, "torch-int8 works on the CPU in float32; the card has cpu and bfloat16"),
        (
            {"quantisation": Quantisation.model_validate({"method": "torch-int8", "bits": 4})},
            "has no options; found bits",
        ),
    ],
)
def test_what_pytorchs_int8_cannot_do_is_refused(changes, says):
    with pytest.raises(LoadError, match=says):
        check_quantisation(card("torch-int8").model_copy(update=changes), torch.device("cpu"))


def test_a_method_that_reads_weights_has_none_in_a_source_of_random_ones():
    fields = {"id": "m", "source": "config:gpt2", "tokenizer": "bytes", "quantisation": {"method": "hqq", "nbits": 4}}
    with pytest.raises(ValueError, match="quantises weights as they are read"):
        CardFile.model_validate(fields)
