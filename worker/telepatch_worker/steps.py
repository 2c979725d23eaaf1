"""The steps of one generation: what its `each` reads, writes, carries and gives out, evaluated anew at every one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from pydantic import JsonValue

from telepatch_protocol import generating, refs
from telepatch_protocol.checked import Key
from telepatch_protocol.errors import ExecutionError, TelepatchError
from telepatch_protocol.generating import REASONS, Settings
from telepatch_protocol.graph import Generating
from telepatch_protocol.sites import TOKEN
from telepatch_protocol.subgraphs import STEP
from telepatch_protocol.within import Within
from telepatch_worker.emitting import listed
from telepatch_worker.folds import stacked
from telepatch_worker.generation import Generated, Generation
from telepatch_worker.inputs import token_rows
from telepatch_worker.layout import Rows
from telepatch_worker.moments import Moment
from telepatch_worker.requests import Decode, Work
from telepatch_worker.sampling import Sampling, new_seed
from telepatch_worker.scope_plan import ScopePlan
from telepatch_worker.stopping import Ending
from telepatch_worker.text_pieces import TextPieces
from telepatch_worker.values import Value, bytes_of, compact

if TYPE_CHECKING:
    from telepatch_worker.frame import Frame


def generated(frame: Frame, node: Generating) -> Work[Value]:
    """The outputs of a generation."""
    steps = Steps(frame, node)
    try:
        yield [Decode(frame, steps.generation, steps)]
        return steps.outputs()
    finally:
        steps.close()


class Steps:
    """The owner of one generation in the decode loop.

    Args:
        frame: the scope in which it stands.
        node: the generation.
    """

    def __init__(self, frame: Frame, node: Generating) -> None:
        self._frame = frame
        self._node = node
        self._keys: list[Key] = sorted(frame.plan.scope.bodies[node.id])
        settings = generating.settings(node.id, node.generate, frame.argument)
        self.generation = _generation(frame, node, settings)
        self._state: dict[str, Value] = {name: frame.tensor(value) for name, value in node.each.state.items()}
        self._kept: dict[str, list[torch.Tensor]] = {name: [] for name in node.each.out}
        self._held = 0
        self._inner: Frame | None = None
        self._tokens: tuple[Moment, ...] = ()
        self._stop = False
        self._result: Generated | None = None
        self._pieces = [TextPieces(frame.context.decode) for _ in range(self.generation.prompt.shape[0])]

    # What the decode loop asks

    def moments(self, steps: Mapping[str, int]) -> Sequence[Moment]:
        """What happens in the next forward: a scope of its own."""
        step = steps[self.generation.name]
        plan = self._plan(step)
        within = Within(kind="generation", node=self._node.id, step=step)
        self._inner = inner = self._frame.inside(plan, {**self._state, STEP: step}, at=step, within=within)
        inner.begin()
        happening = plan.passes[0]
        self._tokens = tuple(moment for moment in happening if moment.place.port == TOKEN)
        return tuple(moment for moment in happening if moment.place.port != TOKEN)

    def read(self, moment: Moment, value: torch.Tensor) -> None:
        """Take the value at a place."""
        self._here().read(moment, value)

    def write(self, moment: Moment, region: torch.Tensor) -> None:
        """Change the value at a place."""
        self._here().write(moment, region)

    def track(self, moment: Moment, tensor: torch.Tensor, rows: Rows) -> None:
        """Gradients do not flow through a generation."""

    def fail(self, error: Exception) -> None:
        """The job is over."""
        self._frame.fail(error)

    def sampled(self, name: str, step: int, tokens: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        """The tokens that go on: those sampled, or what the scope writes in their place."""
        inner, device = self._here(), self._frame.context.device
        found = tokens.to(device, copy=True) if self._tokens else tokens
        for moment in self._tokens:
            if moment.writes:
                inner.write(moment, found)
            else:
                inner.read(moment, found)
        chosen = found.to("cpu") if any(moment.writes for moment in self._tokens) else tokens
        with inner.during(self._node):
            self._end_step(step, chosen)
        return chosen

    def ends(self, name: str, step: int) -> bool:
        """Whether the scope has asked for the end."""
        return self._stop

    def ended(self, name: str, result: Generated) -> None:
        """It is over."""
        self._result = result
        if not self._frame.place:
            end = {"lengths": list(result.lengths), "reasons": list(result.reasons)}
            self._frame.context.values({"run": self._node.id, **end})

    # What comes out

    def outputs(self) -> dict[str, Value]:
        """Everything that the generation gives, once it is over."""
        assert self._result is not None
        result, device = self._result, self._frame.context.device
        self._frame.context.hold(-self._held)
        found: dict[str, Value] = {
            "tokens": result.tokens.to(device),
            "lengths": torch.tensor(result.lengths, device=device),
            "reasons": torch.tensor([REASONS.index(reason) for reason in result.reasons], device=device),
            "seed": torch.tensor(-1 if result.seed is None else result.seed, device=device),
        }
        for name, rows in self._kept.items():
            if not rows:
                ran = result.tokens.shape[1]
                raise ExecutionError(
                    f"'{name.removeprefix('read.')}' is of steps that were never reached: the generation took {ran}"
                )
            found[name] = stacked(rows, (len(rows),))
        return found | self._state

    def close(self) -> None:
        """Let go of everything."""
        if self._inner is not None:
            self._inner.close()
            self._inner = None

    def _end_step(self, step: int, tokens: torch.Tensor) -> None:
        inner, each = self._here(), self._node.each
        here = inner.plan.nodes
        for name, value in each.out.items():
            if self._exists(value, here):
                self._keep(name, inner.tensor(value))
        emitted = {
            name: listed(name, inner.tensor(value)) for name, value in each.emit.items() if self._exists(value, here)
        }
        carried = {name: inner.tensor(value) for name, value in each.carry.items() if self._exists(value, here)}
        self._state |= {name: compact(value.detach()) for name, value in carried.items()}
        self._stop = each.stop is not None and self._exists(each.stop, here) and self._holds(inner.tensor(each.stop))
        self._tell(step, tokens, emitted)
        self.close()

    def _exists(self, value: JsonValue, here: Mapping[str, object]) -> bool:
        """Whether everything that an argument refers to exists at this step."""
        own = {one.id for one in self._node.each.nodes}
        return all(ref.id in here for ref in refs.walk(value) if ref.id in own)

    def _holds(self, value: torch.Tensor) -> bool:
        if value.numel() != 1:
            raise ExecutionError(f"generation '{self._node.id}' stops by one value; found {tuple(value.shape)}")
        return bool(value.item())

    def _keep(self, name: str, value: torch.Tensor) -> None:
        kept = value.detach()
        kept = kept.clone() if kept.untyped_storage().nbytes() > kept.nbytes else kept
        self._kept[name].append(kept)
        self._frame.context.hold(bytes_of(kept))
        self._held += bytes_of(kept)

    def _tell(self, step: int, tokens: torch.Tensor, emitted: dict[str, Any]) -> None:
        """Stream what this step has given; inside a map only what is emitted is asked for."""
        place = self._frame.place
        if place and not emitted:
            return
        event: dict[str, Any] = {"run": self._node.id, "step": step}
        if place:
            event["at"] = list(place)
        listed = tokens.tolist()
        event["tokens"] = listed
        event["text"] = [piece(token) for piece, token in zip(self._pieces, listed, strict=True)]
        self._frame.context.values({**event, **({"values": emitted} if emitted else {})})

    def _plan(self, step: int) -> ScopePlan:
        key = max(key for key in self._keys if key[0] <= step)  # type: ignore[operator]
        return self._frame.plan.body(self._node.id, key)

    def _here(self) -> Frame:
        assert self._inner is not None
        return self._inner


def _seed(frame: Frame, settings: Settings) -> int | None:
    """The seed of a generation that draws: its own, or a new one."""
    drawn = settings.seed is None and settings.temperature > 0
    return frame.context.agree(new_seed()) if drawn else settings.seed


def _generation(frame: Frame, node: Generating, settings: Settings) -> Generation:
    try:
        prompt = token_rows(frame, node.invoke)
    except TelepatchError as error:
        raise error.at(node=node.invoke.id) from None
    return Generation(
        node.invoke.id,
        prompt,
        Sampling(
            temperature=settings.temperature,
            top_p=settings.top_p,
            top_k=settings.top_k,
            seed=_seed(frame, settings),
            min_p=settings.min_p,
            repetition_penalty=settings.repetition_penalty,
            no_repeat_ngram_size=settings.no_repeat_ngram_size,
            min_new_tokens=settings.min_new_tokens,
        ),
        Ending(settings.max_new_tokens, settings.texts, settings.tokens),
    )
