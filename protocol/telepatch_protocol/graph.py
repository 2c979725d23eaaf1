"""The intervention graph: the document that a client sends and a worker runs, as frozen models.

A graph says *which forwards run* (`runs`), *what is read, computed and written around them* (`nodes`), and *what
comes back* (`saves`). Nodes are ordered by what they need, not by where they stand; only within one site does the order
in the document count. Prompts, tensors, numbers, indices and the numbers in site paths live in `constants`, so that
documents that differ only in these share one structure (`structure_key`).

Every kind of the language is in this schema. Those in `EXECUTED` run on this version of the service; the others are
refused by name.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from functools import cached_property
from typing import Annotated, Any, Literal

from pydantic import (
    FailFast,
    Field,
    JsonValue,
    SerializerFunctionWrapHandler,
    StringConstraints,
    model_serializer,
    model_validator,
)

from telepatch_protocol import PROTOCOL
from telepatch_protocol.card import Frozen
from telepatch_protocol.errors import TelepatchError
from telepatch_protocol.refs import NAME

Id = Annotated[str, StringConstraints(pattern=rf"^{NAME}$")]
"""Id of a node, run, invoke, constant, bound name or saved value; unique in the document."""

Arg = JsonValue
"""A JSON literal, a ``"$reference"``, a constant form, or a list of these."""

EditName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_][A-Za-z0-9._-]{0,63}$")]
"""Name of an edit, as its author chose it."""

_LINE = re.compile(r"\d{1,9}", re.ASCII)

Index = list[JsonValue]
"""Elements: integers, ``"a:b:c"`` with integers or references, ``"..."``, null for a new axis, lists, references."""


class Applied(Frozen):
    """An edit that an input runs with: one that the document brings along, or that its author has stored.

    An argument is a constant, or a reference to a value where the run stands.
    """

    name: EditName
    arguments: dict[Id, Arg] = Field(default_factory=dict)


class Invoke(Frozen):
    """One input's part of a run: exactly one of text, ids, messages or named tensors; literal or a value.

    A list of texts (or of lists of ids, or of lists of messages) of equal length in tokens gives several leading rows.
    `chat` has settings of the chat template, for messages: ``add_generation_prompt`` (true by default),
    ``continue_final_message``, ``tools``, ``documents``, and whatever else the template reads.
    `edits` are applied in their order, before what the document itself reads and writes there.
    """

    id: Id
    text: Arg = None
    ids: Arg = None
    messages: Arg = None
    inputs: dict[str, Arg] | None = None
    chat: dict[str, JsonValue] | None = None
    edits: tuple[Applied, ...] = Field(default=(), max_length=16)

    @model_validator(mode="after")
    def _one_input(self) -> Invoke:
        given = [name for name in ("text", "ids", "messages", "inputs") if getattr(self, name) is not None]
        if len(given) != 1:
            found = ", ".join(given) or "none"
            raise ValueError(f"invoke '{self.id}' needs exactly one of text, ids, messages, inputs; found {found}")
        if self.chat is not None and self.messages is None:
            raise ValueError(f"invoke '{self.id}' has settings of a chat template and no messages")
        return self

    @property
    def form(self) -> Literal["text", "ids", "messages", "inputs"]:
        """Which of the four it is."""
        if self.text is not None:
            return "text"
        if self.ids is not None:
            return "ids"
        return "messages" if self.messages is not None else "inputs"


class Each(Frozen):
    """A sub-graph evaluated at every step of a generation, with carried state."""

    state: dict[Id, Arg] = Field(default_factory=dict)
    nodes: Annotated[tuple[Written, ...], FailFast()] = ()
    carry: dict[Id, Arg] = Field(default_factory=dict)
    stop: Arg = None
    emit: dict[Id, Arg] = Field(default_factory=dict)
    out: dict[Id, Arg] = Field(default_factory=dict)


class Generate(Frozen):
    """Settings that make a run a generation instead of one forward; `stop` is texts and token ids."""

    max_new_tokens: Arg
    temperature: Arg = 0
    top_p: Arg = None
    top_k: Arg = None
    min_p: Arg = None
    repetition_penalty: Arg = None
    no_repeat_ngram_size: Arg = None
    min_new_tokens: Arg = None
    seed: Arg = None
    stop: Arg = None


class Run(Frozen):
    """One forward over its invokes, or the generation of one invoke."""

    id: Id
    invokes: Annotated[tuple[Invoke, ...], FailFast()]
    generate: Generate | None = None
    each: Each | None = None


class SubGraph(Frozen):
    """The document in small; it sees every value outside it."""

    runs: Annotated[tuple[Run, ...], FailFast()] = ()
    nodes: Annotated[tuple[Written, ...], FailFast()] = ()
    out: dict[Id, Arg] = Field(default_factory=dict)


class _Kinded(Frozen):
    """A node: its `kind` is always written, also where defaults are left out."""

    @model_serializer(mode="wrap")
    def _with_kind(self, plain: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {"kind": type(self).model_fields["kind"].default, **plain(self)}


class Get(_Kinded):
    """The value at a site, or of a parameter; `index` takes a part of it where it lies.

    `invoke` is left out for parameters. `step` is a step of a generation, or several as a slice; `call` is which of
    several firings of a module within one forward.
    """

    kind: Literal["get"] = "get"
    id: Id
    site: str
    invoke: Id | None = None
    index: Index | None = None
    step: Arg = None
    call: int | None = None


class Set(_Kinded):
    """Replace the value at a site, whole or by index; the value is broadcast and cast to what is there."""

    kind: Literal["set"] = "set"
    id: Id
    site: str
    invoke: Id | None = None
    value: Arg
    index: Index | None = None
    step: Arg = None
    call: int | None = None


class Call(_Kinded):
    """An operation of the vocabulary, with PyTorch's argument names."""

    kind: Literal["call"] = "call"
    id: Id
    op: str
    args: Annotated[tuple[Arg, ...], FailFast()] = ()
    kwargs: dict[str, Arg] = Field(default_factory=dict)


