"""Checking generations: their settings, their `each` at all the steps that it can see, and what comes out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pydantic import JsonValue

from telepatch_protocol import generating, refs
from telepatch_protocol.checked import Key, Scope
from telepatch_protocol.closing import close
from telepatch_protocol.errors import (
    BadArgument,
    DtypeError,
    GraphError,
    IndexOutOfRange,
    NotYetSupported,
    ShapeError,
    TooLarge,
)
from telepatch_protocol.generating import Settings, Steps, exists, spans_of, steps_of_all
from telepatch_protocol.graph import Generating, Grad, Node, SubGraph
from telepatch_protocol.inputs import Input
from telepatch_protocol.meta import Meta
from telepatch_protocol.sizes import Dim, Shape, Size, product
from telepatch_protocol.subgraphs import STEP, all_nodes, bodies_of, has_runs
from telepatch_protocol.told import check_told
from telepatch_protocol.within import Within

if TYPE_CHECKING:
    from telepatch_protocol.checker import Checker

MOST_SPANS = 64
"""In how many parts the steps of a generation may fall, between which different nodes exist."""


def check_generating(checker: Checker, node: Generating) -> dict[str, Meta]:
    """What the outputs of a generation will be.

    Raises:
        GraphError: a setting that cannot be, an `each` that cannot run at some step, or values that change their shape.
    """
    card = checker.card
    if card.kind != "causal" or card.inputs:
        what = "takes named tensors" if card.inputs else "is an encoder"
        raise NotYetSupported(f"model '{card.id}' {what}: it does not generate; a trace of it works")
    size = checker.sized(node.invoke)
    checker.check_id(node.invoke.id)
    checker.level.generated[node.invoke.id] = node.id
    settings = generating.settings(node.id, node.generate, checker.argument)
    _check_model(checker, node, settings, size)
    _check_nodes(node)
    steps = steps_of_all(node.each, settings.max_new_tokens, checker.lookup)
    spans = spans_of(steps.values(), settings.max_new_tokens)
    if len(spans) > MOST_SPANS:
        raise TooLarge(f"generation '{node.id}' has {len(spans)} parts of different steps; the limit is {MOST_SPANS}")
    return _Walk(checker, node, size, settings.max_new_tokens, steps).through(spans)


def _check_model(checker: Checker, node: Generating, settings: Settings, size: Input) -> None:
    card = checker.card
    most, wanted = card.limits.max_positions, settings.max_new_tokens
    room = most - (size.length if isinstance(size.length, int) else 1) + 1
    if wanted > room:
        raise BadArgument(
            f"generation '{node.id}' asks for {wanted} tokens after a prompt of {size.length!r}; model '{card.id}' has "
            f"{most} positions, so max_new_tokens of at most {room} works"
        )
    if settings.texts and card.tokenizer is None:
        raise BadArgument(
            f"generation '{node.id}' stops at {settings.texts[0]!r}, and model '{card.id}' has no tokenizer; stop at "
            "token ids"
        )
    wrong = [one for one in settings.tokens if not 0 <= one < card.vocabulary]
    if wrong:
        raise IndexOutOfRange(
            f"generation '{node.id}' stops at token {wrong[0]}; model '{card.id}' has 0 to {card.vocabulary - 1}"
        )


def _check_nodes(node: Generating) -> None:
    """Refuse what cannot happen while a generation goes on."""
    each = node.each
    for one in all_nodes(SubGraph(nodes=each.nodes)):
        if isinstance(one, Grad):
            raise NotYetSupported(
                "a generation keeps nothing for gradients; take the gradient in a forward over its tokens, as ids",
                node=one.id,
            )
        if any(has_runs(body.graph) for body in bodies_of(one)):
            raise BadArgument("'each' runs no other forward; run it before the generation, or after", node=one.id)
    for name in (*each.out, *each.state):
        if name in generating.RESERVED or (name in each.out and name in each.state):
            raise BadArgument(
                f"'{name}' is an output of generation '{node.id}' already, beside the state and "
                f"{', '.join(generating.RESERVED)}; choose another name"
            )
    for name in each.carry:
        if name not in each.state:
            raise BadArgument(f"'{name}' is carried and has no beginning in the state of generation '{node.id}'")


@dataclass(frozen=True, slots=True)
class _Step:
    """What is known of one step: its scope and what it gives to the outside and to the next step."""

    scope: Scope
    state: Mapping[str, Meta]


class _Walk:
    """Goes through the steps of a generation, as far as they differ."""

    def __init__(self, checker: Checker, node: Generating, size: Input, most: int, steps: Mapping[str, Steps]) -> None:
        self.checker = checker
        self.node = node
        self.size = size
        self.most = most
        self.steps = steps
        self.out: dict[str, tuple[Meta, int, int]] = {}

    def through(self, spans: list[Steps]) -> dict[str, Meta]:
        """What comes out."""
        node, level = self.node, self.checker.level
        state: Mapping[str, Meta] = {name: self.checker.written(value) for name, value in node.each.state.items()}
        scopes: dict[Key, Scope] = {}
        counts: dict[Key, int] = {}
        for begin, end in spans:
            found = self._span(begin, end, state)
            scopes[(begin,)], counts[(begin,)] = found.scope, end - begin
            for name, meta in found.scope.out.items():
                self._stacks(name, meta, begin, end)
            state = found.state
        level.bodies[node.id], level.counts[node.id] = scopes, counts
        return self._outputs(state)

    def _span(self, begin: int, end: int, state: Mapping[str, Meta]) -> _Step:
        """Check steps at which the same nodes exist: the first of them and the last."""
        found: _Step | None = None
        for step in dict.fromkeys((begin, end - 1)):
            try:
                one = self._step(step, state)
            except GraphError as error:
                raise error.inside(Within(kind="generation", node=self.node.id, step=step)) from None
            found = found or one
        assert found is not None
        if end - begin > 1:
            for name, before in state.items():
                self._check_state(name, before, found.state[name])
        return found

    def _step(self, step: int, state: Mapping[str, Meta]) -> _Step:
        checker, each = self.checker, self.node.each
        invoke = self.node.invoke.id
        checker.enter({**state, STEP: step})
        try:
            level = checker.level
            level.inputs[invoke] = Input(self.size.rows, self.size.length if step == 0 else 1)
            level.attended = None if step == 0 else Size.unknown(self._longest())
            level.stepping = True
            own = [one for one in each.nodes if self._here(one, step)]
            order = checker.take((), own)
            out = {name: checker.written(value) for name, value in each.out.items() if self._exists(value, step)}
            after = {
                name: checker.written(each.carry[name])
                if name in each.carry and self._exists(each.carry[name], step)
                else before
                for name, before in state.items()
            }
            self._check_ends(step)
            return _Step(close(checker, own, order, out, sampled=invoke), after)
        finally:
            checker.leave()

    def _longest(self) -> int:
        length = self.size.length
        return (length if isinstance(length, int) else self.checker.card.limits.max_positions) + self.most

    def _here(self, node: Node, step: int) -> bool:
        begin, end = self.steps[node.id]
        return begin <= step < end

    def _exists(self, value: JsonValue, step: int) -> bool:
        return exists(value, self.steps, step)

    def _check_ends(self, step: int) -> None:
        """Look at what is decided and emitted."""
        each = self.node.each
        if each.stop is not None and self._exists(each.stop, step):
            found = self.checker.written(each.stop)
            if found.shape is not None and isinstance(count := product(found.shape), int) and count != 1:
                raise ShapeError(f"a generation stops by one value; found {found}. Use all() or any()")
        for name, value in each.emit.items():
            if self._exists(value, step):
                check_told(name, self.checker.written(value), "emitted")

    def _check_state(self, name: str, before: Meta, after: Meta) -> None:
        if before.dtype and after.dtype and before.dtype != after.dtype:
            raise DtypeError(
                f"state '{name}' of generation '{self.node.id}' is {before} and becomes {after}; begin with a value of "
                f"that dtype, or convert it with .to('{before.dtype}')"
            )
        if not _alike(before.shape, after.shape):
            raise ShapeError(
                f"state '{name}' of generation '{self.node.id}' is {before} after the prompt and becomes {after}; "
                "shapes stay from then on. The prompt has all its positions and each later step one: '[:, -1]' is the "
                "last of either"
            )

    def _stacks(self, name: str, meta: Meta, begin: int, end: int) -> None:
        """Take in what an output is at some steps."""
        if name not in self.out:
            self.out[name] = (meta, begin, end)
            return
        before, first, _ = self.out[name]
        if before.dtype != meta.dtype or not _alike(before.shape, meta.shape):
            ref = refs.parse(self.node.each.out[name])
            raise ShapeError(
                f"'{name if ref is None else ref.id}' is {before} at step {first} and {meta} later, so its steps "
                "cannot be stacked. The prompt has all its positions, each later step one: read '[:, -1]', or only "
                "from step 1 on, '1:'",
                node=None if ref is None else ref.id,
            )
        self.out[name] = (before, first, end)

    def _outputs(self, state: Mapping[str, Meta]) -> dict[str, Meta]:
        rows, most = self.size.rows, self.most
        ran: Dim = Size.unknown(most)
        found = {
            "tokens": Meta((rows, ran), "int64"),
            "lengths": Meta((rows,), "int64"),
            "reasons": Meta((rows,), "int64"),
            "seed": Meta((), "int64"),
        }
        for name, (meta, begin, end) in self.out.items():
            lead: Dim = 1 if (begin, end) == (0, 1) else ran if (begin, end) == (0, most) else Size.unknown(end - begin)
            found[name] = Meta(None if meta.shape is None else (lead, *meta.shape), meta.dtype)
        return found | dict(state)


def _alike(one: Shape | None, other: Shape | None) -> bool:
    """Whether two shapes can be the same: not where sizes differ that nobody but the prompt decides."""
    if one is None or other is None:
        return True
    return len(one) == len(other) and all(a == b or _open(a) or _open(b) for a, b in zip(one, other, strict=True))


def _open(dim: Dim) -> bool:
    return isinstance(dim, Size) and any(name.startswith("?") for name, _ in dim.terms)
