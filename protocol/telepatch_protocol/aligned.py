"""Runs whose inputs must be equally long: positions of one input mean the same in the other only then."""

from __future__ import annotations

from collections.abc import Mapping

from telepatch_protocol.errors import ShapeError


def check_aligned(run: str, lengths: Mapping[str, object], shown: Mapping[str, str] | None = None) -> None:
    """Refuse inputs of different lengths, as far as they are known.

    Args:
        run: its id.
        lengths: number of tokens by invoke id; what is no integer is not known yet.
        shown: tokens as text, by invoke id, for the message.

    Raises:
        ShapeError: two inputs differ; it names the later one.
    """
    known = [(invoke, length) for invoke, length in lengths.items() if isinstance(length, int)]
    if not known:
        return
    first, wanted = known[0]
    for invoke, length in known[1:]:
        if length != wanted:
            pair = "; ".join(_described(one, size, shown or {}) for one, size in ((first, wanted), (invoke, length)))
            raise ShapeError(f"run '{run}' is aligned, but its inputs differ in length: {pair}", node=invoke)


def _described(invoke: str, length: int, shown: Mapping[str, str]) -> str:
    tokens = f" ({shown[invoke]})" if invoke in shown else ""
    return f"'{invoke}' has {length} tokens{tokens}"
