"""Generation through the whole service: the same tokens as transformers, streamed while they are made."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import telepatch
from telepatch.lab import Lab
from telepatch_protocol.errors import BadArgument, Cancelled, ExecutionError
from telepatch_worker.load import Loaded, load

PROMPT = "When Mary and John went to the store"
MODEL = "llama-random"


@pytest.fixture(scope="module")
def lab(service_url: str) -> Iterator[Lab]:
    """One connection for all of them."""
    with telepatch.connect(service_url, progress=False) as lab:
        yield lab


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    """The same weights, here."""
    return load(Path(__file__).parents[2] / "models" / f"{MODEL}.toml", cache=tmp_path_factory.mktemp("weights"))


def plain(local: Loaded, prompt: str, new: int, change: Any = None) -> list[int]:
    """What transformers generates, with a hook on the second block."""
    given = torch.tensor([local.tokenizer(prompt)["input_ids"]])
    handles = []
    if change is not None:
        handles.append(local.module.model.layers[1].register_forward_hook(lambda module, args, out: change(out)))
    try:
        made: Any = local.module.generate(
            given, attention_mask=torch.ones_like(given), max_new_tokens=new, do_sample=False, pad_token_id=0
        )
    finally:
        for handle in handles:
            handle.remove()
    return [int(token) for token in made[0, given.shape[1] :]]


def test_greedy_tokens_and_text_are_those_of_transformers(lab: Lab, local: Loaded) -> None:
    model = lab.model(MODEL)
    with model.generate(PROMPT, max_new_tokens=12) as t:
        logits = model.lm_head.output[:, -1].save()
    expected = plain(local, PROMPT, 12)
    assert t.generated.numpy().tolist() == [expected]
    assert t.result == model.detokenize(expected)
    assert t.reasons == ["length"]
    assert logits.shape == (12, 1, model.card.vocabulary)
    assert logits.numpy().argmax(-1)[:, 0].tolist() == expected


def test_steering_at_every_step_and_at_chosen_steps_is_what_a_hook_does(lab: Lab, local: Loaded) -> None:
    model = lab.model(MODEL)
    rng = np.random.default_rng(0)
    push = 3 * rng.standard_normal(64).astype(np.float32)
    with model.generate(PROMPT, max_new_tokens=10) as every:
        model.blocks[1].output += push
    with model.generate(PROMPT, max_new_tokens=10) as some, some.steps(2, 4):
        model.blocks[1].output[:, -1] += push
    with model.generate(PROMPT, max_new_tokens=10) as free:
        pass
    steps = iter(range(99))
    vector = torch.from_numpy(push)
    assert every.generated.numpy()[0].tolist() == plain(local, PROMPT, 10, lambda out: out + vector)
    assert some.generated.numpy()[0].tolist() == plain(
        local, PROMPT, 10, lambda out: out + vector if next(steps) in (2, 3) else out
    )
    assert every.result != free.result != some.result


def test_steps_are_streamed_in_order_while_they_are_made(lab: Lab) -> None:
    model = lab.model(MODEL)
    states = []
    with model.generate(PROMPT, max_new_tokens=150) as t:
        norm = model.blocks[2].output[:, -1].norm()
        t.emit(norm=norm)
        norm.save("norm")
    events = []
    for event in t.stream():
        if not events:
            states.append(lab.status(t).state)
        events.append(event)
    assert states == ["running"]
    assert [event.step for event in events] == list(range(150))
    assert [event.token for event in events] == t.generated.numpy()[0].tolist()
    assert np.allclose([event.norm for event in events], norm.numpy(), rtol=1e-6)
    assert "".join(event.text for event in events) == t.result[: len("".join(event.text for event in events))]
    with pytest.raises(AttributeError, match="there is no 'score'"):
        _ = events[0].score
    assert [event.token for event in t.stream()] == [event.token for event in events]  # once more, from the beginning


def test_a_probe_that_fires_steers_and_stops(lab: Lab) -> None:
    model = lab.model(MODEL)
    rng = np.random.default_rng(1)
    w, v = rng.standard_normal(64).astype(np.float32), rng.standard_normal(64).astype(np.float32)
    with model.generate(PROMPT, max_new_tokens=30) as free:
        scores = (model.blocks[2].output[:, -1] @ w).save()
    found = scores.numpy()[:, 0]
    fires = int(found[:20].argmax())
    with model.generate(PROMPT, max_new_tokens=30) as t:
        fired, since = t.state(False), t.state(0)
        h = model.blocks[2].output
        score = (h[:, -1] @ w).save()
        fired.set(fired | (score > float(found[fires]) - 1e-4).any())
        since.set(since + fired)
        h[:, -1] = telepatch.where(fired, h[:, -1] - 6 * v, h[:, -1])
        t.stop_if(since > 2)
        since.save()
    first = int((found > found[fires] - 1e-4).argmax())
    assert len(score.numpy()) == first + 3
    assert np.allclose(score.numpy()[: first + 1, 0], found[: first + 1], atol=1e-4)
    assert (t.reasons, int(since)) == (["asked"], 3)
    assert free.reasons == ["length"]


def test_several_invokes_sample_by_their_own_seeds_whatever_the_company(lab: Lab) -> None:
    model = lab.model(MODEL)
    with model.generate(max_new_tokens=8, temperature=1.0) as t:
        with t.invoke(PROMPT, seed=5) as a:
            pass
        with t.invoke("Something else", seed=6, top_p=0.9) as b:
            pass
        with t.invoke(PROMPT, seed=5, max_new_tokens=4) as c:
            pass
        with t.invoke("Nobody chose") as d:
            d.seed.save("chosen")
    with model.generate(PROMPT, max_new_tokens=8, temperature=1.0, seed=5) as alone:
        pass
    assert a.generated.numpy().tolist() == alone.generated.numpy().tolist()
    assert c.generated.numpy().tolist() == [a.generated.numpy()[0, :4].tolist()]
    assert t.result == [a.result, b.result, c.result, d.result]
    with model.generate("Nobody chose", max_new_tokens=8, temperature=1.0, seed=int(d.seed)) as again:
        pass
    assert again.result == d.result


def test_tokens_can_be_forced_and_a_stop_text_ends(lab: Lab, local: Loaded) -> None:
    model = lab.model(MODEL)
    forced = [10, 20, 30]
    with model.generate(PROMPT, max_new_tokens=3) as t, t.steps() as step:
        t.token = telepatch.tensor(forced)[step.index]
    assert t.generated.numpy().tolist() == [forced]
    text = local.tokenizer.decode(plain(local, PROMPT, 12))
    with model.generate(PROMPT, max_new_tokens=12, stop=[text[4:6]]) as t:
        pass
    assert t.reasons == ["stop"]
    assert text[4:6] in t.result


def test_a_generation_of_a_session_feeds_a_trace(lab: Lab) -> None:
    model = lab.model(MODEL)
    with model.session():
        with model.generate(PROMPT, max_new_tokens=6) as t:
            seen = model.blocks[3].output[:, -1]
        with model.trace(t.generated):
            logits = model.lm_head.output[:, -1].save()
        mean = seen.mean(0).save()
    assert logits.shape == (1, model.card.vocabulary)
    assert mean.shape == (1, 64)
    with model.trace(ids=t.generated.numpy()[0].tolist()):
        again = model.lm_head.output[:, -1].save()
    assert np.allclose(logits.numpy(), again.numpy(), atol=1e-5)


def test_a_sweep_of_temperatures(lab: Lab) -> None:
    model = lab.model(MODEL)
    with model.sweep(warm=[0.0, 0.7]) as v, model.generate(PROMPT, max_new_tokens=5, temperature=v.warm, seed=1) as t:
        tokens = t.generated.save()
    assert tokens.numpy().shape == (2, 1, 5)
    with model.generate(PROMPT, max_new_tokens=5, temperature=0.7, seed=1) as t:
        pass
    assert tokens.numpy()[1].tolist() == t.generated.numpy().tolist()


def test_a_generation_that_fails_or_is_cancelled_ends_its_stream_with_the_reason(lab: Lab) -> None:
    model = lab.model(MODEL)
    with model.generate([PROMPT] * 64, max_new_tokens=90) as t:
        pass
    seen = 0
    with pytest.raises(Cancelled):
        for event in t.stream():
            seen = event.step
            if event.step == 3:
                lab.cancel(t)
    assert 3 <= seen < 89
    with model.generate(PROMPT, max_new_tokens=4) as t:
        with t.step(3):
            late = model.blocks[0].output.save()
        with t.steps() as step:
            t.stop_if(step.index * 1 > 0)
    with pytest.raises(ExecutionError, match="never reached: the generation took 2"):
        late.numpy()
    with pytest.raises(ExecutionError, match="never reached"):
        list(t.stream())


def test_a_setting_that_cannot_be_is_refused_before_anything_is_sent(lab: Lab) -> None:
    model = lab.model(MODEL)
    with (
        pytest.raises(BadArgument, match="temperature is -1"),
        model.generate(PROMPT, max_new_tokens=4, temperature=-1),
    ):
        pass


def test_async(service_url: str) -> None:
    async def main() -> tuple[list[int], list[int]]:
        async with telepatch.connect(service_url, progress=False) as lab:
            model = await asyncio.to_thread(lab.model, MODEL)
            async with model.generate(PROMPT, max_new_tokens=20) as t:
                model.blocks[0].output[:, -1] *= 0.5
            events = [event.token async for event in t.stream()]
            return events, (await t.generated).tolist()[0]

    streamed, kept = asyncio.run(main())
    assert streamed == kept
