"""Errors for names that do not exist: of the tree of errors, and what Python expects of a missing attribute."""

from __future__ import annotations

from telepatch.lines import placed
from telepatch_protocol.errors import TelepatchError, UnknownName, UnknownOperation, UnknownSite


class UnknownSiteName(UnknownSite, AttributeError):
    """An attribute of a model that is no module, port or parameter there; `hasattr` sees that it is missing."""

    @classmethod
    def code(cls) -> str:
        """As its base on the wire."""
        return UnknownSite.code()


class UnknownOperationName(UnknownOperation, AttributeError):
    """An attribute of a value that is no operation; `hasattr` sees that it is missing."""

    @classmethod
    def code(cls) -> str:
        """As its base on the wire."""
        return UnknownOperation.code()


class UnknownBoundName(UnknownName, AttributeError):
    """An attribute of a block that it does not bind; `hasattr` sees that it is missing."""

    @classmethod
    def code(cls) -> str:
        """As its base on the wire."""
        return UnknownName.code()


def missing_site(detail: str) -> TelepatchError:
    """The error for a mistyped path, at the author's line."""
    return placed(UnknownSiteName(detail))


def missing_operation(detail: str) -> TelepatchError:
    """The error for a mistyped method, at the author's line."""
    return placed(UnknownOperationName(detail))


def missing_name(detail: str) -> TelepatchError:
    """The error for a name that a block does not bind, at the author's line."""
    return placed(UnknownBoundName(detail))