class Module(_Kinded):
    """A module of the model applied to values; not counted as a firing, and not intervened on."""

    kind: Literal["module"] = "module"
    id: Id
    path: str
    args: Annotated[tuple[Arg, ...], FailFast()] = ()
    kwargs: dict[str, Arg] = Field(default_factory=dict)


class Log(_Kinded):
    """Small values that are told to the job's owner as soon as they are computed; it has no value itself."""

    kind: Literal["log"] = "log"
    id: Id
    values: dict[Id, Arg] = Field(min_length=1, max_length=64)


class Grad(_Kinded):
    """Gradients of a one-element value with respect to values; `body` may edit the backward pass."""

    kind: Literal["grad"] = "grad"
    id: Id
    of: Arg
    wrt: Annotated[tuple[Arg, ...], FailFast()]
    body: SubGraph | None = None


Reduction = Literal["stack", "cat", "sum", "mean", "weighted", "max", "min"]


class Map(_Kinded):
    """A sub-graph once per element of `over`, zipped or as a grid; each output is reduced as asked."""

    kind: Literal["map"] = "map"
    id: Id
    over: dict[Id, Arg]
    grid: bool = False
    body: SubGraph
    reduce: dict[Id, Reduction] = Field(default_factory=dict)
    emit: dict[Id, Arg] = Field(default_factory=dict)


class Repeat(_Kinded):
    """A sub-graph n times, or while a carried scalar holds, up to n.

    `most`, since protocol 1.1, says how large an n that is computed may turn out: the job is priced by it.
    """

    kind: Literal["repeat"] = "repeat"
    id: Id
    n: Arg
    most: Arg = None
    carry: dict[Id, Arg] = Field(default_factory=dict)
    body: SubGraph
    while_: Arg = Field(default=None, alias="while")
    emit: dict[Id, Arg] = Field(default_factory=dict)


