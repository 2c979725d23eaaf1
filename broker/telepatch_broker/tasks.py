"""Functions that RQ may run: a fixed table of our own, and jobs that can name nothing else.

RQ by itself imports whatever dotted name it finds in Redis. Here a name is looked up in the table; a job with another
name, with an object to call a method of, with callbacks or with webhooks fails without any of it being touched.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from rq.job import Job

from telepatch_protocol.errors import Forbidden, NotFound

Task = Callable[..., Any]
"""A function, or one that returns a coroutine; takes and returns JSON."""

_NOT_OURS = (
    "success_callback_name", "failure_callback_name", "stopped_callback_name", "webhooks", "repeats_left",
    "dependency_id", "dependency_ids", "rate_limit_key", "group_id",
)  # fmt: skip
"""What our own jobs never have; names of functions to run, addresses to send to, or other jobs to set going."""


class Tasks:
    """The table.

    Args:
        functions: by name.
    """

    def __init__(self, functions: Mapping[str, Task]) -> None:
        self._functions = dict(functions)

    def __getitem__(self, name: object) -> Task:
        """The function of that name; raises NotFound for any other."""
        if not isinstance(name, str) or name not in self._functions:
            raise NotFound(f"there is no task {name!r}; there is {', '.join(sorted(self._functions))}")
        return self._functions[name]

    def job_class(self) -> type[TaskJob]:
        """The class of jobs that run functions of this table."""
        return type("TableJob", (TaskJob,), {"tasks": self})


class TaskJob(Job):
    """A job of RQ that runs a function of a table, or fails."""

    tasks = Tasks({})
    refused: str | None = None

    def restore(self, raw_data: Mapping[bytes, bytes]) -> Any:
        """Read what stands in Redis, without what our own jobs never have."""
        fields = {key: value for key, value in raw_data.items() if key.decode() not in _NOT_OURS}
        extra = {key.decode() for key, value in raw_data.items() if key not in fields and value not in (b"", b"[]")}
        if extra:
            self.refused = f"a task with {', '.join(sorted(extra))} is none of ours"
        return super().restore(fields)

    @property
    def func(self) -> Task:
        """The function of the table.

        Raises:
            Forbidden: the job is none of ours.
            NotFound: its name is not in the table.
        """
        if self.refused is not None:
            raise Forbidden(self.refused)
        if self.instance is not None:
            raise Forbidden("a task that calls a method of an object is none of ours")
        return self.tasks[self.func_name]

    @property
    def success_callback(self) -> None:
        """Never any."""

    @property
    def failure_callback(self) -> None:
        """Never any."""

    @property
    def stopped_callback(self) -> None:
        """Never any."""

    def send_webhooks(self, *arguments: Any, **more: Any) -> None:
        """Never any."""
