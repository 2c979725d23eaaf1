"""An edit before it is stored: held against its model, with what is known of the results and uploads that it uses."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from telepatch_protocol.card import ModelCard
from telepatch_protocol.data import Columns
from telepatch_protocol.errors import BadArgument, Conflict, TelepatchError, UnknownName
from telepatch_protocol.fragments import Fragment
from telepatch_protocol.graph import Graph
from telepatch_protocol.meta import Meta
from telepatch_protocol.trial import check_edit
from telepatch_server.admission import known_meta
from telepatch_server.services import Services
from telepatch_server.uses import uses_of


async def check_stored(fragment: Fragment, card: ModelCard, person: str, found: Services) -> None:
    """Check an edit of a person.

    Raises:
        GraphError: it cannot run.
        NotFound, JobError: a job or an upload that it uses is not there, or has nothing to give.
    """
    constants = fragment.constants | {name: one.default for name, one in fragment.arguments.items()}
    uses = uses_of(Graph(model=fragment.model, nodes=fragment.nodes, constants=constants, saves={}))
    if uses.tensors:
        raise BadArgument(
            f"a stored edit has no attachment, and this one uses the tensor '{min(uses.tensors)}'; upload it "
            "(PUT /v1/data/{sha256}) and write {'data': sha256}"
        )
    saved = {job: (await found.lane.status(person, job)).saves for job in uses.parents}
    await _check_kept(person, saved, found)
    data: dict[str, Columns] = {}
    for digest in uses.data:
        columns = (await found.uploads.complete(person, digest)).upload.columns
        assert columns is not None
        data[digest] = columns

    def result(job: str, name: str) -> Meta:
        if name not in saved[job]:
            raise UnknownName(f"job {job} saves no '{name}'; it saves {', '.join(saved[job]) or 'nothing'}")
        return known_meta(saved[job][name])

    await asyncio.to_thread(check_edit, fragment, card, results=result, data=data)


async def _check_kept(person: str, jobs: Iterable[str], found: Services) -> None:
    """Refuse results that will never be there; those of jobs that are under way will."""
    for one in (await found.lane.results(person, sorted(jobs))).values():
        if isinstance(one, TelepatchError) and not isinstance(one, Conflict):
            raise one