class Cond(_Kinded):
    """Choose between two values, or two sub-graphs without runs."""

    kind: Literal["cond"] = "cond"
    id: Id
    if_: Arg = Field(alias="if")
    then: SubGraph | Arg = Field(union_mode="left_to_right")
    else_: SubGraph | Arg = Field(alias="else", union_mode="left_to_right")


class Parameter(Frozen):
    """A tensor that a fit trains.

    Attributes:
        init: its value before the first step.
        constraint: what holds of it after every step: ``orthogonal`` (columns of a tall matrix, rows of a wide one, are
            orthonormal), ``unit_norm`` (vectors along `dim` have length 1), ``positive``.
        dim: of ``unit_norm``; the last axis if left out.
    """

    init: Arg
    constraint: Literal["orthogonal", "unit_norm", "positive"] | None = None
    dim: int | None = None


class Optimiser(Frozen):
    """How a fit steps; any number may be a value computed from the step."""

    name: Literal["sgd", "adam", "adamw"]
    lr: Arg
    betas: Arg = None
    eps: Arg = None
    weight_decay: Arg = None
    momentum: Arg = None
    clip_norm: Arg = None


class Buffer(Frozen):
    """The rows that a fit over a stream holds and mixes.

    Attributes:
        rows: how many; all of them, if left out, which only values and columns allow.
        refill: once less than this part of them is unused, the used ones make room for new ones.
    """

    rows: Arg = None
    refill: Arg = 0.5


class After(Frozen):
    """What happens after each update of a fit: changes of state, parameters and optimiser moments, and when to stop."""

    nodes: Annotated[tuple[Written, ...], FailFast()] = ()
    carry: dict[Id, Arg] = Field(default_factory=dict)
    reset_moments: dict[Id, Arg] = Field(default_factory=dict)
    stop: Arg = None


class Evaluate(Frozen):
    """A sub-graph evaluated after every so many steps, with the parameters as they are then."""

    every: Arg
    body: SubGraph


class Fit(_Kinded):
    """A repeat with an optimiser: trains `params` so that the body's ``loss`` falls.

    Without `buffer`, `over` binds names to elements as a `map` does, the body is that of one example, and its loss is
    reduced over a batch of `batch_size` examples. With `buffer`, `over` binds names to streams of rows (the ``cat``
    output of a `map`, a value, a column), and the body sees a batch of rows along the leading axis.
    """

    kind: Literal["fit"] = "fit"
    id: Id
    over: dict[Id, Arg]
    batch_size: Arg
    steps: Arg = None
    epochs: Arg = None
    shuffle: Arg = None
    buffer: Buffer | None = None
    params: dict[Id, Parameter]
    state: dict[Id, Arg] = Field(default_factory=dict)
    before: SubGraph | None = None
    optimiser: Optimiser
    body: SubGraph
    reduce: dict[Id, Reduction] = Field(default_factory=dict)
    after: After | None = None
    evaluate: Evaluate | None = None
    emit: dict[Id, Arg] = Field(default_factory=dict)
    checkpoint_every: Arg = None


class Generating(Frozen):
    """A generating run among the nodes of its scope: like a `map` it has a sub-graph, outputs, and needs.

    It is not written so; `lowered` makes it of a `Run`, with the reads and writes outside `each` that are of its steps.
    """

    kind: Literal["generate"] = "generate"
    id: Id
    invoke: Invoke
    generate: Generate
    each: Each


Written = Annotated[Get | Set | Call | Module | Log | Grad | Map | Repeat | Cond | Fit, Field(discriminator="kind")]
"""A node as a document holds it."""

Node = Get | Set | Call | Module | Log | Grad | Map | Repeat | Cond | Fit | Generating

KINDS: tuple[str, ...] = ("get", "set", "call", "module", "log", "grad", "map", "repeat", "cond", "fit")
"""Every kind of node in the language."""

EXECUTED: frozenset[str] = frozenset(KINDS)
"""The kinds that this version of the service runs."""


