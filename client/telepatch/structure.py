"""Everything that a module takes or returns, where that is more than one tensor: parts by position and name."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from telepatch.current import open_builder
from telepatch.lines import points_home
from telepatch.names import missing_site
from telepatch.site import Address, SiteValue
from telepatch_protocol.card import Flow, PortCard


class Structure:
    """``module.outputs`` or ``module.inputs``: ``outputs[0]``, ``outputs["logits"]``, ``inputs.hidden_states``."""

    __slots__ = ("_address", "_prefix", "_side")
    _address: Address
    _side: PortCard | Flow
    _prefix: str

    def __init__(self, address: Address, side: PortCard | Flow, prefix: str = "") -> None:
        object.__setattr__(self, "_address", address)
        object.__setattr__(self, "_side", side)
        object.__setattr__(self, "_prefix", prefix)

    @points_home
    def __getitem__(self, key: int | str) -> Any:
        names = self._names()
        if isinstance(key, int) and key < 0:
            arity = self._side.arity if not self._prefix else None
            key += arity or len(names)
        path = f"{self._prefix}{key}"
        if any(leaf.path == path for leaf in self._side.leaves):
            leaf = path if self._address.leaf is None else f"{self._address.leaf}.{path}"
            return SiteValue(replace(self._address, leaf=leaf), open_builder())
        if any(leaf.path.startswith(f"{path}.") for leaf in self._side.leaves):
            return Structure(self._address, self._side, f"{path}.")
        shown = ", ".join(f"[{name}]" if name.isdigit() else f"['{name}']" for name in names)
        raise missing_site(f"{self._address.spelled()} has no tensor at [{key!r}]; there are: {shown or 'none'}")

    @points_home
    def __setitem__(self, key: int | str, value: Any) -> None:
        part = self[key]
        if not isinstance(part, SiteValue):
            raise missing_site(f"{self._address.spelled()}[{key!r}] holds several tensors; write them one by one")
        part._bound().write(value)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return self[name]

    def __setattr__(self, name: str, value: Any) -> None:
        self[name] = value

    def __len__(self) -> int:
        return len(self._names())

    def __iter__(self) -> Iterator[Any]:
        return iter([self[name] for name in self._names()])

    def __dir__(self) -> list[str]:
        return [name for name in self._names() if name.isidentifier()]

    def _ipython_key_completions_(self) -> list[str]:
        return self._names()

    def __repr__(self) -> str:
        lines = [
            f"  [{leaf.path}] {leaf.dtype} ({', '.join('?' if axis is None else str(axis) for axis in leaf.axes)})"
            for leaf in self._side.leaves
            if leaf.path.startswith(self._prefix)
        ]
        return "\n".join([f"<{self._address.site}", *lines, ">"])

    def _names(self) -> list[str]:
        rests = [leaf.path[len(self._prefix) :] for leaf in self._side.leaves if leaf.path.startswith(self._prefix)]
        return list(dict.fromkeys(rest.split(".")[0] for rest in rests))
