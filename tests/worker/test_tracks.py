"""Which part of a batch's gradient belongs to a value."""

from __future__ import annotations

import torch

from telepatch_protocol.sites import Place
from telepatch_worker.layout import Rows
from telepatch_worker.moments import Moment
from telepatch_worker.tracks import place_track, value_track


def test_an_invokes_part_is_its_rows_and_its_positions():
    moment = Moment("h", "a", False, Place("layer", "output", ""), ("row", "pos", 2))
    whole = torch.arange(3 * 4 * 2.0).reshape(3, 4, 2)
    track = place_track(moment, whole, Rows(1, 2, 3, 3, 4), (0, "h"))
    assert torch.equal(track.part(whole), whole[1:3, :3])
    assert track.zeros().shape == (2, 3, 2)
    assert track.zeros().abs().sum() == 0


def test_a_piece_of_a_starred_site_knows_which_it_is():
    moment = Moment("h", "a", False, Place("layer", "output", ""), ("row", "pos", 2), part=5)
    assert place_track(moment, torch.zeros(1, 1, 2), Rows(0, 1, 1, 1, 1), (0, "h")).piece == 5


def test_the_gradient_of_a_computed_value_is_all_its_own():
    value = torch.ones(2, 3)
    track = value_track(value, (0, "v"))
    assert track.part(value) is value
    assert track.zeros().shape == (2, 3)
