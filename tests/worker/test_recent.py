"""Results that stay in memory for a while."""

from __future__ import annotations

import torch

from telepatch_worker.recent import Recent


def test_the_oldest_goes_when_there_is_too_much_and_use_makes_young():
    recent = Recent(100)
    for name in ("a", "b"):
        recent.put(name, {"x": torch.zeros(10)})
    assert recent.get("a") is not None
    recent.put("c", {"x": torch.zeros(10)})
    assert recent.get("b") is None
    assert recent.get("a") is not None
    assert recent.get("c") is not None


def test_what_is_larger_than_everything_is_not_kept_and_pushes_nothing_out():
    recent = Recent(100)
    recent.put("a", {"x": torch.zeros(10)})
    recent.put("huge", {"x": torch.zeros(1000)})
    assert recent.get("huge") is None
    assert recent.get("a") is not None


def test_the_same_job_again_counts_once():
    recent = Recent(100)
    for _ in range(5):
        recent.put("a", {"x": torch.zeros(20)})
    recent.drop("a")
    recent.put("b", {"x": torch.zeros(25)})
    assert recent.get("b") is not None
