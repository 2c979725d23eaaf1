"""A connection to a service: its models, and the jobs that one person runs there."""

from __future__ import annotations

from collections.abc import Coroutine
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn, overload
from urllib.parse import quote, urlencode
from weakref import WeakValueDictionary

import numpy as np

from telepatch import lifetime, uploading
from telepatch.applying import Travelling
from telepatch.blocks import Block
from telepatch.builder import Builder
from telepatch.conversation import Parcel
from telepatch.courier import Courier
from telepatch.data import DataColumn, Dataset
from telepatch.lines import here, points_home
from telepatch.model import Model
from telepatch.outcome import Outcome
from telepatch.prompt_tokens import TokenMemory
from telepatch.queueing import USUAL, Queueing
from telepatch.rename import Rename
from telepatch.scan import tried
from telepatch.settings import Settings
from telepatch.shown import Hear, printed
from telepatch.stored_edits import StoredEdit, forget, store
from telepatch.tokens import Tokens
from telepatch.transport import Transport
from telepatch.values import Value
from telepatch_protocol.card import ModelCard
from telepatch_protocol.data import Upload
from telepatch_protocol.errors import BadArgument, TelepatchError, TraceError
from telepatch_protocol.graph import Graph
from telepatch_protocol.jobs import ENDED, JobStatus, Price
from telepatch_protocol.understood import understood

if TYPE_CHECKING:
    import httpx

Array = np.ndarray[Any, Any]


@points_home
def connect(
    url: str | None = None,
    api_key: str | None = None,
    *,
    transport: httpx.AsyncBaseTransport | None = None,
    progress: bool | None = None,
    show: Hear | None = printed,
    priority: str | None = None,
    timeout_seconds: float | None = None,
) -> Lab:
    """Reach a service.

    Args:
        url: address of its gateway; ``TELEPATCH_URL`` if left out, else ``http://127.0.0.1:8000``.
        api_key: the person's key; ``TELEPATCH_API_KEY`` if left out.
        transport: what carries the bytes, in place of the network.
        progress: whether long waits are shown on standard error, with a bar over all traces that are under way; if left
            out, they are where somebody watches: in a terminal or a notebook.
        show: called with what jobs show (`telepatch.show`) as it comes, from a thread of the connection; prints it on
            standard error if left out, and None is for silence.
        priority: of all jobs from here among one's own: ``"low"`` ones come after all others, ``"high"`` ones before
            them, where the service allows it; `Model.queued` says it for some.
        timeout_seconds: how long each job may compute; longer, and it fails with `TimeLimit`.

    Returns:
        The connection, which is also a context manager, for ``with`` and ``async with``. Nothing is sent yet.

    Raises:
        BadArgument: an address, a key, a priority or a time that cannot be one.

    Example:
        >>> lab = telepatch.connect("http://127.0.0.1:8000")
        >>> model = lab.model("smollm2-135m")
    """
    settings = Settings.from_environment(url=url, api_key=api_key)
    queueing = Queueing.of(priority, timeout_seconds)
    return Lab(settings, transport=transport, progress=progress, show=show, queueing=queueing)


