"""Edits that the service keeps: sending them, with their arrays as uploads, and handles of those that are there."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from pydantic import JsonValue

from telepatch import uploading
from telepatch.applying import Travelling, Use
from telepatch.lines import points_home
from telepatch.uploading import File
from telepatch_protocol import data_files
from telepatch_protocol.errors import BadArgument
from telepatch_protocol.fragments import Argument, Fragment
from telepatch_protocol.tensors import Tensor

if TYPE_CHECKING:
    from telepatch.courier import Courier
    from telepatch.lab import Lab


class StoredEdit:
    """An edit of one's own that the service has; `Lab.edits` lists them.

    Attributes:
        name: by which traces apply it.
        model: whose sites it reads and writes.
        arguments: what it takes, with defaults where there are any.
        version: sha256 of its document; another one, once it is replaced.
        changed: Unix time at which it was stored.
    """

    def __init__(self, lab: Lab, found: Mapping[str, Any]) -> None:
        self._lab = lab
        self.name: str = found["name"]
        self.model: str = found["model"]
        self.arguments: dict[str, Any] = {name: one.get("default", ...) for name, one in found["arguments"].items()}
        self.version: str = found["version"]
        self.changed: float = found["changed"]

    @property
    def stored_as(self) -> str:
        """Its name."""
        return self.name

    @property
    def travelling(self) -> None:
        """It does not go with documents."""

    @property
    def takes(self) -> tuple[str, ...]:
        """Names of its arguments."""
        return tuple(self.arguments)

    @points_home
    def __call__(self, **given: Any) -> Use:
        """The edit with values for its arguments.

        Raises:
            UnknownName: an argument that it does not take.
        """
        return Use(self, given)

    @points_home
    def delete(self) -> None:
        """Have the service forget it; jobs that were submitted before have it in place.

        Raises:
            NotFound: it is gone already.
        """
        self._lab.delete_edit(self.name)

    def __repr__(self) -> str:
        return f"<edit '{self.name}' of {self.model}, takes {', '.join(self.arguments) or 'nothing'}>"


def store(courier: Courier, name: str, whole: Travelling, *, shown: bool | None) -> None:
    """Have the service keep an edit, with the arrays in it as uploads.

    Raises:
        BadArgument: an array that cannot be an upload.
        GraphError: the service says why it cannot be applied; nothing is stored.
    """
    files = {one: _file(tensor) for one, tensor in whole.tensors.items()}
    for file in files.values():
        with uploading.Sending(file, shown=shown) as progress:
            courier.run(lambda transport, file=file, told=progress.sent: uploading.send(transport, file, told))  # type: ignore[misc]
    courier.flush()
    document = with_uploads(whole.fragment, files).to_dict()
    courier.run(lambda transport: transport.ask("PUT", _path(name), document))


def forget(courier: Courier, name: str) -> None:
    """Have the service forget an edit."""
    courier.flush()
    courier.run(lambda transport: uploading.remove(transport, _path(name)))


def _path(name: str) -> str:
    return f"/v1/edits/{quote(name, safe='')}"


def with_uploads(fragment: Fragment, files: Mapping[str, File]) -> Fragment:
    """An edit whose attached tensors are uploads."""

    def stored(value: JsonValue) -> JsonValue:
        name = value.get("tensor") if isinstance(value, dict) else None
        return {"data": files[str(name)].digest} if name in files else value

    return fragment.model_copy(
        update={
            "constants": {name: stored(value) for name, value in fragment.constants.items()},
            "arguments": {name: Argument(default=stored(one.default)) for name, one in fragment.arguments.items()},
        }
    )


def _file(tensor: Tensor) -> File:
    if tensor.array.ndim == 0 or tensor.array.size == 0:
        raise BadArgument(f"an array of shape {tensor.array.shape} cannot be stored with an edit")
    data = data_files.encode({"values": tensor})
    return File(data, hashlib.sha256(data).hexdigest(), data_files.describe(data))
