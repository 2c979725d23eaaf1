"""What people ask: five kinds of work, each a coroutine that sends it, waits, and looks at what came."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np

Ask = Callable[[Any, list[int]], Awaitable[np.ndarray[Any, Any]]]

LARGE_POSITIONS = 128
NEW_TOKENS = 8


async def small(model: Any, ids: list[int]) -> np.ndarray[Any, Any]:
    """Zero an MLP position, look at one number."""
    async with model.trace() as t, t.invoke(ids=ids):
        model.blocks[3].mlp.output[:, -1] = 0
        best = model.unembed.output[:, -1].amax().save()
    return np.asarray((await best).numpy())


async def medium(model: Any, ids: list[int]) -> np.ndarray[Any, Any]:
    """Read a layer and the last logits: what comes with the event."""
    async with model.trace() as t, t.invoke(ids=ids):
        hidden = model.blocks[2].resid_post.save()
        logits = model.unembed.output[:, -1].save()
    await hidden
    return np.asarray((await logits).numpy())


async def large(model: Any, ids: list[int]) -> np.ndarray[Any, Any]:
    """Every layer and all logits of a long prompt: a result that is a blob, and is fetched."""
    long = (ids * (LARGE_POSITIONS // len(ids) + 1))[:LARGE_POSITIONS]
    async with model.trace() as t, t.invoke(ids=long):
        layers = [model.blocks[at].resid_post.save() for at in range(4)]
        logits = model.unembed.output.save()
    for one in layers:
        await one
    return np.asarray((await logits).numpy()[:, -1])


async def chain(model: Any, ids: list[int]) -> np.ndarray[Any, Any]:
    """Two traces: the second writes what the first one read, without waiting for it."""
    async with model.trace() as t, t.invoke(ids=ids):
        clean = model.blocks[2].resid_post[:, -1].save()
    async with model.trace() as t, t.invoke(ids=ids[::-1]):
        model.blocks[2].resid_post[:, -1] = clean
        logits = model.unembed.output[:, -1].save()
    return np.asarray((await logits).numpy())


async def generation(model: Any, ids: list[int]) -> np.ndarray[Any, Any]:
    """Some tokens, steered at every step."""
    async with model.generate(ids=ids, max_new_tokens=NEW_TOKENS):
        model.blocks[2].resid_post[:, -1] *= 0.9
        logits = model.unembed.output[:, -1].save()
    # Of random weights, later tokens may hang on the last bit; the first step does not.
    return np.asarray((await logits).numpy()[0])


KINDS: dict[str, Ask] = {"small": small, "medium": medium, "large": large, "chain": chain, "generation": generation}
SHARES = {"small": 0.4, "medium": 0.25, "large": 0.1, "chain": 0.15, "generation": 0.1}
"""How much of all that is asked each kind is."""
