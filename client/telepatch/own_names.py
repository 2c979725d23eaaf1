"""What an author calls places, as far as the rest of the client must know it; `telepatch.rename` has the names."""

from __future__ import annotations


class Names:
    """Names that an author may have chosen beside the model's own and the standard ones; here none."""

    def children(self, native: str) -> dict[str, tuple[str | int, ...]]:
        """Modules that are reached from a module by a chosen name, with their native paths."""
        return {}

    def ports(self, native: str) -> dict[str, str]:
        """Chosen names of ports of a module, with the native port that each means."""
        return {}

    def of(self, general: str) -> list[str]:
        """Chosen names of a path, whose numbers are stars."""
        return []

    def whole(self) -> list[tuple[str, str]]:
        """Every chosen name of a module as it was given, with the native path that it means."""
        return []


NO_NAMES = Names()
