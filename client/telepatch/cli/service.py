"""How the command line asks a gateway: one request, one answer, errors as the classes they are."""

from __future__ import annotations

import json
from types import TracebackType
from typing import Annotated, Any, Final, Self

import httpx
import typer

from telepatch.cli import exits
from telepatch.settings import Settings
from telepatch_protocol.errors import BadArgument, ConnectionFailed, ErrorRecord, ServiceError, from_record

TIMEOUT_S: Final = 60.0
_FIELDS: Final = tuple(ErrorRecord.model_fields)

Url = Annotated[
    str | None,
    typer.Option(help="The gateway; else TELEPATCH_URL, else http://127.0.0.1:8000.", show_default=False),
]
Key = Annotated[str | None, typer.Option(help="Your API key; else TELEPATCH_API_KEY.", show_default=False)]


class Service:
    """A gateway, and whoever's key it is asked with.

    Args:
        url: where it listens; None takes the environment's.
        key: API key; None takes the environment's. A gateway on loopback may need none.

    Raises:
        typer.Exit: the address is none; that has been said.
    """

    def __init__(self, url: str | None, key: str | None) -> None:
        try:
            settings = Settings.from_environment(url=url, api_key=key)
        except BadArgument as error:
            typer.echo(f"telepatch: {error}", err=True)
            raise typer.Exit(exits.USAGE) from None
        self.url = settings.url.rstrip("/")
        headers = {"Authorization": f"Bearer {settings.api_key.get_secret_value()}"} if settings.api_key else {}
        self._http = httpx.Client(base_url=self.url, headers=headers, timeout=TIMEOUT_S)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._http.close()

    def ask(self, method: str, path: str, *, refused: int | None = None, **request: Any) -> httpx.Response:
        """Send one request.

        Args:
            method: of HTTP.
            path: from the gateway's root.
            refused: a status that is no problem document but an answer to be read, though it says no.
            request: as httpx takes it.

        Raises:
            ConnectionFailed: nobody answers there.
            TelepatchError: the gateway refused; of the class that it named.
        """
        try:
            answer = self._http.request(method, path, **request)
        except (httpx.TransportError, httpx.InvalidURL) as error:
            raise ConnectionFailed(f"no gateway answers at {self.url} ({error}); is it running?") from None
        if answer.is_error and not (answer.status_code == refused and "jobs" in answer.json()):
            raise _refusal(answer)
        return answer


def _refusal(answer: httpx.Response) -> Exception:
    """The error that an answer stands for."""
    try:
        body = answer.json()
    except json.JSONDecodeError:
        body = None
    if isinstance(body, dict) and "code" in body and "detail" in body:
        return from_record({name: body[name] for name in _FIELDS if name in body})
    return ServiceError(f"{answer.request.url} answered {answer.status_code}, and not as a gateway of Telepatch does")
