"""Invokes side by side: padding on the right, masks only where needed, jobs of like length together."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch

from telepatch_worker.batch import groups, halves, pack, pieces, worthwhile
from telepatch_worker.layout import Rows, own_part, shareable

CPU = torch.device("cpu")


def ids(*rows):
    return torch.tensor(rows)


def test_rows_lie_one_below_the_other_padded_on_the_right(gpt2):
    batch = pack({"x": ids([1, 2, 3]), "y": ids([4], [5])}, gpt2.card, CPU, pad=9)
    assert batch.inputs["input_ids"].tolist() == [[1, 2, 3], [4, 9, 9], [5, 9, 9]]
    assert batch.rows == {"x": Rows(0, 1, 3, 3, 3), "y": Rows(1, 2, 1, 3, 3)}


def test_a_causal_model_needs_no_mask_and_an_encoder_only_where_lengths_differ(gpt2, engines):
    uneven, even = {"x": ids([1, 2]), "y": ids([3])}, {"x": ids([1, 2]), "y": ids([3, 4])}
    assert pack(uneven, gpt2.card, CPU).inputs.keys() == {"input_ids", "use_cache"}
    encoder = engines("bert-random").card
    assert pack(uneven, encoder, CPU).inputs["attention_mask"].tolist() == [[1, 1], [1, 0]]
    assert pack(even, encoder, CPU).inputs.keys() == {"input_ids"}
    assert "attention_mask" in pack(even, encoder, CPU, mask=True).inputs


def test_what_is_one_s_own_is_found_by_the_axes_and_not_by_sizes():
    rows = Rows(1, 2, 4, 4, 4)  # as many rows as positions, and as heads
    pattern = torch.arange(4**4).reshape(4, 4, 4, 4)
    part = own_part(pattern, ("row", 4, "pos", "pos"), rows)
    assert torch.equal(part, pattern[1:3])
    shorter = own_part(pattern, ("row", 4, "pos", "pos"), Rows(0, 1, 3, 4, 4))
    assert torch.equal(shorter, pattern[:1, :, :3, :3])
    assert torch.equal(own_part(pattern[:1], (1, 4, "pos", 4), Rows(2, 1, 2, 4, 4)), pattern[:1, :, :2])


@pytest.mark.parametrize(
    ("axes", "reads", "writes"),
    [
        (("row", "pos", 4), True, True),
        ((1, "pos", 4), True, False),
        (("row", None), False, False),
        (("row*pos", 8), False, False),
    ],
)
def test_a_place_can_be_shared_where_rows_can_be_told_apart(axes, reads, writes):
    assert shareable(axes, writes=False) is reads
    assert shareable(axes, writes=True) is writes


def test_jobs_of_like_length_run_together_within_the_limits_and_some_alone(gpt2, build):
    def plan(length, **options):
        inputs = {"a": [1] * length}
        return gpt2.plan(build.task("gpt2-random", inputs, build.get("h", "blocks.0:resid_post"), options=options))

    plans = [plan(10), plan(100), plan(9), plan(90), plan(3, exact=True)]
    found = [sorted(one.longest for one in group) for group in groups(plans, tokens=200, rows=8)]
    assert found == [[90, 100], [9, 10], [3]]
    assert [len(group) for group in groups(plans[:4], tokens=10_000, rows=3)] == [3, 1]
    assert [len(group) for group in groups(plans[:2], tokens=1, rows=1)] == [1, 1]


@dataclass(frozen=True)
class Sized:
    longest: int
    rows: int = 1
    kin: object = None


def test_rows_share_a_forward_as_long_as_padding_them_costs_less_than_another_one():
    given = [Sized(100), Sized(99), Sized(60), Sized(60, rows=2), Sized(10)]
    assert [len(piece) for piece in pieces(given, tokens=1000, rows=8)] == [5]
    assert [len(piece) for piece in pieces(given, tokens=1000, rows=8, padding=128)] == [4, 1]
    assert [len(piece) for piece in pieces(given, tokens=1000, rows=8, padding=50)] == [3, 2]
    assert [len(piece) for piece in pieces(given, tokens=1000, rows=8, padding=0)] == [1, 1, 2, 1]
    assert worthwhile(CPU) is not None
    assert worthwhile(torch.device("cuda")) is None


def test_a_batch_is_split_in_two():
    assert halves([1, 2, 3]) == ([1], [2, 3])
