"""The vocabulary: a closed table of operations with typed signatures.

`telepatch_protocol.ops.table` says what an operation is, `vocabulary` lists them; how shapes and dtypes follow is in
`rules` (elementwise operations and what all share), `reductions`, `shaping`, `selecting`, `linear` and `making`, and what
an operation costs in `cost`.
"""

from telepatch_protocol.ops.table import Op, Param, bind
from telepatch_protocol.ops.vocabulary import GROUPS, OPS, find_op

__all__ = ["GROUPS", "OPS", "Op", "Param", "bind", "find_op"]
