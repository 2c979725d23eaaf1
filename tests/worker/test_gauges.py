"""How a worker stands."""

from __future__ import annotations

import torch

from telepatch_worker.gauges import memory


def test_memory_of_a_processor_is_that_of_the_host_and_of_this_process():
    found = memory(torch.device("cpu"))
    assert 0 < found["used"] < found["total"]
    assert 0 < found["free"] <= found["total"]
