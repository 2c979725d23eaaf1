"""What a cache takes is known before it is filled."""

from __future__ import annotations

import pytest
import torch
from tests.worker.generating import CONFIGS, ids, tiny

from telepatch_worker.past import new_cache
from telepatch_worker.past_price import past_bytes


def taken(layer):
    states = [*getattr(layer, "conv_states", {}).values(), *getattr(layer, "recurrent_states", {}).values()]
    kept = [getattr(layer, name, None) for name in ("keys", "values")] + states
    return sum(tensor.nbytes for tensor in kept if tensor is not None)


@pytest.mark.parametrize("family", CONFIGS)
@pytest.mark.parametrize("positions", [6, 20])
def test_the_price_is_what_the_models_cache_takes(family, positions, tmp_path):
    engine = tiny(family, tmp_path)
    module, cache = engine.loaded.module, new_cache(engine.loaded.module)
    with torch.no_grad():
        module(input_ids=torch.tensor(ids(positions - 1, rows=3)), cache=cache, use_cache=True)
    real = sum(taken(layer) for layer in cache.layers)
    price = past_bytes(module.config, torch.float32, 3, positions)
    assert price == real if family != "mamba" else real <= price < 4 * real
    engine.close()
