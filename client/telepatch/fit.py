"""Training beside the model: a block that is one step of a fit, with what comes before, after and now and then."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

from pydantic import JsonValue

from telepatch import arguments
from telepatch.blocks import Block
from telepatch.bound import Bound
from telepatch.builder import Builder
from telepatch.columns import Column, columns, wire_name, zipped
from telepatch.fit_parts import Parts, columns_of
from telepatch.lines import here, placed, points_home
from telepatch.names import missing_name
from telepatch.optimisers import Buffer
from telepatch.reduced import Later
from telepatch.scope import Scope
from telepatch.trace import Invocation, one_form
from telepatch.trained import Names, Outputs, Renewed, hoisted
from telepatch.values import Value
from telepatch_protocol.card import ModelCard
from telepatch_protocol.errors import BadArgument, ShapeError, TraceError
from telepatch_protocol.fitting import EVALUATED, LOGGED, LOSS, RESERVED, STEPS, STOPPED
from telepatch_protocol.graph import Node, Options
from telepatch_protocol.meta import UNKNOWN, Meta
from telepatch_protocol.reductions import WEIGHT
from telepatch_protocol.refs import NAME
from telepatch_protocol.sizes import product
from telepatch_protocol.subgraphs import STEP

if TYPE_CHECKING:
    from telepatch.lab import Lab

Constraint = Literal["orthogonal", "unit_norm", "positive"]


class Fit(Block):
    """One step of training, written once: ``with model.fit(data, batch_size=32, epochs=3) as f:``.

    Parameters are made by ``f.param``; what ``f.loss`` is given falls. After the block every parameter and state is a
    value by its name (``f.R``), ``f.losses`` has the loss of every step, ``f.logs.iia`` what was logged.
    """

    what = "fit"

    def __init__(
        self, lab: Lab | None, card: ModelCard, options: Options, data: Any, settings: Mapping[str, Any]
    ) -> None:
        super().__init__(lab, card, options)
        self._parts = Parts(settings["optimiser"].name, data if isinstance(data, Buffer) else None)
        self._given = columns_of(data)
        self._settings = dict(settings)
        self._scope: Scope | None = None
        self._now: dict[str, Any] = {}
        self._wires: dict[str, str] = {}

    # What the author says

    @property
    @points_home
    def row(self) -> Names:
        """One example: ``f.row.label`` is its part of that column."""
        if self._parts.buffer is not None:
            raise placed(TraceError("a fit over a buffer sees whole batches: f.batch"))
        return self._names("f.row")

    @property
    @points_home
    def batch(self) -> Any:
        """A batch of rows of the buffer, or the batches by name where the buffer has several kinds of rows."""
        if self._parts.buffer is None:
            raise placed(TraceError("this fit goes over examples: f.row; telepatch.Buffer(rows) gives batches"))
        names = self._names("f.batch")
        return names if self._parts.buffer.named else names.batch

    @property
    @points_home
    def step(self) -> Bound:
        """How many steps were made before, from 0."""
        builder, scope = self._alive(), self._scope
        assert scope is not None
        return Bound(builder, STEP, Meta((), "int64"), scope, spelled="f.step")

    @points_home
    def param(self, name: str, init: Any, *, constraint: Constraint | None = None, dim: int | None = None) -> Any:
        """A tensor that is trained.

        Args:
            name: under which it is known afterwards: ``f.R``.
            init: a value, an array or a number, of the dtype in which it is trained.
            constraint: ``"orthogonal"``: its columns (of a wide matrix its rows) stay orthonormal; ``"unit_norm"``:
                vectors along `dim` keep length 1, their gradients made orthogonal to them; ``"positive"``.
            dim: the axis of ``unit_norm``, the last one if left out.

        Raises:
            DtypeError, ShapeError: integers, or a constraint on a value that cannot have it.

        Example:
            >>> R = f.param("R", telepatch.eye(576), constraint="orthogonal")
        """
        ref = self._initial(name, init)
        spec = {"init": ref, "constraint": constraint, "dim": dim}
        self._parts.params[self._wire(name)] = {key: value for key, value in spec.items() if value is not None}
        return self._now[name]

    @points_home
    def state(self, name: str, init: Any) -> Any:
        """A value that is carried from step to step, and renewed by ``.set(...)`` in ``with f.after():``."""
        self._parts.state[self._wire(name)] = self._initial(name, init)
        return self._now[name]

    @points_home
    def invoke(self, prompt: Any = None, **named: Any) -> Invocation:
        """One input of the model in this step: ``with f.invoke(f.row.text):``; forms as `Model.trace` takes them."""
        builder, scope = self._opened("f.invoke(...)")
        forward = scope.forward or builder.begin_run()
        return Invocation(builder, one_form(builder.card, prompt, **named), forward)

    @points_home
    def loss(self, value: Any, *, weight: Any = None) -> None:
        """What is to fall: one number, of one example or of a batch of rows.

        Args:
            value: of one element. That of a batch of examples is their mean.
            weight: of an example, for a mean over weights, such as numbers of tokens.
        """
        _, scope = self._opened("f.loss(...)")
        if LOSS in scope.out:
            raise TraceError("this fit has a loss already; add what is to fall together")
        scope.out[LOSS] = self._one(LOSS, value)
        if weight is not None:
            scope.out[WEIGHT] = self._one(WEIGHT, weight)
            scope.reduce |= {LOSS: "weighted", WEIGHT: "sum"}

    @points_home
    def log(self, **values: Any) -> None:
        """Keep small values of every step, and tell them while it runs: ``f.log(iia=hits)``; ``f.logs.iia`` afterwards.

        In ``with f.evaluate(...)`` they are kept of every evaluation: ``f.evaluations.name``.
        """
        builder = self._alive()
        for name, value in values.items():
            if not re.fullmatch(NAME, name, re.ASCII) or name in RESERVED or name in self._parts.logged:
                raise BadArgument(f"'{name}' means something else in a fit, or is logged already; choose another name")
            ref = str(arguments.argument(builder, "operand", value))
            if builder.scope is self._parts.judged:
                self._parts.judged.out[name] = ref
            else:
                self._parts.logged[name] = ref

    @points_home
    def schedule(self, function: Callable[[Any], Any]) -> Any:
        """A number for each step, from a function of the step: ``p = f.schedule(lambda step: 1 - 0.001 * step)``."""
        builder, scope = self._opened("f.schedule(...)")
        wire = wire_name(builder, "schedule")
        meta = self._scheduled(wire, function)
        builder.checker.values[wire] = meta
        return Bound(builder, wire, meta, scope, spelled="f.schedule(...)")

    @points_home
    def stop(self, condition: Any) -> None:
        """End the fit after a step of which one value, such as a carried mean of the loss, is true."""
        builder = self._alive()
        if self._parts.stop is not None:
            raise TraceError("this fit has a condition to stop already; join two with |")
        self._parts.stop = arguments.argument(builder, "operand", condition)

    @points_home
    def reset_moments(self, param: Any, where: Any = True) -> None:
        """Have the optimiser forget what it knows of a parameter where a mask holds."""
        builder = self._alive()
        if not isinstance(param, Renewed) or param._ref not in self._parts.params:
            raise BadArgument(f"moments are those of a parameter of this fit; found {param!r}")
        assert param._ref is not None
        self._parts.reset[param._ref] = arguments.argument(builder, "operand", where)

    @contextmanager
    def after(self) -> Iterator[None]:
        """``with f.after():`` what happens after each update, with parameters as they are then and values of the body
        as they were in the last batch: changes of state and parameters (``.set``), moments, reasons to stop."""
        if self._parts.after is not None:
            raise TraceError("this fit has said what comes after a step already")
        with self._aside("after()") as self._parts.after:
            yield

    @contextmanager
    def evaluate(self, every: int) -> Iterator[None]:
        """``with f.evaluate(every=100):`` what is computed now and then with the parameters as they are, such as the
        loss over held-out examples in a ``model.each`` block; ``f.log(name=value)`` inside keeps it."""
        if self._parts.judged is not None:
            raise TraceError("this fit has an evaluation already; compute both in one")
        self._parts.every = every
        with self._aside("evaluate()") as self._parts.judged:
            yield

    # What comes of it

    @points_home
    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        if name not in self._now:
            known = ", ".join(self._now) or "nothing"
            raise missing_name(
                f"this fit has no '{name}'; it has {known}, losses, logs, evaluations, steps and stopped"
            )
        return self._now[name]

    @property
    def losses(self) -> Any:
        """The loss of every step, after the block."""
        return self._output(LOSS)

    @property
    def steps(self) -> Any:
        """How many steps were made, after the block."""
        return self._output(STEPS)

    @property
    def stopped(self) -> Any:
        """Why it ended: 0 after all steps, 1 because `stop` held, 2 because the loss was not finite."""
        return self._output(STOPPED)

    @property
    def logs(self) -> Any:
        """What was logged, by name, stacked over the steps."""
        return Outputs(self, LOGGED, tuple(self._parts.logged))

    @property
    def evaluations(self) -> Any:
        """What evaluations gave, by name, stacked over them."""
        return Outputs(self, EVALUATED, tuple(self._parts.judged.out) if self._parts.judged is not None else ())

    # How it works

    def _begin(self) -> None:
        builder = self._builder
        found = columns(builder, self._given, self.what)
        zipped(found, self.what)
        self._parts.columns = found
        self._parts.plain = {name: self._setting(name) for name in _PLAIN}
        bound = {column.wire: self._element(column) for column in found}
        self._scope = builder.open("fit", "fit", self._parts.node, {**bound, STEP: Meta((), "int64")})
        builder.checker.samples |= {column.wire: column.numbers[0] for column in found if column.numbers}
        for name, value in self._settings["optimiser"].numbers.items():
            self._parts.numbers[name] = self._number(name, value)

    def _end(self) -> None:
        scope = self._scope
        assert scope is not None
        if LOSS not in scope.out:
            raise TraceError("this fit has no loss; say f.loss(value) inside its block")
        self._builder.end_run()
        self._builder.close(scope)
        outputs = {name: self._wires[name] for name in self._now}
        self._now = {name: self._output(wire) for name, wire in outputs.items()}
        if self._outermost is self:
            self._save_all()

    def _save_all(self) -> None:
        for name, value in self._now.items():
            value.save(name)
        for name in (LOSS, STEPS, STOPPED):
            self._output(name).save(name)
        for group in (self.logs, self.evaluations):
            for value in group:
                value.save()

    def _element(self, column: Column) -> object:
        if self._parts.buffer is None:
            return column.element
        size = self._settings["batch_size"]
        shape = column.meta.shape
        return Meta(None if shape is None else (size, *shape), column.meta.dtype) if isinstance(size, int) else UNKNOWN

    def _names(self, spelled: str) -> Names:
        builder, scope = self._alive(), self._scope
        assert scope is not None
        values = {}
        for column in self._parts.columns:
            meta = self._element(column) if self._parts.buffer is not None else column.meta
            assert isinstance(meta, Meta)
            values[column.name] = Bound(
                builder,
                column.wire,
                meta,
                scope,
                spelled=f"{spelled}.{column.name}",
                numbers=column.numbers if self._parts.buffer is None else (),
                form=column.form,
                plain_number=column.plain_number and self._parts.buffer is None,
            )
        return Names(values, spelled)

    def _initial(self, name: str, init: Any) -> str:
        """Where a parameter or state begins; it is known by its name from here on."""
        builder, scope = self._opened(f"{name!r}")
        if not isinstance(name, str) or not re.fullmatch(NAME, name, re.ASCII) or name in dir(type(self)):
            raise BadArgument(f"{name!r} is no name, or means something else on a fit; choose another one")
        if name in self._now:
            raise BadArgument(f"this fit has '{name}' already; choose another name")
        ref = arguments.argument(builder, "operand", init)
        if isinstance(ref, str):
            hoisted(builder, scope, ref)
        assert scope.parent is not None
        with builder.checker.at(scope.parent.level):
            meta = builder.checker.written(ref)
        wire = self._wires[name] = wire_name(builder, name)
        builder.checker.values[wire] = meta
        self._now[name] = Renewed(self, name, wire, meta, scope)
        return ref  # type: ignore[return-value]

    def _wire(self, name: str) -> str:
        return self._wires[name]

    def _renew(self, name: str, value: Any) -> None:
        builder = self._alive()
        if builder.scope is not self._parts.after:
            raise TraceError(f"f.{name} is set after a step: with f.after(): f.{name}.set(...)")
        self._parts.carry[self._wires[name]] = arguments.argument(builder, "operand", value)

    def _one(self, name: str, value: Any) -> str:
        """A value of one element, made inside."""
        if not isinstance(value, Value):
            raise BadArgument(f"the {name} of a fit is a value made inside its block; found {value!r}")
        ref = value.reference_in(self._builder)
        meta = self._builder.checker.written(ref)
        if meta.shape is not None and isinstance(count := product(meta.shape), int) and count != 1:
            raise ShapeError(f"the {name} of a fit is one number; found {meta}. Say what is meant: .sum() or .mean()")
        return ref

    def _number(self, name: str, value: Any) -> JsonValue:
        """A number of the optimiser; one that depends on the step is computed before each."""
        if not callable(value):
            return arguments.argument(self._builder, "operand", value)
        wire = wire_name(self._builder, f"fit_{name}")
        self._builder.checker.values[wire] = self._scheduled(wire, value)
        return f"${wire}"

    def _scheduled(self, wire: str, function: Callable[[Any], Any]) -> Meta:
        builder, scope = self._builder, self._scope
        assert scope is not None
        if self._parts.before is None:
            self._parts.before = Scope("aside", scope.node, "schedule", scope, scope.level, here())
        builder.scope = self._parts.before
        try:
            ref = arguments.argument(builder, "operand", function(self._step_there(scope)))
            self._parts.before.out[wire] = str(ref) if isinstance(ref, str) else ref  # type: ignore[assignment]
            return builder.checker.written(ref)
        finally:
            builder.scope = scope

    def _step_there(self, scope: Scope) -> Bound:
        return Bound(self._builder, STEP, Meta((), "int64"), scope, spelled="f.step")

    def _setting(self, name: str) -> JsonValue:
        value = self._settings[name]
        if name == "shuffle":
            return None if value is None or value is False else value if isinstance(value, list) else [int(value)]
        return None if value is None else arguments.argument(self._builder, "operand", value)

    @contextmanager
    def _aside(self, what: str) -> Iterator[Scope]:
        builder, scope = self._opened(f"f.{what}")
        forward, invoke = scope.forward, scope.invoke
        aside = builder.open("aside", f"fit's {what}", _unmade, node=f"{scope.node}_{what[:-2]}")
        try:
            yield aside
        except BaseException as error:
            builder.give_up(error)
            raise
        builder.leave(aside)
        scope.forward, scope.invoke = forward, invoke

    def _alive(self) -> Builder:
        if self._scope is None or self._scope.closed:
            raise placed(TraceError("this belongs inside the block of the fit"))
        return self._builder

    def _opened(self, what: str) -> tuple[Builder, Scope]:
        builder, scope = self._alive(), self._scope
        assert scope is not None
        if builder.scope is not scope:
            raise placed(TraceError(f"{what} belongs to the fit's own block, and another one is open inside it"))
        return builder, scope

    def _output(self, name: str) -> Later:
        if self._scope is None or not self._scope.closed:
            raise placed(TraceError("what comes of a fit is known after its block"))
        return Later(self._builder, self._scope, f"{self._scope.node}.{name}")


_PLAIN = ("batch_size", "steps", "epochs", "shuffle", "checkpoint_every")


def _unmade(scope: Scope) -> Node:
    raise AssertionError("this is a part of its fit")
