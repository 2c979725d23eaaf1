"""What goes with a document: constants, and tensors that are sent along once however often they are used."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np
from pydantic import JsonValue

from telepatch.line_checker import LineChecker
from telepatch.lines import at_place, here
from telepatch_protocol.card import ModelCard
from telepatch_protocol.data import Columns
from telepatch_protocol.errors import GraphError
from telepatch_protocol.meta import UNKNOWN, Meta
from telepatch_protocol.tensors import Tensor

if TYPE_CHECKING:
    from telepatch.builder import Builder


class Attached:
    """Constants and tensors of one document; all of its scopes see them."""

    def __init__(self, card: ModelCard) -> None:
        self._card = card
        self.constants: dict[str, JsonValue] = {}
        self.tensors: dict[str, Tensor] = {}
        self.parents: dict[str, Builder] = {}
        self._metas: dict[str, Meta] = {}
        self._columns: dict[str, Columns] = {}
        self._uploads: dict[str, str] = {}
        self.checker = self._fresh()

    def constant(self, value: JsonValue) -> str:
        """Put a value where it is no part of the structure; gives the constant's id."""
        name = f"c{len(self.constants)}"
        try:
            with self.checker.at(0):
                self.checker.constant(name, value)
        except GraphError as error:
            raise at_place(error, here()) from None
        self.constants[name] = value
        return name

    def attach(self, tensor: Tensor) -> str:
        """Send an array along, once however often it is used; gives the id of a constant that stands for it."""
        shown = f"{tensor.dtype} {tensor.array.shape}".encode()
        digest = hashlib.sha256(shown + np.ascontiguousarray(tensor.array).tobytes()).hexdigest()[:32]
        name = f"t{digest}"
        self.tensors.setdefault(name, tensor)
        self._metas[name] = tensor.meta
        return self.constant({"tensor": name})

    def data(self, digest: str, columns: Columns) -> str:
        """Use data that the service holds; gives the id of the one constant that stands for it."""
        self._columns[digest] = columns
        if digest not in self._uploads:
            self._uploads[digest] = self.constant({"data": digest})
        return self._uploads[digest]

    def empty(self) -> None:
        """Forget what checking knew."""
        self.checker = self._fresh()

    def handed_over(self) -> None:
        """What was sent is no longer needed here."""
        self.tensors = {}
        self.parents = {}

    def _fresh(self) -> LineChecker:
        checker = LineChecker(self._card, attachment=self._metas, results=self._result_meta)
        checker.attachment = self._metas
        checker.data = self._columns
        checker.samples = {}
        return checker

    def _result_meta(self, job: str, name: str) -> Meta:
        parent = self.parents.get(job)
        return UNKNOWN if parent is None else parent.saved_meta(name)