class Lab:
    """A connection to a service; made by `connect`."""

    def __init__(
        self,
        settings: Settings,
        *,
        transport: httpx.AsyncBaseTransport | None = None,
        progress: bool | None = None,
        show: Hear | None = printed,
        queueing: Queueing = USUAL,
    ) -> None:
        self.settings = settings
        self._progress = progress
        self._show = show
        self._queueing = queueing
        self._courier = Courier(lambda: Transport(settings, transport), progress=progress)
        self.token_memory = TokenMemory()
        self._outcomes: WeakValueDictionary[str, Outcome] = WeakValueDictionary()

    @points_home
    def model(self, id: str, *, rename: Rename | None = None) -> Model:
        """A model that the service holds.

        Args:
            id: its name, as `models` lists it.
            rename: names of one's own: paths of modules, in which a star stands for the number of a layer, and for a
                module names of its ports. They are held against the model at once; what is sent has its own names.

        Raises:
            NotFound: there is no such model.
            UnknownSite: what a name of `rename` means is not there.
            BadArgument: a name of `rename` is taken, or cannot be one.
            ConnectionFailed: nothing answers at the address.

        Example:
            >>> names = {"layers": "transformer.h", "layers.*.attention": "transformer.h.*.attn"}
            >>> model = lab.model("gpt2-random", rename=names | {"layers.*": {"resid": "output"}})
            >>> model.layers[2].resid
        """
        found = self._ask("GET", f"/v1/models/{quote(id, safe='')}")
        return Model(understood(ModelCard, found["card"]), self, rename)

    @points_home
    def models(self) -> list[dict[str, Any]]:
        """What the service holds: ``id``, ``title``, ``kind``, ``queued``, ``workers``... of each model."""
        found: list[dict[str, Any]] = self._ask("GET", "/v1/models")["models"]
        return found

    @points_home
    def wait(self) -> None:
        """Block until everything that was submitted from here has ended, well or not."""
        outcomes = list(self._courier.conversation.open.values())
        if outcomes:
            self._courier.wait_for_end(outcomes)

    async def wait_soon(self) -> None:
        """As `wait`, in an asynchronous program."""
        for outcome in list(self._courier.conversation.open.values()):
            await outcome.until_ended()

    @points_home
    def result(self, job: str | Block, name: str | None = None) -> Any:
        """What a job of one's own saved, also one that another program submitted; waits for its end.

        Args:
            job: its trace or its id.
            name: of one saved value.

        Returns:
            The array of that name; without a name, all arrays by name.

        Raises:
            NotFound: no such job or name.
            JobError: the job failed.
        """
        outcome = self._outcome(_id(job))
        if name is not None:
            return outcome.array(name)
        self._courier.wait([outcome])
        error = outcome.error()
        if error is not None:
            self._courier.looked_at(outcome)
            raise error
        return {saved: outcome.array(saved) for saved in outcome.names()}

    @points_home
    def status(self, job: str | Block) -> JobStatus:
        """How a job is: its state, position, timings, price and error."""
        self._courier.flush()
        return understood(JobStatus, self._ask("GET", f"/v1/jobs/{_id(job)}"))

    @points_home
    def jobs(self, state: str | None = None, limit: int = 50) -> list[JobStatus]:
        """One's own jobs, newest first, also those of other programs; of one state only, where one is given."""
        asked = {"limit": limit, **({} if state is None else {"state": state})}
        return [JobStatus.model_validate(one) for one in self._ask("GET", f"/v1/jobs?{urlencode(asked)}")["jobs"]]

    @overload
    def cancel(self) -> int: ...

    @overload
    def cancel(self, job: str | Block) -> str: ...

    @points_home
    def cancel(self, job: str | Block | None = None) -> str | int:
        """Stop a job that has not ended, or all that were submitted from here.

        Args:
            job: its trace or its id; all of this connection if left out.

        Returns:
            The state that the job is in afterwards; of all, how many were stopped.
        """
        if job is None:
            return self._courier.cancel()
        found = self.status(job)
        if found.state in ENDED:
            return found.state
        return understood(JobStatus, self._ask("DELETE", f"/v1/jobs/{found.id}")).state

    @points_home
    def tokenize(self, model: str, texts: list[str], special: bool = True) -> list[Tokens]:
        """Tokens of texts; `Model.tokenize` is the convenient form."""
        body = {"model": model, "text": texts, "special": special}
        return [Tokens.of(row) for row in self._ask("POST", "/v1/tokenize", body)["rows"]]

    @points_home
    def tokenize_chats(self, model: str, conversations: list[Any], settings: dict[str, Any]) -> list[Tokens]:
        """Tokens of conversations as the chat template renders them; `Model.tokenize` is the convenient form."""
        body = {"model": model, "messages": conversations, "chat": settings}
        return [Tokens.of(row) for row in self._ask("POST", "/v1/tokenize", body)["rows"]]

    @points_home
    def pieces(self, model: str, rows: list[list[int]]) -> list[Tokens]:
        """Token ids with the text of each."""
        found = self._ask("POST", "/v1/detokenize", {"model": model, "ids": rows})["rows"]
        return [Tokens.of({"pieces": row["pieces"]}, ids) for row, ids in zip(found, rows, strict=True)]

    @points_home
    def detokenize(self, model: str, rows: list[list[int]]) -> list[str]:
        """Texts of rows of token ids; `Model.detokenize` is the convenient form."""
        found = self._ask("POST", "/v1/detokenize", {"model": model, "ids": rows})["rows"]
        return [str(row["text"]) for row in found]

    @points_home
    def me(self) -> dict[str, Any]:
        """Who asks, and what the service allows them."""
        found: dict[str, Any] = self._ask("GET", "/v1/me")
        return found

    @points_home
    def upload(self, data: Any, *, name: str = "values") -> DataColumn:
        """Send data once, to be used in many traces by reference; sends nothing if the service has it already.

        Args:
            data: an array of numpy or PyTorch, or a list of texts, of numbers, or of arrays or lists of numbers, which
                may differ in length. The first axis counts rows. Double precision is sent as single.
            name: of the column that it becomes.

        Returns:
            The column: a value inside any trace, if its rows have one shape.

        Raises:
            BadArgument: something that is no column.
            PayloadTooLarge: more than one upload, or all of one's uploads, may have.

        Example:
            >>> directions = lab.upload(np.random.randn(1000, 576))
            >>> with model.trace("Hello"):
            ...     scores = (model.blocks[8].resid_post[:, -1] @ directions.T).save()
        """
        return self.dataset(**{name: data})[name]

    async def upload_soon(self, data: Any, *, name: str = "values") -> DataColumn:
        """As `upload`, in an asynchronous program."""
        return (await self.dataset_soon(**{name: data}))[name]

    @points_home
    def dataset(self, **columns: Any) -> Dataset:
        """Send several columns of equally many rows as one; see `upload`.

        Args:
            **columns: by name, each as `upload` takes it.

        Example:
            >>> data = lab.dataset(prompt=["Paris is in", "Rome is in"], label=np.array([0, 1]))
            >>> data.label.shape
            (2,)
        """
        file = uploading.File.of(columns)
        with uploading.Sending(file, shown=self._progress) as progress:
            self._courier.run(lambda transport: uploading.send(transport, file, progress.sent))
        return Dataset(self._courier, file.digest, len(file.data), file.columns)

    async def dataset_soon(self, **columns: Any) -> Dataset:
        """As `dataset`, in an asynchronous program."""
        import asyncio

        file = await asyncio.to_thread(uploading.File.of, columns)
        with uploading.Sending(file, shown=self._progress) as progress:
            await self._courier.run_soon(lambda transport: uploading.send(transport, file, progress.sent))
        return Dataset(self._courier, file.digest, len(file.data), file.columns)

    @points_home
    def uploads(self) -> list[Dataset]:
        """All data of one's own that the service holds, oldest first."""
        found = [understood(Upload, one) for one in self._ask("GET", "/v1/data")["uploads"]]
        return [Dataset(self._courier, one.sha256, one.bytes, one.columns) for one in found if one.columns is not None]

    @points_home
    def edits(self) -> list[StoredEdit]:
        """All edits of one's own that the service has, by name; `Model.edit` makes one."""
        return [StoredEdit(self, one) for one in self._ask("GET", "/v1/edits")["edits"]]

    def store_edit(self, name: str, whole: Travelling) -> None:
        """Have the service keep an edit, with the arrays in it as uploads.

        Raises:
            GraphError: the service says why it cannot be applied; nothing is stored.
        """
        store(self._courier, name, whole, shown=self._progress)

    def delete_edit(self, name: str) -> None:
        """Have the service forget an edit."""
        forget(self._courier, name)

    def dry_run(self, job: str, graph: Graph, attachment: bytes) -> Price | TelepatchError:
        """What the gateway says of a job without queueing it: its price, or why it is refused."""
        self._courier.flush()
        return self._courier.run(lambda transport: tried(transport, job, graph, attachment))

    def flush(self) -> None:
        """Wait until everything that was submitted is with the gateway."""
        self._courier.flush()

    def close(self) -> None:
        """Send what is left, disconnect, and tell of failures that nobody has looked at."""
        lifetime.report(self._courier.close())

    def submit(self, builder: Builder, graph: Graph) -> Outcome:
        """Hand over a finished trace."""
        parcel = self._parcel(builder, graph)
        self._courier.submit(parcel)
        return parcel.outcome

    async def submit_soon(self, builder: Builder, graph: Graph) -> Outcome:
        """As `submit`, in an asynchronous program."""
        parcel = self._parcel(builder, graph)
        await self._courier.submit_soon(parcel)
        return parcel.outcome

    def __enter__(self) -> Lab:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    async def __aenter__(self) -> Lab:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        import asyncio

        await asyncio.to_thread(self.close)

    @points_home
    def __reduce__(self) -> NoReturn:
        raise TraceError("a connection goes to no other process; connect there anew")

    def __repr__(self) -> str:
        return f"<lab at {self.settings.url}, {len(self._courier.conversation.open)} jobs under way>"

    def _parcel(self, builder: Builder, graph: Graph) -> Parcel:
        outcome = Outcome(builder.job, self._courier, builder.opened, builder.places, self._show)
        self._outcomes[builder.job] = outcome
        parents = [parent.outcome for parent in builder.parents.values() if parent.outcome is not None]
        return Parcel.of(outcome, graph, builder.tensors, parents, builder.queueing.over(self._queueing))

    def _outcome(self, job: str) -> Outcome:
        known = self._outcomes.get(job)
        if known is not None:
            return known
        outcome = Outcome(job, self._courier, here(), hear=self._show)
        outcome.state = "asked"
        self._outcomes[job] = outcome
        self._courier.follow(outcome)
        return outcome

    def _ask(self, method: str, path: str, body: object = None) -> Any:
        def work(transport: Transport) -> Coroutine[Any, Any, Any]:
            return transport.ask(method, path, body)

        return self._courier.run(work)


