"""What of the language this version of the service runs; the rest is refused by name."""

from __future__ import annotations

from telepatch_protocol.errors import BadArgument, NotYetSupported
from telepatch_protocol.graph import EXECUTED, Generating, Node, Run


def check_plain(run: Run) -> None:
    """Refuse inputs whose edits are not in place, which would run as if they had none."""
    for invoke in run.invokes:
        if invoke.edits:
            raise BadArgument(
                f"invoke '{invoke.id}' has edits, which `telepatch_protocol.expanding` puts in place before a check",
                node=invoke.id,
            )


def check_kind(node: Node) -> None:
    """Refuse kinds of nodes that are not executed yet."""
    if node.kind not in EXECUTED and not isinstance(node, Generating):
        raise NotYetSupported(
            f"node kind '{node.kind}' is part of the language, but not executed by this service yet; "
            f"executed: {', '.join(sorted(EXECUTED))}",
            node=node.id,
        )
