"""Edits at the door: those that submissions apply are looked up once, and put in place before anything is checked."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace

from telepatch_broker.edits import Edits
from telepatch_broker.lane import Lane
from telepatch_protocol.checked import Checked
from telepatch_protocol.errors import Conflict, NotFound, TelepatchError
from telepatch_protocol.expanding import Expanded, Origin, expand, names_of
from telepatch_protocol.fragments import Fragment
from telepatch_protocol.graph import Graph
from telepatch_protocol.wire import decode_edit, edits_of
from telepatch_server.bodies import LARGE, aside
from telepatch_server.catalogue import Model

Found = Mapping[str, Fragment | TelepatchError]


async def stored_edits(graphs: Iterable[Graph | TelepatchError], person: str, edits: Edits) -> Found:
    """The edits of a person that some graphs apply and do not bring along; those that are not there are left out."""
    names = {name for graph in graphs if isinstance(graph, Graph) for name in names_of(graph)}
    found = await edits.some(person, sorted(names))
    large = sum(len(one.document) for one in found.values()) > LARGE
    return await aside(large, lambda: {name: _read(one.document) for name, one in found.items()})


def placed_edits(
    graph: Graph | TelepatchError, models: Mapping[str, Model | TelepatchError], stored: Found
) -> Expanded | None:
    """A document with all its edits in place, its own in front of stored ones of their names; None without a model.

    Raises:
        GraphError, NotFound: an edit that cannot be applied, at the line of the input.
    """
    if isinstance(graph, TelepatchError):
        return None
    model = models[graph.model.id]
    if isinstance(model, TelepatchError):
        return None
    known = {**stored, **edits_of(graph)} if graph.edits else stored
    return expand(graph, known, most=model.card.limits.max_nodes)


async def lost_results(placed: Iterable[Expanded], person: str, lane: Lane) -> dict[str, TelepatchError]:
    """Jobs whose values edits use, and which have none to give any more, each with the reason."""
    jobs = {job for one in placed for _, job, _ in _uses(one) if job}
    found = await lane.results(person, sorted(jobs)) if jobs else {}
    # Not found are those of this very submission, and of nobody, of which others tell; not ended will be there in time.
    return {
        job: one
        for job, one in found.items()
        if isinstance(one, TelepatchError) and not isinstance(one, NotFound | Conflict)
    }


def refuse_lost(expanded: Expanded, earlier: Mapping[str, object], data: Mapping[str, object]) -> None:
    """Refuse an edit whose results or uploads are gone.

    Raises:
        TelepatchError: naming the edit, at the line of the input.
    """
    for origin, job, digest in _uses(expanded):
        found = earlier.get(job) if job else data.get(digest)
        if isinstance(found, TelepatchError):
            what = f"a value of job {job}" if job else f"upload {digest}"
            error = type(found)(f"edit '{origin.edit}' uses {what}: {found.detail}", parent=job or None)
            raise expanded.graph.blame(error, origin.invoke)


def _uses(expanded: Expanded) -> Iterator[tuple[Origin, str, str]]:
    """Jobs and uploads that constants of edits name, one of the two empty."""
    for name, origin in expanded.constants.items():
        form = expanded.graph.constants.get(name)
        if isinstance(form, dict) and isinstance(form.get("result"), str):
            yield origin, str(form["result"]), ""
        elif isinstance(form, dict) and isinstance(form.get("data"), str):
            yield origin, "", str(form["data"])


def quiet(checked: Checked, expanded: Expanded) -> Checked:
    """Without warnings about an edit's own writes: whoever applies it need not look at all that it changes."""
    own = tuple(f"write '{node}' " for node in expanded.origins)
    if not own:
        return checked
    return replace(checked, warnings=tuple(one for one in checked.warnings if not one.startswith(own)))


def _read(document: str) -> Fragment | TelepatchError:
    """An edit as it was stored, which an older service may have taken that knew less."""
    try:
        return decode_edit(document)
    except TelepatchError as error:
        return error
