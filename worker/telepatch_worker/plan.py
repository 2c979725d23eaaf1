"""From a job to all that is known of it before it runs: tokens, forwards, moments, and who uses which value."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from pydantic import JsonValue

from telepatch_protocol import refs
from telepatch_protocol.card import ModelCard
from telepatch_protocol.causality import Pass
from telepatch_protocol.check import Checked, check, exact
from telepatch_protocol.errors import BadArgument, NotFound, ShapeError
from telepatch_protocol.graph import Call, Get, Graph, Invoke, Module, Node, Set
from telepatch_protocol.inputs import Input
from telepatch_protocol.jobs import Price
from telepatch_protocol.meta import Meta
from telepatch_protocol.order import refs_of
from telepatch_protocol.price import price
from telepatch_worker.interleave import Moment
from telepatch_worker.layout import shareable

TokenRows = list[list[int]]

WORDS = ("text", "messages")
"""Forms of input that a tokenizer makes ids of."""


@dataclass(frozen=True)
class Task:
    """One job, as the engine takes it.

    Attributes:
        id: of the job.
        graph: its document, with its own constants.
        tokens: token ids of the invokes that are text, by invoke id: rows of equal length. Missing ones are tokenized.
        attachment: the tensors that ``{tensor: name}`` constants name.
        results: the tensors that ``{result: job, name}`` constants name, by job id and name.
    """

    id: str
    graph: Graph
    tokens: Mapping[str, TokenRows] = field(default_factory=dict)
    attachment: Mapping[str, torch.Tensor] = field(default_factory=dict)
    results: Mapping[tuple[str, str], torch.Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Plan:
    """A job that can run.

    Attributes:
        task: the job.
        checked: its graph, with places and forwards.
        tokens: int64 (rows, positions) of every invoke, on the CPU.
        passes: the moments of each forward, in order.
        alone: whether it shares its forwards with no other job.
        reads_engine: whether it reads masks or other things of the engine, which then have to be there.
        price: what it costs.
        pure: nodes that happen when their needs are met, not at a place of the forward.
        users: for each node, the pure nodes that need its value.
        uses: how often each node's value is used until it can go.
        kept: nodes whose values are saved.
    """

    task: Task
    checked: Checked
    tokens: Mapping[str, torch.Tensor]
    passes: tuple[tuple[Moment, ...], ...]
    alone: bool
    reads_engine: bool
    price: Price
    nodes: Mapping[str, Node]
    pure: Mapping[str, frozenset[str]]
    users: Mapping[str, tuple[str, ...]]
    uses: Mapping[str, int]
    needs: Mapping[str, frozenset[str]]
    kept: frozenset[str]

    @property
    def id(self) -> str:
        """Of the job."""
        return self.task.id

    @property
    def longest(self) -> int:
        """Positions of its longest input."""
        return max((rows.shape[1] for rows in self.tokens.values()), default=0)

    @property
    def rows(self) -> int:
        """Rows of all its inputs."""
        return sum(rows.shape[0] for rows in self.tokens.values())

    def invokes(self, number: int) -> tuple[str, ...]:
        """The invokes that take part in a forward."""
        return self.checked.schedule.passes[number].invokes


def make_plan(task: Task, card: ModelCard, tokenize: Callable[[str], list[int]] | None = None) -> Plan:
    """Check a job and lay out its forwards.

    Args:
        task: the job.
        card: of the model.
        tokenize: for text whose tokens do not come with the job.

    Raises:
        GraphError: the job cannot run, or costs too much.
    """
    graph = task.graph
    texts = {invoke.id: _text_tokens(invoke, task, tokenize) for invoke in _invokes(graph) if invoke.form in WORDS}
    checked = _checked(task, card, graph, texts)
    alone = exact(graph) or not _may_share(checked)
    if alone and not exact(graph):
        options = graph.options.model_copy(update={"isolate": True})
        checked = _checked(task, card, graph.model_copy(update={"options": options}), texts)
    tokens = {invoke.id: _tokens(invoke, task, texts, card) for invoke in _invokes(graph)}
    nodes = {node.id: node for node in checked.order}
    needs = {name: frozenset(ref.id for ref in refs_of(node) if ref.id in nodes) for name, node in nodes.items()}
    pure = {name: needs[name] for name, node in nodes.items() if _is_pure(node, checked)}
    passes = tuple(_moments(one, checked) for one in checked.schedule.passes)
    return Plan(
        task=task,
        checked=checked,
        tokens=tokens,
        passes=passes,
        alone=alone,
        reads_engine=any(found.leaf.engine for places in checked.places.values() for found in places),
        price=price(checked, card),
        nodes=nodes,
        pure=pure,
        users=_users(pure),
        uses=_uses(pure, needs, passes),
        needs=needs,
        kept=frozenset(ref.id for text in graph.saves.values() if (ref := refs.parse(text)) is not None),
    )


def _invokes(graph: Graph) -> list[Invoke]:
    return [invoke for run in graph.runs for invoke in run.invokes]


def _checked(task: Task, card: ModelCard, graph: Graph, texts: Mapping[str, TokenRows]) -> Checked:
    def result(job: str, name: str) -> Meta:
        if (job, name) not in task.results:
            raise NotFound(f"job {job} has no result '{name}'", parent=job)
        return _meta(task.results[job, name])

    inputs = {name: Input(len(rows), len(rows[0])) for name, rows in texts.items()}
    attachment = {name: _meta(tensor) for name, tensor in task.attachment.items()}
    return check(graph, card, inputs=inputs, attachment=attachment, results=result)


def _meta(tensor: torch.Tensor) -> Meta:
    return Meta(tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."))


def _text_tokens(invoke: Invoke, task: Task, tokenize: Callable[[str], list[int]] | None) -> TokenRows:
    rows = task.tokens.get(invoke.id)
    if rows is None:
        if invoke.form == "messages":
            raise BadArgument(f"invoke '{invoke.id}' has chat messages, which the gateway makes tokens of; none came")
        if tokenize is None:
            raise BadArgument(f"invoke '{invoke.id}' is text, but this model has no tokenizer; give ids")
        text = _constant(task.graph, invoke.text)
        rows = [tokenize(str(one)) for one in (text if isinstance(text, list) else [text])]
    if len({len(row) for row in rows}) > 1:
        lengths = ", ".join(str(len(row)) for row in rows)
        raise ShapeError(
            f"the texts of invoke '{invoke.id}' have {lengths} tokens; the rows of one invoke have equally many: "
            "make each an invoke of its own"
        )
    if not rows or not rows[0]:
        raise ShapeError(f"the input of invoke '{invoke.id}' has no tokens")
    return rows


def _constant(graph: Graph, value: JsonValue) -> object:
    """What an input stands for: itself, or the constants that it names."""
    return refs.resolve(value, lambda ref: graph.constants.get(ref.id))


def _tokens(invoke: Invoke, task: Task, texts: Mapping[str, TokenRows], card: ModelCard) -> torch.Tensor:
    given = texts[invoke.id] if invoke.id in texts else _constant(task.graph, invoke.ids)
    if isinstance(given, dict):
        given = _tensor_of(given, task)
    found = torch.as_tensor(given, dtype=torch.int64).cpu()
    tokens = found.reshape(-1, found.shape[-1])
    low, high = int(tokens.min()), int(tokens.max())
    if low < 0 or high >= card.vocabulary:
        wrong = low if low < 0 else high
        raise BadArgument(
            f"invoke '{invoke.id}' holds token id {wrong}; model '{card.id}' has 0 to {card.vocabulary - 1}"
        )
    return tokens


def _tensor_of(form: dict[str, object], task: Task) -> object:
    """Ids that are an attached tensor, a range, or a value of an earlier job."""
    if "tensor" in form:
        return task.attachment[str(form["tensor"])]
    if "range" in form:
        bounds = form["range"]
        return list(range(*bounds)) if isinstance(bounds, list) else bounds
    if form.get("index") is not None:
        raise BadArgument("ids taken from a result are taken whole; save the part that is needed under its own name")
    return task.results[str(form["result"]), str(form["name"])]


def _may_share(checked: Checked) -> bool:
    """Whether all its places let its own rows be told from others'."""
    return all(
        shareable(found.leaf.axes, writes=isinstance(node, Set))
        for node in checked.order
        if node.id in checked.places
        for found in checked.places[node.id]
        if found.order >= 0
    )


def _is_pure(node: Node, checked: Checked) -> bool:
    if isinstance(node, Get):
        return checked.places[node.id][0].order < 0
    return isinstance(node, Call | Module)


def _moments(one: Pass, checked: Checked) -> tuple[Moment, ...]:
    return tuple(
        Moment(event.node, event.invoke, event.writes, found.place, found.leaf.axes, event.part)
        for event in one.events
        for found in (checked.places[event.node][event.part],)
    )


def _users(pure: Mapping[str, frozenset[str]]) -> dict[str, tuple[str, ...]]:
    users: dict[str, list[str]] = {}
    for name, needed in pure.items():
        for other in needed:
            users.setdefault(other, []).append(name)
    return {name: tuple(found) for name, found in users.items()}


def _uses(
    pure: Mapping[str, frozenset[str]], needs: Mapping[str, frozenset[str]], passes: tuple[tuple[Moment, ...], ...]
) -> Counter[str]:
    """Once for each pure node that needs a value, and for each moment, as often as it happens."""
    happening = [*pure, *(moment.node for moments in passes for moment in moments)]
    return Counter(needed for name in happening for needed in needs[name])
