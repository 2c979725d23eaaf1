"""Training: batches, a loss, a step of an optimiser, and what comes after it, until there is reason to end."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch

from telepatch_protocol.errors import BadArgument, ExecutionError
from telepatch_protocol.fitting import (
    BUFFER_COPIES,
    ENOUGH,
    LOSS,
    NOT_FINITE,
    NUMBERS,
    RAN,
    after_graph,
    as_map,
    numbers_of,
)
from telepatch_protocol.graph import Fit
from telepatch_protocol.subgraphs import STEP, has_runs
from telepatch_protocol.within import Within
from telepatch_worker.checkpoints import Checkpoint
from telepatch_worker.diary import Diary
from telepatch_worker.examples import Batches, Buffer, Examples
from telepatch_worker.folds import Fold
from telepatch_worker.losses import Gradients, one_number
from telepatch_worker.mapping import Elements
from telepatch_worker.parameters import Parameters, Tensors, number
from telepatch_worker.requests import Backward, Turn, Work, together
from telepatch_worker.tracks import value_track
from telepatch_worker.trouble import as_job_error
from telepatch_worker.values import Value

if TYPE_CHECKING:
    from telepatch_worker.frame import Frame

TURN_SECONDS = 0.05
"""How long a fit goes on until it lets others go first: about as long as a forward takes."""

TELL_SECONDS = 0.1
"""How often values are told at the most; all of them come in the end."""

CHECKPOINT_EVERY = 100
"""Steps between checkpoints, where the author does not say."""


def fitted(frame: Frame, node: Fit) -> Work[Value]:
    """What a fit gives: parameters and state as they end, the loss of every step, and what was logged."""
    fitting = _Fitting(frame, node)
    try:
        yield from fitting.run()
        return fitting.outputs()
    except Exception as error:
        found = as_job_error(error, f"fit '{node.id}'")
        found.within = found.within or (*frame.within, fitting.within())
        raise found from None
    finally:
        fitting.close()


class _Fitting:
    """One fit.

    Args:
        frame: the scope in which it stands.
        node: the fit.
    """

    def __init__(self, frame: Frame, node: Fit) -> None:
        self._frame, self._node, self._context = frame, node, frame.context
        self._place = ".".join([node.id, *map(str, frame.place)])
        self._forwards = has_runs(node.body)
        self._fixed = {name: value for name, value in zip(NUMBERS, numbers_of(node), strict=True) if value is not None}
        self._vary = any(_refers(value) for value in self._fixed.values())
        self._state: Tensors = {name: frame.tensor(value).detach() for name, value in node.state.items()}
        self._steps = None if node.steps is None else self._whole(node.steps, "steps")
        self._every = CHECKPOINT_EVERY if node.checkpoint_every is None else self._whole(node.checkpoint_every, "")
        self._judge = 0 if node.evaluate is None else self._whole(node.evaluate.every, "evaluate.every")
        self._elements = Elements(frame, as_map(node), "fit") if node.buffer is None else None
        self._batches = self._data()
        self._step, self._stopped, self._held, self._buffered = 0, RAN, 0, 0
        self._diary = Diary()
        self._late = after_graph(node).out
        self._most = self._steps or self._batches.total
        self._good: Checkpoint | None = None
        self._answers = 0
        self._turn = self._told = time.perf_counter()
        self._parameters = self._begun()

    # The main flow

    def run(self) -> Work[None]:
        """Step after step."""
        if self._resumed():
            return
        self._context.shelf.begin(self._place)
        candidate: Checkpoint | None = self._checkpoint()
        while self._steps is None or self._step < self._steps:
            yield from self._rest()
            early = yield from self._early()
            batch = yield from self._batches.next()
            if batch is None:
                break
            self._hold_buffer()
            loss, out, gradients = yield from self._body(early, batch)
            if not math.isfinite(loss):
                self._give_up(loss)
                break
            if candidate is not None:
                self._keep(candidate)
            self._parameters.step(gradients)
            going = yield from self._after(early, batch, out, loss)
            self._step += 1
            self._context.stage = self._step, self._most
            if self._judge and self._step % self._judge == 0:
                yield from self._evaluate()
            if not going:
                self._stopped = ENOUGH
                break
            due = self._step % self._every == 0 or self._context.shelf.wants(self._place)
            candidate = self._checkpoint() if due else None
        self._finish()

    def _rest(self) -> Work[None]:
        """Let others go first now and then, and fits over the same stream keep step."""
        self._context.pause()
        if self._context.agree(time.perf_counter() - self._turn >= TURN_SECONDS):
            yield [Turn()]
            self._turn = time.perf_counter()
        elif isinstance(self._batches, Buffer):
            yield []

    def _early(self) -> Work[dict[str, Value]]:
        """What is known before a step; the optimiser's numbers are set by it."""
        step = torch.tensor(self._step)
        known: dict[str, Value] = {**self._state, **self._parameters.values, STEP: step}
        found: dict[str, Value] = {}
        if self._node.before is not None:
            found = dict((yield from self._evaluated("before", known, self._node.before.out)))
        if self._vary:
            self._parameters.set_numbers(self._numbers({**known, **found}))
        return {**self._state, STEP: step, **found}

    def _body(self, early: dict[str, Value], batch: Any) -> Work[tuple[float, Tensors, list[torch.Tensor | None]]]:
        known = {**early, **self._parameters.leaves}
        if self._elements is None:
            found = yield from self._of_rows({**known, **batch})
        else:
            found = yield from self._of_examples(self._elements, known, batch)
        return found

    def _of_rows(self, known: Mapping[str, Value]) -> Work[tuple[float, Tensors, list[torch.Tensor | None]]]:
        """The loss of a batch of rows, and its gradients."""
        inner = self._frame.inside(self._frame.plan.body(self._node.id), known, within=self.within())
        yield from inner.run()
        out = inner.outputs(self._node.body.out)
        loss = one_number(self._node.id, LOSS, out[LOSS])
        gradients = yield from self._gradients(loss, inner.number)
        found = {name: value.detach() for name, value in out.items()}
        inner.close()
        return float(found[LOSS]), found, gradients

    def _of_examples(
        self, elements: Elements, known: Mapping[str, Value], places: list[int]
    ) -> Work[tuple[float, Tensors, list[torch.Tensor | None]]]:
        """The loss of a batch of examples, and its gradients, gathered from as many forwards as it takes."""
        fold = Fold(as_map(self._node), (len(places),), keep=False, hold=self._context.hold)
        gathered = Gradients(self._node, len(places))
        where = {at: number for number, at in enumerate(places)}
        for chunk in elements.chunks(places):
            frames = [(at, elements.frame(at, known, self._step)) for at in chunk]
            yield from together(one.run() for _, one in frames)
            outs = [one.outputs(self._node.body.out) for _, one in frames]
            gathered.add((yield from self._gradients(gathered.total(outs), frames[0][1].number)))
            for (at, one), out in zip(frames, outs, strict=True):
                fold.add(where[at], out)
                one.close()
        out = {name: value for name, value in fold.values().items() if isinstance(value, torch.Tensor)}
        return float(out[LOSS]), out, gathered.values()

    def _gradients(self, loss: torch.Tensor, owner: int) -> Work[list[torch.Tensor | None]]:
        leaves = self._parameters.leaves
        if not loss.requires_grad:
            known = ", ".join(leaves)
            raise BadArgument(f"the loss of fit '{self._node.id}' depends on none of its parameters: {known}")
        if not self._forwards and not self._context.plan.wrt:
            return list(torch.autograd.grad(loss, list(leaves.values()), allow_unused=True))
        request = Backward(loss, [[value_track(leaf, (owner, name))] for name, leaf in leaves.items()])
        yield [request]
        return [one for [one] in request.found]

    def _after(self, early: Mapping[str, Value], batch: Any, out: Tensors, loss: float) -> Work[bool]:
        """What follows an update; whether there is to be another one."""
        rows = batch if isinstance(batch, dict) else {}
        known = {**early, **self._parameters.values, **rows, self._node.id: out}
        found = yield from self._evaluated("after", known, self._late)
        for name in self._node.after.carry if self._node.after is not None else ():
            if name in self._state:
                self._state[name] = found[f"carry.{name}"]
            else:
                self._parameters.assign(name, found[f"carry.{name}"])
        for name in self._node.after.reset_moments if self._node.after is not None else ():
            self._parameters.reset_moments(name, found[f"reset.{name}"])
        logged = {name: found[f"emit.{name}"] for name in self._node.emit}
        self._diary.note(loss, logged)
        going = not ("stop" in found and bool(one_number(self._node.id, "stop", found["stop"])))
        if not going or self._step == 0 or time.perf_counter() - self._told >= TELL_SECONDS:
            self._tell(logged)
        return going

    def _evaluate(self) -> Work[None]:
        assert self._node.evaluate is not None
        known = {**self._state, **self._parameters.values, STEP: torch.tensor(self._step)}
        found = yield from self._evaluated("evaluate", known, self._node.evaluate.body.out)
        self._diary.judge(found)
        self._tell({f"eval.{name}": value for name, value in found.items() if value.numel() == 1})

    def within(self, part: str | None = None) -> Within:
        """Where errors are that happen at this step."""
        return Within(kind="fit", node=self._node.id, step=self._step, part=part)

    def _evaluated(self, name: str, known: Mapping[str, Value], wanted: Mapping[str, Any]) -> Work[Tensors]:
        """The outputs of one of the sub-graphs beside the body."""
        if not wanted:
            return {}
        inner = self._frame.inside(self._frame.plan.body(f"{self._node.id}.{name}"), known, within=self.within(name))
        yield from inner.run()
        found = {key: value.detach() for key, value in inner.outputs(wanted).items()}
        inner.close()
        return found

    # How it begins

    def _begun(self) -> Parameters:
        known = {**self._state, STEP: torch.tensor(0)}
        values = {name: self._frame.tensor(param.init) for name, param in self._node.params.items()}
        numbers = {"lr": 0.0} if self._vary else self._numbers(known)
        found = Parameters(self._node.params, values, self._node.optimiser, numbers)
        self._hold(found.bytes())
        return found

    def _numbers(self, known: Mapping[str, Value]) -> dict[str, Any]:
        scope = self._frame.after(known)
        return {name: number(name, scope.argument(value)) for name, value in self._fixed.items()}

    def _data(self) -> Batches:
        node, frame = self._node, self._frame
        size = self._whole(node.batch_size, "batch_size")
        epochs = None if node.epochs is None else self._whole(node.epochs, "epochs")
        key = frame.argument(node.shuffle)
        listed = key if isinstance(key, list) or key is None else [key]
        if node.buffer is None:
            assert self._elements is not None
            return Examples(self._elements.count, size, epochs, listed)
        most = None if node.buffer.rows is None else self._whole(node.buffer.rows, "buffer.rows")
        refill = float(frame.tensor(node.buffer.refill))
        over = {name: frame.argument(value) for name, value in node.over.items()}
        return Buffer(
            node, over, size=size, most=most, refill=refill, epochs=epochs, key=listed, device=self._context.device
        )

    def _whole(self, value: Any, what: str) -> int:
        found = int(one_number(self._node.id, what, self._frame.tensor(value)))
        if found < 1:
            raise BadArgument(f"fit '{self._node.id}': {what} is an integer from 1; found {found}")
        return found

    # Checkpoints

    def _checkpoint(self) -> Checkpoint:
        """Everything that it takes to go on from here."""
        rows, cursor = self._batches.kept()
        tensors = {**self._parameters.kept(), **{f"rows.{name}": value for name, value in rows.items()}}
        tensors |= {f"state.{name}": value.clone() for name, value in self._state.items()}
        plain = {"step": self._step, "stopped": self._stopped, "cursor": cursor}
        self._answers = self._context.shelf.asked
        return Checkpoint({**tensors, **self._diary.kept()}, plain)

    def _keep(self, checkpoint: Checkpoint) -> None:
        """The loss at a checkpoint was finite, so it is good."""
        self._good = checkpoint
        asked = self._node.checkpoint_every is not None
        urgent = asked and self._step > 0
        self._context.shelf.put(self._place, checkpoint, urgent=urgent, answers=self._answers)

    def _resumed(self) -> bool:
        """Go back to where an earlier attempt was; whether it was at its end."""
        found = self._context.shelf.kept.get(self._place)
        if found is None:
            return False
        self._restore(found)
        self._good = found
        return found.done

    def _restore(self, found: Checkpoint) -> None:
        device = self._context.device
        tensors = {name: value.to(device) for name, value in found.tensors.items()}
        self._parameters.restore(tensors)
        self._state = {name: tensors[f"state.{name}"] for name in self._state}
        self._diary.restore(found.tensors)
        self._step, self._stopped = found.plain["step"], found.plain["stopped"]
        if not found.done:
            rows = {name[5:]: value for name, value in found.tensors.items() if name.startswith("rows.")}
            self._batches.restore(rows, found.plain["cursor"])

    def _give_up(self, loss: float) -> None:
        """The loss is not finite: the last good checkpoint is what comes of it."""
        if self._good is None:
            raise ExecutionError(
                f"the loss of fit '{self._node.id}' is {loss} at its first step, so there is nothing to go back to"
            )
        at = self._step
        kept = self._good
        self._restore(Checkpoint(kept.tensors, {**kept.plain, "done": True}))
        self._stopped = NOT_FINITE
        self._context.warnings.append(
            f"fit '{self._node.id}' stopped at step {at}, where its loss was {loss}; its result is that of step "
            f"{self._step}, the last good checkpoint"
        )

    def _finish(self) -> None:
        """What came of it is the last checkpoint, so that it is not done twice."""
        self._batches.close()
        final = self._checkpoint_of_result()
        self._context.shelf.put(self._place, final)

    def _checkpoint_of_result(self) -> Checkpoint:
        tensors = {**self._parameters.kept(), **{f"state.{name}": value for name, value in self._state.items()}}
        plain = {"step": self._step, "stopped": self._stopped, "done": True}
        return Checkpoint({**tensors, **self._diary.kept()}, plain)

    # What comes of it

    def outputs(self) -> Value:
        """Everything by name."""
        device = self._context.device
        values = {name: value.clone() for name, value in self._parameters.values.items()}
        ends = {"steps": torch.tensor(self._step, device=device), "stopped": torch.tensor(self._stopped, device=device)}
        evaluated = () if self._node.evaluate is None else tuple(self._node.evaluate.body.out)
        return {**values, **self._state, **ends, **self._diary.outputs(self._node.emit, evaluated, device)}

    def close(self) -> None:
        """Let go of everything."""
        self._context.shelf.end(self._place)
        self._batches.close()
        self._hold(-self._held)

    def _tell(self, logged: Tensors) -> None:
        if logged:
            values = {name: _plain(value) for name, value in logged.items()}
            at = [*self._frame.place, self._step]
            self._told = time.perf_counter()
            self._context.values({"node": self._node.id, "at": at, "values": values})

    def _hold_buffer(self) -> None:
        """The rows of a buffer of its own count as long as they are there."""
        if isinstance(self._batches, Buffer):
            now = BUFFER_COPIES * self._batches.bytes
            self._hold(now - self._buffered)
            self._buffered = now

    def _hold(self, count: int) -> None:
        self._held += count
        self._context.hold(count)


def _refers(value: Any) -> bool:
    if isinstance(value, list):
        return any(map(_refers, value))
    return isinstance(value, str)


def _plain(value: torch.Tensor) -> Any:
    """A value as JSON has it."""
    listed = value.float().tolist() if value.is_floating_point() else value.tolist()
    return _finite(listed)


def _finite(value: Any) -> Any:
    if isinstance(value, list):
        return [_finite(one) for one in value]
    return value if not isinstance(value, float) or math.isfinite(value) else str(value)
