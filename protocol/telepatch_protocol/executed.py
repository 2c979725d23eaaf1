"""What of the language this version of the service runs; the rest is refused by name."""

from __future__ import annotations

from telepatch_protocol.errors import BadArgument, NotYetSupported
from telepatch_protocol.graph import EXECUTED, Node, Run


def check_run_kind(run: Run) -> None:
    """Refuse runs that are not executed yet."""
    if run.generate is not None or run.each is not None:
        raise NotYetSupported(f"run '{run.id}' is a generation, which this service does not execute yet", node=run.id)


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
    if node.kind not in EXECUTED:
        raise NotYetSupported(
            f"node kind '{node.kind}' is part of the language, but not executed by this service yet; "
            f"executed: {', '.join(sorted(EXECUTED))}",
            node=node.id,
        )
