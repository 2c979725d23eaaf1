"""The vocabulary: a closed table of operations with typed signatures.

`telepatch_protocol.ops.table` says what an operation is, `groups` holds the rows and `vocabulary` gathers them. How
shapes and dtypes follow is in `rules` (arithmetic, and what all share) and `mathematics`, `reductions` and `moments`,
`shaping` and `arranging`, `selecting` and `placing`, `linear` and `matrices`, `losses`, `layers`, `making` and
`drawing`. What an operation costs is in `cost`, what it may make on its way in `room`, and `reference` writes the page
that lists them all.
"""

from telepatch_protocol.ops.table import Op, Param, bind
from telepatch_protocol.ops.vocabulary import GROUPS, OPS, find_op

__all__ = ["GROUPS", "OPS", "Op", "Param", "bind", "find_op"]
