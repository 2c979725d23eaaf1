"""Words of nnsight that are not needed here, and what says the same: for people who come from there."""

from __future__ import annotations

from telepatch.names import missing_name
from telepatch_protocol.errors import TelepatchError

_EVERY = "what the block reads and writes happens at every step; 'with t.steps(1, 3):' and 'with t.step(0):' pick some"
_ONE = "a trace is one forward; steps are those of 'with model.generate(prompt) as t:'"
_BARRIER = "values flow between inputs in any direction, and are there when they are needed; leave it out"

OF_TRACES = {
    "stop": "the forward ends by itself after the last place that anyone needs; leave it out",
    "barrier": _BARRIER,
    "iter": _ONE,
    "all": _ONE,
    "next": _ONE,
    "result": "what the model returns is model.output",
}
OF_GENERATIONS = {
    "stop": "t.stop_if(condition) ends a generation after the step of which a value is true",
    "barrier": _BARRIER,
    "iter": _EVERY,
    "all": _EVERY,
    "next": _EVERY,
}
OF_MODULES = {
    "skip": "assign what it shall return, module.output = value: a module that everyone replaces does not run",
    "next": "a module that is called several times is module.calls[i]; steps are those of model.generate(...)",
}


def not_said(what: str, name: str, known: dict[str, str], names: list[str]) -> TelepatchError:
    """The error for a name that a block does not have, with what says the same if it is one of nnsight's.

    Args:
        what: the block, such as ``trace``.
        name: that was asked for.
        known: words of nnsight, with what to say instead.
        names: what it has.
    """
    hint = known.get(name) or f"it has {', '.join(names)}"
    return missing_name(f"a {what} has no '{name}'; {hint}")
