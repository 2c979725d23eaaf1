"""From a job to all that is known of it before it runs: its scopes with their forwards, and what it costs."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch

from telepatch_protocol.adapters import adapter_of
from telepatch_protocol.card import ModelCard
from telepatch_protocol.check import Checked, exact
from telepatch_protocol.checked import places_in
from telepatch_protocol.errors import BadArgument, NotFound, ShapeError, TelepatchError
from telepatch_protocol.fitting import streams
from telepatch_protocol.given import texts
from telepatch_protocol.graph import Fit, Grad, Graph, Map
from telepatch_protocol.inputs import Input
from telepatch_protocol.jobs import Price
from telepatch_protocol.meta import Meta
from telepatch_protocol.newest import Newest
from telepatch_protocol.prepared import MAX_NODES, Preparation, Prepared
from telepatch_protocol.refs import parse
from telepatch_protocol.sites import only_eager
from telepatch_protocol.sizes import Dim
from telepatch_protocol.subgraphs import all_nodes, all_runs, trains
from telepatch_worker.data import Columns, described
from telepatch_worker.scope_plan import ScopePlan, scope_plan

Tokenize = Callable[[str], list[int]]

WORDS = ("text", "messages")
"""Forms of input that a tokenizer makes ids of."""


@dataclass(frozen=True)
class Task:
    """One job, as the engine takes it.

    Attributes:
        id: of the job.
        graph: its document, with its own constants.
        tokens: token ids of texts, by text, and of chat messages, by `chat_key`. Missing texts are tokenized.
        attachment: the tensors that ``{tensor: name}`` constants name.
        results: the tensors that ``{result: job, name}`` constants name, by job id and name.
        data: the columns that ``{data: sha256}`` constants name, by digest and name.
        checkpoint: of its fits, where an earlier attempt came so far.
        spent: seconds that it took to come there.
        timeout_seconds: how long it may compute, if that is less than what the model allows.
    """

    id: str
    graph: Graph
    tokens: Mapping[str, list[int]] = field(default_factory=dict)
    attachment: Mapping[str, torch.Tensor] = field(default_factory=dict)
    results: Mapping[tuple[str, str], torch.Tensor] = field(default_factory=dict)
    data: Mapping[str, Columns] = field(default_factory=dict)
    checkpoint: bytes = b""
    spent: float = 0.0
    timeout_seconds: float | None = None

    def begun(self, checkpoint: bytes, spent: float) -> Task:
        """The same, from a checkpoint on."""
        return replace(self, checkpoint=checkpoint, spent=spent)


@dataclass(frozen=True)
class Plan:
    """A job that can run.

    Attributes:
        task: the job.
        checked: its graph, with the places and forwards of every scope.
        root: how its top level is evaluated.
        tokens: token ids of the texts that stand in it, by text.
        tokenize: for texts that do not, such as rows of data.
        alone: whether it shares its forwards with no other job.
        eager: whether it names a place that exists under eager attention only.
        adapter: that is in force in it; jobs share forwards only under the same one.
        reads_engine: whether it reads masks or other things of the engine, which then have to be there.
        grads: whether it asks for gradients; such jobs share forwards only with each other.
        generates: whether it generates; such jobs begin after those that do not.
        wrt: names of values of which gradients are asked.
        flowing: maps whose outputs go into buffers of fits only, and so are never held as a whole.
        long: whether it trains, and so may run for a long time, in turns with others.
        splits: whether it can run in smaller forwards than it would.
        price: what it costs.
    """

    task: Task
    checked: Checked
    root: ScopePlan
    tokens: Mapping[str, list[int]]
    tokenize: Tokenize | None
    alone: bool
    eager: bool
    adapter: str | None
    reads_engine: bool
    grads: bool
    generates: bool
    wrt: frozenset[str]
    splits: bool
    flowing: frozenset[str]
    long: bool
    price: Price

    @cached_property
    def lengths(self) -> dict[str, int]:
        """Numbers of tokens of its texts."""
        return {text: len(ids) for text, ids in self.tokens.items()}

    @property
    def id(self) -> str:
        """Of the job."""
        return self.task.id

    def ids_of(self, text: str) -> list[int]:
        """Token ids of a text, or of a conversation by its key.

        Raises:
            BadArgument: the model takes token ids only, or nobody has made tokens of the conversation.
        """
        if text in self.tokens:
            return self.tokens[text]
        if text.startswith("\0"):
            raise BadArgument("chat messages are made tokens of by the gateway, and none came")
        if self.tokenize is None:
            raise BadArgument("this model has no tokenizer; give token ids")
        return self.tokenize(text)

    @property
    def longest(self) -> int:
        """Positions of the longest input of its top level, as far as they are known."""
        return max((_known(one.length) for one in self._inputs()), default=0)

    @property
    def rows(self) -> int:
        """Rows of all inputs of its top level, as far as they are known."""
        return sum(_known(one.rows) for one in self._inputs())

    @property
    def kin(self) -> object:
        """Jobs of every kind may run together; whose forwards are shared shows as they come."""
        return None

    def _inputs(self) -> Iterator[Input]:
        return iter(self.root.inputs().values())


def _known(dim: Dim) -> int:
    return dim if isinstance(dim, int) else 1


class Planner:
    """Lays out jobs of one model; those that are alike once.

    Args:
        card: of the model.
        tokenize: for text whose tokens do not come with a job.
    """

    def __init__(self, card: ModelCard, tokenize: Tokenize | None = None) -> None:
        self._card = card
        self._tokenize = tokenize
        self._preparation = Preparation(card)
        self._plans: Newest[Hashable, Plan] = Newest(MAX_NODES)

    def plan(self, task: Task) -> Plan:
        """Check a job and lay out its forwards.

        Raises:
            GraphError: the job cannot run, or costs too much.
        """
        tokens = _tokens(task, self._tokenize)
        prepared = self._prepared(task, task.graph, tokens)
        known = None if prepared.key is None else self._plans.get(prepared.key)
        if known is not None and (exact(task.graph) or not known.alone):
            return replace(known, task=task, checked=prepared.checked, tokens=tokens)
        plan = self._planned(task, prepared, tokens)
        if prepared.key is not None:
            self._plans.put(
                prepared.key, replace(plan, task=Task("", task.graph), tokens={}), 1 + len(task.graph.nodes)
            )
        return plan

    def _planned(self, task: Task, prepared: Prepared, tokens: Mapping[str, list[int]]) -> Plan:
        graph, card = task.graph, self._card
        root = _root(prepared.checked)
        alone = exact(graph) or not card.shares or not root.shares()
        if alone and not exact(graph):
            options = graph.options.model_copy(update={"isolate": True})
            prepared = self._prepared(task, graph.model_copy(update={"options": options}), tokens)
            root = _root(prepared.checked)
        nodes = list(all_nodes(graph))
        long = trains(graph)
        gradients = [node for node in nodes if isinstance(node, Grad)]
        return Plan(
            task=task,
            checked=prepared.checked,
            root=root,
            tokens=tokens,
            tokenize=self._tokenize,
            alone=alone,
            eager=only_eager(places_in(prepared.checked.scope)) is not None,
            adapter=adapter_of(graph, card),
            reads_engine=root.reads_engine(),
            grads=bool(gradients) or long,
            generates=any(run.generate is not None for run in all_runs(graph)),
            wrt=frozenset(ref.id for node in gradients for one in node.wrt if (ref := parse(one)) is not None),
            splits=any(isinstance(node, Map | Fit) for node in nodes),
            flowing=streams(graph, nodes),
            long=long,
            price=prepared.price,
        )

    def _prepared(self, task: Task, graph: Graph, tokens: Mapping[str, list[int]]) -> Prepared:
        def result(job: str, name: str) -> Meta:
            if (job, name) not in task.results:
                raise NotFound(f"job {job} has no result '{name}'", parent=job)
            return _meta(task.results[job, name])

        return self._preparation.prepare(
            graph,
            lengths={text: len(ids) for text, ids in tokens.items()},
            attachment={name: _meta(tensor) for name, tensor in task.attachment.items()},
            results=result,
            data={digest: described(columns) for digest, columns in task.data.items()},
        )


def _root(checked: Checked) -> ScopePlan:
    return scope_plan(checked.scope, list(checked.graph.saves.values()), set())


def _meta(tensor: torch.Tensor) -> Meta:
    return Meta(tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."))


def _tokens(task: Task, tokenize: Tokenize | None) -> dict[str, list[int]]:
    """Token ids of every text that an invoke may take."""
    found = {key: list(ids) for key, ids in task.tokens.items()}
    for invoke, text in texts(task.graph):
        try:
            if text not in found:
                if tokenize is None:
                    raise BadArgument(f"invoke '{invoke}' is text, but this model has no tokenizer; give ids")
                found[text] = tokenize(text)
            if not found[text]:
                raise ShapeError(f"the input of invoke '{invoke}' has no tokens")
        except TelepatchError as error:
            raise task.graph.blame(error, invoke) from None
    return found