class ModelRef(Frozen):
    """Which model, and optionally which revision of it the graph was made for."""

    id: str = Field(min_length=1, max_length=200)
    revision: str | None = None


class Options(Frozen):
    """How a job is run.

    Attributes:
        exact: alone, without any saving of work: bit for bit what PyTorch hooks give in float32.
        isolate: in a batch of its own; implies `exact`.
        aligned: all prompts of a run must have the same number of tokens.
        adapter: which of the model's adapters is in force; the card says what is without one.
    """

    exact: bool = False
    isolate: bool = False
    aligned: bool = False
    adapter: str | None = Field(default=None, max_length=64)


class Graph(Frozen):
    """The whole document.

    `lines` maps node ids to ``file:line`` of the author's program, for error messages; `edits` are fragments by name,
    as `telepatch_protocol.fragments.Fragment` has them.
    """

    protocol: tuple[int, int] = (PROTOCOL[0], 0)
    model: ModelRef
    runs: Annotated[tuple[Run, ...], FailFast()] = ()
    nodes: Annotated[tuple[Written, ...], FailFast()] = ()
    saves: dict[Id, str]
    constants: dict[Id, JsonValue] = Field(default_factory=dict)
    options: Options = Options()
    lines: dict[str, str] = Field(default_factory=dict)
    edits: dict[EditName, JsonValue] = Field(default_factory=dict)

    def to_json(self) -> str:
        """The document as JSON text, defaults left out; `telepatch_protocol.wire.decode` reads it back."""
        return json.dumps(self.to_dict(), ensure_ascii=False, separators=(",", ":"))

    def to_dict(self) -> dict[str, JsonValue]:
        """The document as JSON values, defaults left out."""
        found = self.model_dump(mode="json", by_alias=True, exclude_defaults=True)
        return {"protocol": list(self.protocol)} | {key: value for key, value in found.items() if key != "protocol"}

    def with_constants(self, constants: Mapping[str, JsonValue]) -> Graph:
        """The same structure with other constants, of the same names."""
        found = self.model_copy(update={"constants": dict(constants)})
        if constants.keys() == self.constants.keys():
            found.__dict__["noted"] = self.noted
        return found

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Graph:
        """As pydantic's; what was worked out of the structure is not taken along."""
        found = super().model_copy(update=update, deep=deep)
        found.__dict__.pop("noted", None)
        return found

    def structure(self) -> str:
        """Everything but the constants' values and the author's lines, as JSON."""
        shape = self.model_dump(mode="json", by_alias=True, exclude={"constants", "lines"})
        shape["constants"] = sorted(self.constants)
        return json.dumps(shape, sort_keys=True, separators=(",", ":"))

    @cached_property
    def noted(self) -> dict[Any, Any]:
        """What was found out about the structure, shared by its variants; see `telepatch_protocol.structural`."""
        return {}

    @property
    def structure_key(self) -> str:
        """A digest of the structure: equal for variants of one shape."""
        key: str | None = self.noted.get("key")
        if key is None:
            key = self.noted["key"] = hashlib.sha256(self.structure().encode()).hexdigest()
        return key

    def place_of(self, node: str | None) -> tuple[str | None, int | None]:
        """File and line of a node in the author's program, where known."""
        return place_in(self.lines, node)

    def blame(self, error: TelepatchError, id: str | None) -> TelepatchError:
        """An error with the node or invoke that it concerns and the author's line, where it does not have them yet."""
        file, line = self.place_of(error.node or id)
        places = [one.place or self.lines.get(one.node) for one in error.within]
        error.within = tuple(
            one.model_copy(update={"place": place}) for one, place in zip(error.within, places, strict=True)
        )
        return error.at(node=id, file=file, line=line)


def place_in(lines: Mapping[str, object], id: str | None) -> tuple[str | None, int | None]:
    """File and line of a node or invoke, from the ``lines`` of a document, which may hold anything."""
    file, _, line = str(lines.get(id or "", "")).rpartition(":")
    return (file, int(line)) if file and _LINE.fullmatch(line) else (None, None)
