"""Results are copied to the host beside the forwards that go on; what arrives is what was saved."""

from __future__ import annotations

import pytest
import torch

from telepatch_worker import copies
from telepatch_worker.copies import Copies
from telepatch_worker.desk import Outcome

CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")


def test_on_a_processor_there_is_nothing_to_copy():
    outcome = Outcome("job", {"x": torch.ones(3)})
    assert Copies(torch.device("cpu")).begin(outcome) is outcome
    assert outcome.at_hand() is outcome.saved
    assert Outcome("job", None).at_hand() == {}


def test_what_is_on_its_way_is_waited_for():
    arrived = {"x": torch.zeros(3)}
    outcome = Outcome("job", {"x": torch.ones(3)}, copied=lambda: arrived)
    assert outcome.at_hand() is arrived


@CUDA
def test_values_arrive_in_pinned_memory_as_they_were_when_the_job_ended():
    value = torch.arange(1 << 20, device="cuda", dtype=torch.bfloat16).view(2, -1).t()
    strange = Outcome("job", {"x": value, "flag": torch.tensor(True), "none": torch.zeros(0, 4, device="cuda")})
    expected = {name: tensor.cpu() for name, tensor in strange.saved.items()}
    begun = Copies(torch.device("cuda")).begin(strange)
    busy = torch.randn(4096, 4096, device="cuda")
    for _ in range(50):
        busy = busy @ busy
    found = begun.at_hand()
    assert found["x"].is_pinned()
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor)


@CUDA
def test_large_results_are_copied_plainly(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(copies, "MOST_BYTES", 8)
    outcome = Outcome("job", {"x": torch.ones(3, device="cuda")})
    assert Copies(torch.device("cuda")).begin(outcome) is outcome
