"""`model.generate`: token by token, with reads, writes, state and decisions at every step."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import TracebackType
from typing import Any

from telepatch import arguments, operations
from telepatch.applying import Use, edits_on_wire
from telepatch.builder import Builder
from telepatch.columns import wire_name
from telepatch.current import open_builder
from telepatch.lines import points_home
from telepatch.loops import Step
from telepatch.prompt_tokens import tokens_of
from telepatch.reduced import Later
from telepatch.sampling import generate
from telepatch.scope import Forward, Scope
from telepatch.state import State
from telepatch.streams import Stream
from telepatch.tokens import TokenRows, Tokens
from telepatch.trace import input_on_wire
from telepatch.values import Value
from telepatch_protocol.errors import BadArgument, NotSaved, TraceError
from telepatch_protocol.generating import REASONS
from telepatch_protocol.graph import Arg, Each, Generating, Invoke, Node
from telepatch_protocol.inputs import Input
from telepatch_protocol.meta import Meta
from telepatch_protocol.sites import TOKEN
from telepatch_protocol.sizes import Size
from telepatch_protocol.subgraphs import STEP

_SAVED = ("tokens", "lengths", "reasons")
"""What is always sent back, where it is one generation's: small, and what `result` is made of."""

_TOLD = frozenset({"run", "at", "step", "token", "tokens", "text"})
"""What every event of a stream has."""


class Span:
    """Some steps of a generation; ``step.index`` is the number of the one that is going on: 0 for the prompt."""

    def __init__(self, index: Step) -> None:
        self.index = index


