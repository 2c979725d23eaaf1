"""Results that stay in memory for a while."""

from __future__ import annotations

import torch

from telepatch_worker.recent import EACH_BYTES, Recent

SMALL = 2 * EACH_BYTES
"""What a job with one value takes beside its numbers."""


def test_the_oldest_goes_when_there_is_too_much_and_use_makes_young():
    recent = Recent(2 * SMALL + 100)
    for name in ("a", "b"):
        recent.put(name, {"x": torch.zeros(10)})
    assert recent.get("a") is not None
    recent.put("c", {"x": torch.zeros(10)})
    assert recent.get("b") is None
    assert recent.get("a") is not None
    assert recent.get("c") is not None


def test_what_is_larger_than_everything_is_not_kept_and_pushes_nothing_out():
    recent = Recent(SMALL + 100)
    recent.put("a", {"x": torch.zeros(10)})
    recent.put("huge", {"x": torch.zeros(10_000)})
    assert recent.get("huge") is None
    assert recent.get("a") is not None


def test_the_same_job_again_counts_once():
    recent = Recent(SMALL + 100)
    for _ in range(5):
        recent.put("a", {"x": torch.zeros(20)})
    recent.drop("a")
    recent.put("b", {"x": torch.zeros(25)})
    assert recent.get("b") is not None


def test_very_many_small_ones_are_not_kept_for_the_sake_of_their_few_bytes():
    recent = Recent(100 * SMALL)
    for number in range(300):
        recent.put(str(number), {"x": torch.zeros(1)})
    assert sum(recent.get(str(number)) is not None for number in range(300)) < 100


def test_a_part_of_a_batch_does_not_keep_the_batch():
    batch = torch.arange(12.0).view(3, 4)
    recent = Recent(10**6)
    recent.put("a", {"row": batch[1], "all": batch, "same": torch.ones(1).expand(4)})
    kept = recent.get("a")
    assert kept["row"].tolist() == [4, 5, 6, 7]
    assert kept["row"].untyped_storage().nbytes() == 16
    assert kept["all"] is batch
    assert kept["same"].untyped_storage().nbytes() == 4