def gather(*values: Any) -> Any:
    """The numbers of many saved values: waits for all of them together and fetches them in one request.

    Args:
        values: saved values, or lists, tuples and dicts of them.

    Returns:
        Arrays in the same structure: of one argument its own, of several a list.

    Raises:
        TelepatchError: one of the jobs failed.

    Example:
        >>> kept = []
        >>> for prompt in prompts:
        ...     with model.trace(prompt):
        ...         kept.append(model.lm_head.output[:, -1].save())
        >>> arrays = telepatch.gather(kept)
    """
    return _gathered(values)


@points_home
def _gathered(values: tuple[Any, ...]) -> Any:
    from telepatch.looking import looked

    found: list[Value] = []
    _collect(values, found)
    by_courier: dict[int, tuple[Any, list[Outcome]]] = {}
    for value in found:
        outcome = value._outcome()
        by_courier.setdefault(id(outcome.waiting), (outcome.waiting, []))[1].append(outcome)
    for courier, outcomes in by_courier.values():
        courier.wait(list(dict.fromkeys(outcomes)))
    arrays = looked(list(values))
    return arrays[0] if len(values) == 1 else arrays


def _collect(thing: Any, found: list[Value]) -> None:
    from telepatch.outputs import Outputs

    if isinstance(thing, Value):
        found.append(thing)
    elif isinstance(thing, list | tuple | Outputs):
        for one in thing:
            _collect(one, found)
    elif isinstance(thing, dict):
        for one in thing.values():
            _collect(one, found)
    elif not isinstance(thing, np.ndarray | int | float | str | None.__class__):
        raise BadArgument(
            f"gather takes saved values, and lists, tuples and dicts of them; found {type(thing).__name__}"
        )


def _id(job: str | Block) -> str:
    return job.job if isinstance(job, Block) else str(job)
