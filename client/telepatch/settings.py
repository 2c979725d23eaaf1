"""Settings of the client: where the service is and who asks; explicit arguments win over the environment."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, field_validator

from telepatch_protocol.errors import BadArgument
from telepatch_protocol.traceparent import exporters

_PREFIX = "TELEPATCH_"


class Settings(BaseModel):
    """What a connection needs to know.

    Attributes:
        url: address of the gateway, ``http://...`` or ``https://...``.
        api_key: the person's key; none is needed for a service that listens on one's own machine only.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    url: str = Field(default="http://127.0.0.1:8000", pattern=r"^https?://[^/\s]+")
    api_key: SecretStr | None = None

    @field_validator("api_key")
    @classmethod
    def _printable(cls, key: SecretStr | None) -> SecretStr | None:
        if key is not None and not re.fullmatch(r"[!-~]+", key.get_secret_value()):
            raise ValueError("not printable ASCII")
        return key

    @property
    def is_local(self) -> bool:
        """Whether the gateway is on this very machine."""
        host = self.url.partition("://")[2].partition("/")[0].rpartition("@")[2]
        return host.startswith(("127.", "localhost", "[::1]"))

    @classmethod
    def from_environment(cls, *, url: str | None = None, api_key: str | None = None) -> Settings:
        """Settings from ``TELEPATCH_URL`` and ``TELEPATCH_API_KEY``; arguments that are given win.

        Raises:
            BadArgument: a value that cannot be one of these.
        """
        asked = {"url": url, "api_key": api_key}
        found = {
            name: given if given is not None else os.environ.get(_PREFIX + name.upper())
            for name, given in asked.items()
        }
        try:
            return cls.model_validate({name: value for name, value in found.items() if value})
        except ValidationError as error:
            if error.errors()[0]["loc"] == ("api_key",):
                raise BadArgument(
                    "the key holds characters that no key has (spaces, line ends, letters beyond ASCII); "
                    "give it as an argument of connect() or in TELEPATCH_API_KEY"
                ) from None
            raise BadArgument(
                f"{found['url']!r} is no address of a gateway; give one such as 'http://127.0.0.1:8000', "
                "as an argument of connect() or in TELEPATCH_URL"
            ) from None


def traces_exporters(environment: Mapping[str, str] | None = None) -> tuple[str, ...]:
    """Where traces go, by OpenTelemetry's own variables; nowhere unless they say so."""
    return exporters(os.environ if environment is None else environment)
