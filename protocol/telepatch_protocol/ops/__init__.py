"""The vocabulary: a closed table of operations with typed signatures.

`telepatch_protocol.ops.table` says what an operation is and `vocabulary` lists them. How shapes and dtypes follow is in
`rules` (elementwise operations, and what all share), `reductions`, `shaping`, `selecting`, `linear` and `making`. What
an operation costs is in `cost`, and `reference` writes the page that lists them all.
"""

from telepatch_protocol.ops.table import Op, Param, bind
from telepatch_protocol.ops.vocabulary import GROUPS, OPS, find_op

__all__ = ["GROUPS", "OPS", "Op", "Param", "bind", "find_op"]
