"""The job that a worker runs before it says that it is ready."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from telepatch_broker.blobs import DirectoryBlobs
from telepatch_broker.connection import connect
from telepatch_broker.lane import Lane
from telepatch_worker.engine import Engine
from telepatch_worker.first_forward import first_task
from telepatch_worker.serving import Serving
from telepatch_worker.settings import Settings


@pytest.mark.parametrize("name", ["gpt2-random", "bert-random", "vit-digits", "mlp-digits"])
def test_it_runs_on_models_of_every_kind_of_input(engines: Callable[[str], Engine], name: str) -> None:
    engine = engines(name)
    [outcome] = engine.run([first_task(engine.loaded)])
    assert outcome.error is None
    assert outcome.saved is not None
    assert outcome.saved["last"].shape[0] == 1


async def test_a_model_that_cannot_run_is_found_out(redis_url: str, tmp_path: Any, gpt2: Engine) -> None:
    client = connect(redis_url)
    serving = Serving(gpt2, Lane(client, DirectoryBlobs(tmp_path)), "w1", Settings(model="gpt2-random"))
    assert await serving.tried(first_task(gpt2.loaded)) is None

    def broken(*args: Any) -> torch.Tensor:
        raise RuntimeError("no kernel image is available")

    hook = gpt2.loaded.module.get_submodule("transformer.h.1").register_forward_pre_hook(broken)
    try:
        error = await serving.tried(first_task(gpt2.loaded))
    finally:
        hook.remove()
    assert "no kernel image" in str(error)
    await client.aclose()
