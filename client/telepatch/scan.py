"""Scans: traces that are written as any other and never sent; their values have shapes, and they have a price."""

from __future__ import annotations

import json
from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any

from telepatch.builder import Builder
from telepatch.lines import at_place, points_home
from telepatch.prompt_tokens import rows_of
from telepatch.trace import Trace
from telepatch_protocol import tensors
from telepatch_protocol.card import ModelCard
from telepatch_protocol.check import check
from telepatch_protocol.errors import TelepatchError, TraceError, from_record
from telepatch_protocol.expanding import expand
from telepatch_protocol.graph import Graph, Invoke, Options
from telepatch_protocol.inputs import given_of, words_of
from telepatch_protocol.jobs import Price, SubmissionAnswer
from telepatch_protocol.price import price
from telepatch_protocol.wire import edits_of

if TYPE_CHECKING:
    from telepatch.lab import Lab
    from telepatch.transport import Transport


class ScanBuilder(Builder):
    """A graph that is not sent: it may save nothing, and the lengths of its prompts are asked for at once."""

    sends = False

    def lengths(self, invoke: Invoke) -> Mapping[str, int]:
        """How long each row of an input is whose tokens the service can tell."""
        if self.lab is None or invoke.form not in ("text", "messages"):
            return {}
        keys = words_of(invoke, given_of(invoke, self.checker.argument))
        return {key: len(row) for key, row in zip(keys, rows_of(self, *self.given[invoke.id]), strict=True)}


class Scan(Trace):
    """A trace that is never sent; made by ``model.scan(prompt)``.

    Inside the block and after it every value has ``shape`` and ``dtype``. With a connection the lengths of prompts are
    known, and `price` is what the gateway would ask for the job; without one, lengths stay symbols such as ``len(x0)``.

    Example:
        >>> with model.scan("Paris is the capital of") as s:
        ...     pattern = model.blocks[3].attn.output
        ...     kept = s.cache("blocks.*:resid_post")
        >>> pattern.shape, s.price.saved_bytes
    """

    what = "scan"
    built_by = ScanBuilder

    def __init__(self, lab: Lab | None, card: ModelCard, options: Options, form: dict[str, Any]) -> None:
        super().__init__(lab, card, options, form)
        self._price: Price | None = None

    @property
    @points_home
    def price(self) -> Price:
        """What the job would cost: rows, tokens, passes, bytes and operations.

        Raises:
            TraceError: it saves nothing, or there is no connection to ask and the lengths of its inputs are not known.
            GraphError: the gateway would refuse it; the error is the one that running it would raise.
        """
        if self._price is not None:
            return self._price
        if not self.graph.saves:
            raise TraceError("this scan saves nothing, so it is no job with a price; save what running it would")
        found = self._told() if self._builder.lab is not None else self._reckoned()
        self._price = found if self._builder.finished else None
        return found

    @points_home
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._leave(error) is not None:
            self._builder.failure = "model.scan(...) runs nothing; write model.trace(...) to have numbers"

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.__exit__(kind, error, traceback)

    def _fits(self, other: Builder) -> TraceError | None:
        return TraceError(f"a scan is no part of a job, and one is open since {other.opened}; end that block first")

    def _told(self) -> Price:
        """The gateway's price."""
        builder = self._builder
        assert builder.lab is not None
        found = builder.lab.dry_run(builder.job, self.graph, self.attachment)
        if isinstance(found, TelepatchError):
            place = builder.places.get(found.node or "", builder.opened)
            found.file = found.line = None
            raise at_place(found, place)
        return found

    def _reckoned(self) -> Price:
        """The price without a gateway, where every length is known."""
        card = self._builder.card
        graph = expand(self.graph, edits_of(self.graph), most=card.limits.max_nodes).graph
        checked = check(graph, card, attachment=tensors.metas(self.attachment) if self._tensors else {})
        unknown = [name for name, size in checked.inputs.items() if not isinstance(size.length, int)]
        if unknown:
            raise TraceError(
                f"the length of input '{unknown[0]}' is not known without a connection, and so is the price; "
                "give token ids, or get the model from lab.model(...)"
            )
        return price(checked, self._builder.card)


async def tried(transport: Transport, job: str, graph: Graph, attachment: bytes) -> Price | TelepatchError:
    """What the gateway says of a job that is only tried out."""
    body = {"documents": [graph.to_dict()], "jobs": [{"id": job}], "dry_run": True}
    data = json.dumps(body).encode()
    how: dict[str, Any] = {"content": data}
    if attachment:
        how = {
            "files": {
                "submission": ("submission.json", data, "application/json"),
                "attachment": ("attachment.safetensors", attachment, "application/octet-stream"),
            }
        }
    async with transport.exchange("POST", "/v1/jobs", timeout=60.0, **how) as response:
        (found,) = SubmissionAnswer.model_validate_json(await response.aread()).jobs
    if found.error is not None:
        return from_record(found.error)
    assert found.price is not None
    return found.price
