"""What goes wrong inside a job, as the errors that its author sees."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager

import structlog
import torch

from telepatch_protocol.errors import ExecutionError, OutOfMemory, TelepatchError
from telepatch_protocol.graph import Call, Graph, Invoke, Module, Node
from telepatch_protocol.within import Within

_log = structlog.get_logger(__name__)
_MOST = 400
_MEMORY = ("out of memory", "not enough memory", "can't allocate memory", "cannot allocate memory")


@contextmanager
def during(graph: Graph, node: Node | Invoke, within: tuple[Within, ...] = ()) -> Iterator[None]:
    """What is raised inside the block is about this node or input, and says so.

    Args:
        graph: the document.
        node: the node or input.
        within: which elements and steps of the nodes around it.

    Raises:
        TelepatchError: with the node, the author's file and line, and where inside the nodes around it.
    """
    try:
        yield
    except Exception as error:
        found = as_job_error(error, _name(node))
        found.within = found.within or within
        raise graph.blame(found, node.id) from None


def as_job_error(error: BaseException, what: str = "the job") -> TelepatchError:
    """Any exception as an error of a job."""
    if isinstance(error, TelepatchError):
        return error
    text = _first_lines(error)
    where = traceback.extract_tb(error.__traceback__)[-3:]  # the code's lines, never what a job's values were
    _log.info("job_raised", kind=type(error).__name__, at=[f"{frame.filename}:{frame.lineno}" for frame in where])
    if is_memory(error):
        return OutOfMemory(f"{what} does not fit into the worker's memory: {text}")
    return ExecutionError(f"{what} raised {type(error).__name__}: {text}")


def bare(error: TelepatchError) -> TelepatchError:
    """The error without its stack, which would keep alive every tensor that was in sight when it was raised."""
    error.__traceback__ = error.__context__ = error.__cause__ = None
    return error


def is_memory(error: BaseException) -> bool:
    """Whether it says that memory ran out."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError | OutOfMemory):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error).lower() for words in _MEMORY)


def _name(node: Node | Invoke) -> str:
    if isinstance(node, Call):
        return f"'{node.op}'"
    return f"module '{node.path}'" if isinstance(node, Module) else f"'{getattr(node, 'site', node.id)}'"


def _first_lines(error: BaseException) -> str:
    """The message without PyTorch's advice and stack."""
    text = str(error).partition("\nException raised from")[0].partition("\nCompile with")[0].strip()
    return text if len(text) <= _MOST else text[: _MOST - 3] + "..."