class Generation:
    """One input that generates: what its block reads and writes happens at every step.

    Step 0 is the forward over the prompt, with all its positions; step k is the forward over token k, with one. So
    ``[:, -1]`` is the newest position at any step. Values that are made inside and saved, or used after the block,
    are stacked over the steps, on a new leading axis.
    """

    what = "generation"

    def __init__(
        self, builder: Builder, form: dict[str, Any], settings: Mapping[str, Any], edits: tuple[Use, ...] = ()
    ) -> None:
        self._edits = edits
        self._builder = builder
        self._form = form
        self._settings = settings
        self._scope: Scope | None = None
        self._invoke: Invoke | None = None
        self._states: list[State] = []
        self._emit: dict[str, Arg] = {}
        self._stop: Value | None = None
        self._stop_ref: str | None = None
        self._saved: dict[str, Value] = {}

    # Inside the block

    @points_home
    def state(self, start: Any) -> State:
        """A value that each step begins with as the last one left it: ``fired = t.state(False)``.

        Args:
            start: what it is at step 0: a number, an array, or a value from outside the generation.

        Returns:
            The value; ``fired.set(new)`` renews it. After the block it is what the last step has left.

        Raises:
            TraceError: outside the block, or a start that is made inside it.
        """
        scope = self._open("state()")
        if isinstance(start, Value) and start._scope is not None and start._scope is scope:
            raise TraceError("a state begins before the generation does; give it a number, or a value from outside")
        builder = self._builder
        first = arguments.argument(builder, "operand", start)
        wire = wire_name(builder, "state", [one.wire for one in self._states])
        meta = builder.checker.written(first)
        builder.checker.values[wire] = meta
        state = State(builder, wire, meta, scope, first)
        self._states.append(state)
        return state

    @contextmanager
    def steps(self, start: Any = 0, stop: Any = None) -> Iterator[Span]:
        """Steps from `start` on and before `stop`: what stands inside is read and written at these only.

        Args:
            start: the first; 0 is the forward over the prompt.
            stop: the first that is none of them any more; to the end if left out.
        """
        whole = stop is None and isinstance(start, int) and start == 0
        ends = [] if whole else [self._bound(start), "" if stop is None else self._bound(stop)]
        with self._during(None if whole else ":".join(ends)) as steps:
            yield steps

    @contextmanager
    def step(self, number: Any) -> Iterator[Span]:
        """One step only."""
        with self._during(self._bound(number)) as steps:
            yield steps

    @points_home
    def emit(self, **values: Any) -> None:
        """Have small values sent while the generation goes on, at every step: ``stream()`` gives them.

        Args:
            values: by name; at most 1,024 numbers each.
        """
        self._open("emit()")
        for name, value in values.items():
            if name in self._emit or name in _TOLD:
                raise BadArgument(f"'{name}' is streamed already; choose another name")
            self._emit[name] = arguments.argument(self._builder, "operand", value)

    @points_home
    def stop_if(self, condition: Any) -> None:
        """End this generation after the step at which one value is true; the token of that step is its last."""
        self._open("stop_if()")
        if not isinstance(condition, Value):
            raise BadArgument(f"a generation stops by a value that is made in its block; found {condition!r}")
        either = (self._stop, condition)
        both = condition if self._stop is None else operations.apply_in(self._builder, "logical_or", either, {})
        self._stop, self._stop_ref = both, both.reference_in(self._builder)

    @property
    @points_home
    def token(self) -> Value:
        """The tokens that this step has sampled: int64 (rows,). Assigned, they are what the model reads next."""
        scope = self._open("token")
        assert self._invoke is not None
        builder = self._builder
        node, found = builder.get(f":{TOKEN}", self._invoke.id, None, None, builder.slot(), scope, scope.span)
        return Value(builder, node, found if isinstance(found, Meta) else Meta(None, None), scope)

    @token.setter
    def token(self, value: Any) -> None:
        self._force(value)

    @points_home
    def _force(self, value: Any) -> None:
        scope = self._open("token")
        assert self._invoke is not None
        written = arguments.written(self._builder, value)
        self._builder.set(f":{TOKEN}", self._invoke.id, None, None, written, scope.span)

    # What comes out

    @property
    @points_home
    def generated(self) -> Value:
        """The generated token ids, int64 (rows, steps): to be saved, or the input of a later trace of the same job.
        Rows that ended before the others are padded."""
        return self._output("tokens")

    @property
    @points_home
    def tokens(self) -> Tokens | TokenRows:
        """Tokens of the prompt: ``t.tokens.find("Mary")`` is a position at step 0."""
        if self._invoke is None:
            raise TraceError("a prompt has tokens once its block has begun")
        return tokens_of(self._builder, self._invoke.id)

    @property
    @points_home
    def lengths(self) -> Value:
        """How many tokens each row has, the one that ended it included: int64 (rows,)."""
        return self._output("lengths")

    @property
    @points_home
    def seed(self) -> Value:
        """The seed of its random numbers, also where none was given; -1 where the likeliest tokens were taken."""
        return self._output("seed")

    @property
    @points_home
    def reasons(self) -> list[str]:
        """After the block: why each row ended. ``"length"``, ``"eos"``, ``"stop"``, ``"positions"`` (the model has no
        more) or ``"asked"`` (by `stop_if`)."""
        return [REASONS[int(one)] for one in self._looked("reasons")]

    @property
    @points_home
    def result(self) -> Any:
        """After the block: the generated text, or of several rows a list of texts; a final end-of-text token is left
        out."""
        lab = self._builder.lab
        lengths, reasons = self._looked("lengths"), self.reasons
        rows = [
            [int(token) for token in row[: length - (reason == "eos")]]
            for row, length, reason in zip(self._looked("tokens"), lengths, reasons, strict=True)
        ]
        if lab is None:
            raise TraceError("this generation was only exported, not submitted, so it has no results")
        texts = lab.detokenize(self._builder.card.id, rows)
        return texts[0] if len(texts) == 1 else texts

    @points_home
    def stream(self) -> Stream:
        """After the block: what each step gives, as it comes; for ``for`` and ``async for``.

        Returns:
            Events with ``step``, ``token`` and ``text`` (of several rows lists of them), and what `emit` named.
        """
        outcome = self._builder.outcome
        if outcome is None:
            raise TraceError("nothing has been submitted yet; stream() goes on after the block")
        return Stream(outcome, self._run())

    # How it works

    @points_home
    def __enter__(self) -> Generation:
        builder = self._builder
        if builder is not open_builder() or self._scope is not None:
            raise TraceError("an invoke belongs inside the block of its own generation, and is used once")
        if builder.scope.kind == "generate":
            raise TraceError("a generation is open already; end its block before the next begins")
        if not self._form:
            raise BadArgument("a generation needs an input: text or token ids")
        settings = generate(builder, self._settings)
        (name, value), *_ = self._form.items()
        edits = edits_on_wire(builder, self._edits)
        invoke = self._invoke = Invoke(id=builder.fresh("x"), **input_on_wire(builder, name, value), **edits)
        builder.given[invoke.id] = (name, value)
        size = builder.checker.sized(invoke)

        def make(scope: Scope) -> Node:
            return Generating(id=scope.node, invoke=invoke, generate=settings, each=self._each(scope))

        ran = Size.unknown()
        bound: dict[str, object] = {STEP: Meta((), "int64")}
        scope = self._scope = builder.open("generate", self.what, make, bound, (ran,), node=builder.fresh("r"))
        here = Input(size.rows, Size.unknown())
        level = builder.checker.level
        level.inputs[invoke.id], level.stepping, level.attended = here, True, Size.unknown()
        builder.sizes[invoke.id] = here
        scope.forward, scope.invoke = Forward(scope.node, [invoke]), invoke.id
        if scope.opened is not None:
            builder.places[invoke.id] = scope.opened
        return self

    @points_home
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        scope = self._scope
        if scope is None:
            return
        if error is not None:
            self._builder.give_up(error)
            return
        scope.fixed = frozenset(one.wire for one in self._states)
        self._builder.close(scope)
        for state in self._states:
            state.end(scope)
        if scope.parent is self._builder.root:
            self._save(scope)

    async def __aenter__(self) -> Generation:
        return self.__enter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.__exit__(kind, error, traceback)

    def _each(self, scope: Scope) -> Each:
        return Each(
            state={one.wire: one.first for one in self._states},
            nodes=scope.nodes(),
            carry={one.wire: one.next for one in self._states if one.next is not None},
            stop=self._stop_ref,
            emit=self._emit,
            out=scope.out,
        )

    def _save(self, scope: Scope) -> None:
        for name in _SAVED:
            ref = f"${scope.node}.{name}"
            if self._builder.name_of(ref) is None:
                free = name if name not in self._builder.saves else f"{name}_{scope.node}"
                self._builder.save({"": ref}, free)

    def _looked(self, name: str) -> Any:
        if self._scope is None or self._builder is open_builder():
            raise TraceError("nothing has run yet inside the block; look at what was generated after it")
        if self._scope.parent is not self._builder.root:
            raise NotSaved("this generation runs for several elements; save t.generated and t.lengths inside the block")
        found = self._output(name)
        return found.numpy()

    def _output(self, name: str) -> Value:
        if self._scope is None:
            raise TraceError(f"{name} comes out of a generation, which has not begun")
        if name not in self._saved:
            self._saved[name] = Later(self._builder, self._scope, f"{self._scope.node}.{name}")
        return self._saved[name]

    def _run(self) -> str:
        assert self._scope is not None
        return self._scope.node

    def _open(self, what: str) -> Scope:
        scope = self._scope
        self._builder.alive()
        if scope is None or scope.closed:
            raise TraceError(f"{what} belongs inside the block of the generation")
        if self._builder.scope is not scope:
            raise TraceError(
                f"{what} belongs to the generation's own block, and a {self._builder.scope.what} is open inside it"
            )
        return scope

    def _bound(self, value: Any) -> str:
        ref = arguments.reference(self._builder, value)
        if ref is not None:
            return ref
        plain = arguments.plain(value)
        if isinstance(plain, bool) or not isinstance(plain, int) or plain < 0:
            raise BadArgument(f"{value!r} is no step; steps count from 0, the forward over the prompt")
        return f"${self._builder.constant(plain)}"

    @contextmanager
    def _during(self, span: str | None) -> Iterator[Span]:
        scope = self._open("steps()")
        before, scope.span = scope.span, span
        if before is not None:
            scope.span = before
            raise TraceError("steps are chosen already, by the block around this one")
        try:
            yield Span(Step(self._builder, STEP, Meta((), "int64"), scope, spelled="step.index", plain_number=True))
        finally:
            scope.span = before
