"""Small arguments cannot hide a large result: rules give its exact size, or refuse what is made on the way."""

from __future__ import annotations

import pytest

from telepatch_protocol.errors import TooLarge
from telepatch_protocol.meta import Meta
from telepatch_protocol.ops import bind, find_op
from telepatch_protocol.ops.room import MOST_ON_THE_WAY, need_room
from telepatch_protocol.sizes import Size

LINE = Meta((100_000,), "float32")
IDS = Meta((100_000,), "int64")
ROW = Meta((1, 1, 4), "float32")
IMAGE = Meta((1, 1, 4, 4), "float32")
LARGE = 10_000_000


@pytest.mark.parametrize(
    ("name", "args"),
    [
        ("repeat", (LINE, [LARGE])),
        ("tile", (LINE, [LARGE])),
        ("expand", (Meta((1,), "float32"), [LARGE])),
        ("broadcast_to", (Meta((1,), "float32"), [LARGE])),
        ("repeat_interleave", (LINE, 100)),
        ("outer", (LINE, LINE)),
        ("kron", (LINE, LINE)),
        ("one_hot", (IDS, LARGE)),
        ("bincount", (IDS, None, LARGE)),
        ("histc", (LINE, LARGE)),
        ("diag", (LINE,)),
        ("diag_embed", (LINE,)),
        ("diagflat", (LINE,)),
        ("block_diag", ([LINE, LINE, Meta((100_000, 1), "float32")],)),
        ("meshgrid", ([LINE, LINE],)),
        ("cartesian_prod", ([LINE, LINE],)),
        ("vander", (LINE, 1000)),
        ("cdist", (Meta((100_000, 1), "float32"), Meta((100_000, 1), "float32"))),
        ("pdist", (Meta((100_000, 1), "float32"),)),
        ("cov", (Meta((100_000, 2), "float32"),)),
        ("unfold", (LINE, 0, 50_000, 1)),
        ("pad", (ROW, [0, LARGE])),
        ("interpolate", (ROW, LARGE)),
        ("adaptive_avg_pool1d", (ROW, LARGE)),
        ("adaptive_max_pool2d", (IMAGE, 10_000)),
        ("conv1d", (ROW, Meta((1, 1, 1), "float32"), None, 1, LARGE)),
        ("tril_indices", (10_000, 10_000)),
        ("triu_indices", (10_000, 10_000)),
        ("logspace", (0, 1, LARGE)),
        ("multinomial", (LINE, LARGE, 0, True)),
    ],
)
def test_a_large_result_of_small_arguments_is_foretold(name: str, args: tuple[object, ...]) -> None:
    op = find_op(name)
    found = op.rule(bind(op, args, {}))
    first = next(iter(found.values())) if isinstance(found, dict) else found
    assert (first.bytes_at_most({}) or 0) >= LARGE


def test_what_the_data_decides_is_at_most_what_went_in() -> None:
    for name, args in (("unique", (LINE,)), ("masked_select", (LINE, Meta((100_000,), "bool")))):
        op = find_op(name)
        found = op.rule(bind(op, args, {}))
        assert isinstance(found, Meta)
        assert found.bytes() is None
        assert found.bytes_at_most({}) == LINE.bytes()


def test_what_is_made_on_the_way_is_bounded() -> None:
    need_room((MOST_ON_THE_WAY,), "scores")
    need_room((Size.symbol("n"), 2**40), "scores")
    need_room(None, "scores")
    with pytest.raises(TooLarge, match="makes scores of 536,870,912 numbers on its way, and 268,435,456 is the most"):
        need_room((MOST_ON_THE_WAY, 2), "scores")
