"""The door: every job of a submission is decoded, tokenised, checked and priced before it is queued.

One job that is refused does not keep out the others, unless they use its values.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from typing import TypeVar

from telepatch_broker.data import Stored, Uploads
from telepatch_broker.edits import Edits
from telepatch_broker.jobs import NewJob, Source
from telepatch_broker.keys import check_id
from telepatch_broker.lane import Lane
from telepatch_broker.limits import Limits
from telepatch_protocol.check import Checked, exact
from telepatch_protocol.errors import (
    BadArgument,
    CausalLoop,
    DependencyFailed,
    Forbidden,
    PayloadTooLarge,
    TelepatchError,
    UnknownName,
)
from telepatch_protocol.expanding import Expanded
from telepatch_protocol.graph import Graph
from telepatch_protocol.jobs import JobSpec, JobStatus, Price, Priority, SavedMeta
from telepatch_protocol.meta import Meta
from telepatch_protocol.reading import Reader, text_of
from telepatch_protocol.sizes import Size
from telepatch_protocol.subgraphs import has_bodies, trains
from telepatch_server.aligned import refuse_unaligned
from telepatch_server.allowance import check_model, check_price
from telepatch_server.bodies import aside
from telepatch_server.catalogue import Catalogue, Model
from telepatch_server.edits import Found, lost_results, placed_edits, quiet, refuse_lost, stored_edits
from telepatch_server.prompts import check_ids, has_messages, tokens_of
from telepatch_server.submission import Received
from telepatch_server.uses import Uses, uses_of

T = TypeVar("T")

NO_LIMITS = Limits()


@dataclass(frozen=True)
class Draft:
    """A job whose document has the right form, with its own constants merged in and its edits in place."""

    id: str
    expanded: Expanded
    document: bytes
    uses: Uses
    priority: Priority
    timeout_seconds: float | None

    @property
    def graph(self) -> Graph:
        """What is checked and run."""
        return self.expanded.graph


@dataclass(frozen=True)
class Admitted:
    """A job that can run."""

    job: NewJob
    checked: Checked


Verdict = Admitted | TelepatchError


async def admit(
    received: Received,
    person: str,
    catalogue: Catalogue,
    lane: Lane,
    uploads: Uploads,
    edits: Edits,
    *,
    limits: Limits = NO_LIMITS,
) -> list[Verdict]:
    """Decide about every job of a submission, in order.

    Args:
        received: the submission.
        person: whose it is; values of other people's jobs are not there.
        catalogue: cards and tokenizers.
        lane: knows earlier jobs.
        uploads: knows the data that graphs name.
        edits: knows the edits that graphs apply.
        limits: which models the person may use, and how large a job may be.
    """
    graphs = await aside(received.large, lambda: decode_all(received, catalogue.reader))
    models = await _models(graphs, catalogue, person, limits)
    stored = await stored_edits(graphs, person, edits)
    most = received.most
    drafts = await aside(received.large or bool(stored), lambda: draft_all(received, graphs, models, stored, most))
    earlier = await _earlier(drafts, person, lane)
    placed = [draft.expanded for draft in drafts if isinstance(draft, Draft)]
    earlier |= await lost_results(placed, person, lane)
    data = await _data(drafts, person, uploads)
    # A chat template may take a while, and so may a map of many kinds of elements; others need not wait for it.
    known = [draft.graph for draft in drafts if isinstance(draft, Draft)]
    large = received.large or any(has_messages(one) or has_bodies(one) for one in known)
    verdicts = await aside(large, lambda: Admission(received, person, models, earlier, data, limits).decide(drafts))
    return [_told_to_wait(one, catalogue.unloaded) for one in verdicts]


def _told_to_wait(verdict: Verdict, unloaded: Collection[str]) -> Verdict:
    """A job whose model is not served says so."""
    if not isinstance(verdict, Admitted) or verdict.job.model not in unloaded:
        return verdict
    warning = f"no worker serves '{verdict.job.model}', which was unloaded; the job waits until it is loaded again"
    job = replace(verdict.job, warnings=(*verdict.job.warnings, warning))
    return replace(verdict, job=job)


def decode_all(received: Received, reader: Reader) -> list[Graph | TelepatchError]:
    """Decode every document once."""
    documents = received.submission.documents
    return [_attempt(lambda document=document: reader.from_dict(document)) for document in documents]  # type: ignore[misc]


def draft_all(
    received: Received,
    graphs: list[Graph | TelepatchError],
    models: Mapping[str, Model | TelepatchError],
    stored: Found,
    most: int = 2**62,
) -> list[Draft | TelepatchError]:
    """Put the edits of every document in place once, and merge each job's constants into its own.

    Raises:
        PayloadTooLarge: the documents have more bytes than `most`, each counted as often as jobs use it.
    """
    size = 0
    placed = [_attempt(lambda graph=graph: placed_edits(graph, models, stored)) for graph in graphs]  # type: ignore[misc]
    drafts: list[Draft | TelepatchError] = []
    taken: set[str] = set()
    for spec in received.submission.jobs:
        drafts.append(_attempt(lambda spec=spec: _draft(spec, received, graphs, placed, taken)))  # type: ignore[misc]
        taken.add(spec.id)
        size += len(drafts[-1].document) if isinstance(drafts[-1], Draft) else 0
        if size > most:
            raise too_much(most)
    return drafts


class Admission:
    """One submission, once everything it refers to has been looked up.

    Args:
        received: the submission.
        person: whose it is.
        models: by id, or why there is none.
        earlier: jobs of earlier submissions whose values are used, or why they cannot be.
        data: complete uploads by digest, or why they cannot be used.
        limits: how large a job may be.
    """

    def __init__(
        self,
        received: Received,
        person: str,
        models: Mapping[str, Model | TelepatchError],
        earlier: Mapping[str, JobStatus | TelepatchError],
        data: Mapping[str, Stored | TelepatchError],
        limits: Limits = NO_LIMITS,
    ) -> None:
        self._received = received
        self._person = person
        self._models = models
        self._earlier = earlier
        self._data = data
        self._limits = limits
        self._metas = received.attached.metas
        self._attachments: dict[frozenset[str], bytes] = {}
        self._verdicts: dict[str, Verdict] = {}

    def decide(self, drafts: list[Draft | TelepatchError]) -> list[Verdict]:
        """Decide about every job, those whose values are used before those that use them."""
        waiting = {draft.id: draft for draft in drafts if isinstance(draft, Draft)}
        refused = {
            spec.id for spec, draft in zip(self._received.submission.jobs, drafts, strict=True)
            if isinstance(draft, TelepatchError)
        } - waiting.keys()  # fmt: skip
        self._verdicts |= {id: BadArgument(f"job {id} was refused") for id in refused}
        while waiting:
            ready = [draft for draft in waiting.values() if not waiting.keys() & draft.uses.parents.keys()]
            for draft in ready or waiting.values():
                verdict = _attempt(lambda draft=draft: self._decide(draft)) if ready else _circle(draft)  # type: ignore[misc]
                self._verdicts[draft.id] = verdict
            waiting = {id: draft for id, draft in waiting.items() if id not in self._verdicts}
        return [self._verdicts[draft.id] if isinstance(draft, Draft) else draft for draft in drafts]

    def _decide(self, draft: Draft) -> Admitted:
        try:
            return self._admitted(draft)
        except TelepatchError as error:
            raise draft.expanded.explain(error) from None

    def _admitted(self, draft: Draft) -> Admitted:
        graph = draft.graph
        refuse_lost(draft.expanded, self._earlier, self._data)
        for parent, source in draft.uses.parents.items():
            self._check_parent(parent, source)
        data = {digest: self._upload(digest, source) for digest, source in draft.uses.data.items()}
        model = self._models[graph.model.id]
        if isinstance(model, TelepatchError):
            raise model
        check_seconds(draft.timeout_seconds, model.card.limits.seconds(long=trains(graph)), model.card.id)
        tokens = tokens_of(graph, model)
        check_ids(graph, model.card, self._received.attached.tensors)
        refuse_unaligned(graph, model, tokens, self._received.attached.tensors)
        found = model.preparation.prepare(
            graph,
            lengths={text: len(ids) for text, ids in tokens.items()},
            attachment=self._metas,
            results=lambda job, name: self._saved(job, name, draft.uses.parents.get(job, Source())),
            data={digest: stored.upload.columns for digest, stored in data.items() if stored.upload.columns},
        )
        check_price(self._person, self._limits, found.price)
        checked = quiet(found.checked, draft.expanded)
        return Admitted(self._new_job(draft, checked, found.price, model, tokens), checked)

    def _new_job(
        self, draft: Draft, checked: Checked, cost: Price, model: Model, tokens: Mapping[str, list[int]]
    ) -> NewJob:
        return NewJob(
            draft.id,
            self._person,
            model.card.id,
            draft.document,
            tokens=json.dumps(tokens, separators=(",", ":")).encode() if tokens else b"",
            attachment=self._attachment(draft.uses.tensors),
            parents=draft.uses.parents,
            data={digest: self._upload(digest, source).blob or "" for digest, source in draft.uses.data.items()},
            price=cost,
            cost=cost.tokens,
            alone=exact(draft.graph),
            saves={name: _saved_meta(meta) for name, meta in checked.saves.items()},
            warnings=checked.warnings,
            lane="long" if trains(draft.graph) else "interactive",
            priority=draft.priority,
            timeout_seconds=draft.timeout_seconds,
        )

    def _attachment(self, names: frozenset[str]) -> bytes:
        """The tensors that a job uses; the same bytes for all that use the same ones, so that they are stored once."""
        if not names:
            return b""
        if names not in self._attachments:
            self._attachments[names] = self._received.attached.only(names)
            if sum(map(len, self._attachments.values())) > self._received.most:
                raise too_much(self._received.most)
        return self._attachments[names]

    def _upload(self, digest: str, source: Source) -> Stored:
        """An upload that a job uses, or why it cannot, at the line where it does."""
        found = self._data[digest]
        if isinstance(found, TelepatchError):
            raise type(found)(found.detail, node=source.node, file=source.file, line=source.line)
        return found

    def _check_parent(self, parent: str, source: Source) -> None:
        """Refuse a job that uses values of one that was refused, or that is not there."""
        place = {"node": source.node, "file": source.file, "line": source.line}
        verdict = self._verdicts.get(parent)
        if isinstance(verdict, TelepatchError):
            raise DependencyFailed(
                f"job {parent}, whose value is used here, was refused",
                parent=parent,
                **place,  # type: ignore[arg-type]
            )
        found = self._earlier.get(parent)
        if verdict is None and isinstance(found, TelepatchError):
            raise type(found)(
                f"a value of job {parent} is used here: {found.detail}",
                parent=parent,
                **place,  # type: ignore[arg-type]
            )

    def _saved(self, job: str, name: str, source: Source) -> Meta:
        """Shape and dtype of a value that another job saves."""
        verdict, earlier = self._verdicts.get(job), self._earlier.get(job)
        found: dict[str, Meta] = {}
        if isinstance(verdict, Admitted):
            found = dict(verdict.checked.saves)
        elif isinstance(earlier, JobStatus):
            found = {saved: known_meta(meta) for saved, meta in earlier.saves.items()}
        if name not in found:
            known = ", ".join(found) or "nothing"
            raise UnknownName(
                f"job {job} saves no '{name}'; it saves {known}",
                node=source.node,
                file=source.file,
                line=source.line,
                parent=job,
            )
        return found[name]


def too_much(most: int) -> PayloadTooLarge:
    """Why a small request cannot become a huge queue."""
    return PayloadTooLarge(
        f"the documents and attachments of this request's jobs have more than {most:,} bytes together, each counted as "
        "often as it is queued; send fewer jobs at once, or large constants as data (PUT /v1/data)"
    )


def _draft(
    spec: JobSpec,
    received: Received,
    graphs: list[Graph | TelepatchError],
    placed: list[Expanded | TelepatchError | None],
    taken: set[str],
) -> Draft:
    documents = received.submission.documents
    check_id(spec.id)
    if spec.priority == "high" and not received.hurry:
        raise Forbidden("priority 'high' is not among what this key may ask for; 'normal' and 'low' are")
    if spec.id in taken:
        raise BadArgument(f"two jobs of one submission have the id {spec.id}; each needs its own")
    if not 0 <= spec.document < len(documents):
        raise BadArgument(f"job {spec.id} is of document {spec.document}; there are {len(documents)}, counted from 0")
    written = graphs[spec.document]
    if isinstance(written, TelepatchError):
        raise written
    if unknown := sorted(spec.constants.keys() - written.constants.keys()):
        known = ", ".join(written.constants) or "none"
        raise UnknownName(f"job {spec.id} sets the constant '{unknown[0]}'; its document has: {known}")
    expanded = placed[spec.document] or Expanded(written)
    if isinstance(expanded, TelepatchError):
        raise expanded
    if spec.constants:
        constants = expanded.graph.constants | spec.constants
        expanded = replace(expanded, graph=expanded.graph.with_constants(constants))
    return Draft(
        spec.id,
        expanded,
        text_of(expanded.graph).encode(),
        uses_of(expanded.graph),
        spec.priority or "normal",
        spec.timeout_seconds,
    )


async def _models(
    graphs: list[Graph | TelepatchError], catalogue: Catalogue, person: str, limits: Limits
) -> dict[str, Model | TelepatchError]:
    found: dict[str, Model | TelepatchError] = {}
    for id in {graph.model.id for graph in graphs if isinstance(graph, Graph)}:
        try:
            check_model(person, limits, id)
            found[id] = await catalogue.model(id)
        except TelepatchError as error:
            found[id] = error
    return found


async def _earlier(
    drafts: list[Draft | TelepatchError], person: str, lane: Lane
) -> dict[str, JobStatus | TelepatchError]:
    """Jobs of earlier submissions whose values are used."""
    known = [draft for draft in drafts if isinstance(draft, Draft)]
    wanted = {parent for draft in known for parent in draft.uses.parents} - {draft.id for draft in known}
    found: dict[str, JobStatus | TelepatchError] = {}
    for parent in wanted:
        try:
            found[parent] = await lane.status(person, parent)
        except TelepatchError as error:
            found[parent] = error
    return found


async def _data(
    drafts: list[Draft | TelepatchError], person: str, uploads: Uploads
) -> dict[str, Stored | TelepatchError]:
    """The uploads that are used."""
    found: dict[str, Stored | TelepatchError] = {}
    for digest in {digest for draft in drafts if isinstance(draft, Draft) for digest in draft.uses.data}:
        try:
            found[digest] = await uploads.complete(person, digest)
        except TelepatchError as error:
            found[digest] = error
    return found


def _attempt(work: Callable[[], T]) -> T | TelepatchError:
    try:
        return work()
    except TelepatchError as error:
        return error


def _circle(draft: Draft) -> CausalLoop:
    parent, source = next(iter(draft.uses.parents.items()))
    return CausalLoop(
        f"job {draft.id} uses a value of job {parent}, which in turn waits for it",
        node=source.node,
        file=source.file,
        line=source.line,
        parent=parent,
    )


def known_meta(saved: SavedMeta) -> Meta:
    """What is known of a value that another job saves or will save."""
    shape = None if saved.shape is None else tuple(Size.unknown() if dim is None else dim for dim in saved.shape)
    return Meta(shape, saved.dtype)


def _saved_meta(meta: Meta) -> SavedMeta:
    shape = None if meta.shape is None else tuple(dim if isinstance(dim, int) else None for dim in meta.shape)
    return SavedMeta(shape=shape, dtype=meta.dtype)


def check_seconds(asked: float | None, most: float, model: str) -> None:
    """Refuse a time limit that the model's own would cut."""
    if asked is not None and asked > most:
        raise BadArgument(f"timeout_seconds is {asked:g}; model '{model}' gives a job like this {most:g} s at the most")
