"""Where the queue and the blobs of a deployment are: settings that gateway, workers and tools share."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self
from urllib.parse import quote, urlencode, urlsplit

from pydantic import Field, field_validator, model_validator

from telepatch_broker.blobs import Blobs, DirectoryBlobs
from telepatch_broker.connection import connect
from telepatch_broker.s3_blobs import SCHEME, S3Blobs, check_place
from telepatch_protocol.environment import Variables
from telepatch_protocol.errors import BadArgument

_TLS = {"redis_ca_file": "ssl_ca_certs", "redis_cert_file": "ssl_certfile", "redis_key_file": "ssl_keyfile"}


class Places(Variables):
    """Where the queue is, and where results are.

    Attributes:
        redis_url: ``redis://``, ``rediss://`` or ``unix://``, with the ACL user before the ``@`` if there is one.
        redis_password_file: a file that holds the password, which then stands neither in the address nor in a list of
            processes.
        redis_ca_file: certificates of authorities that may have signed the server's; the system's if left out.
        redis_cert_file: the certificate that this process shows to the server, PEM.
        redis_key_file: the key of that certificate, PEM.
        blobs: folder for results and attachments, or ``s3://BUCKET/PREFIX``.
    """

    redis_url: str = Field(default="redis://127.0.0.1:6379/0", repr=False)
    redis_password_file: Path | None = None
    redis_ca_file: Path | None = None
    redis_cert_file: Path | None = None
    redis_key_file: Path | None = None
    blobs: Path | str = Path("~/.local/share/telepatch/blobs")

    @field_validator("redis_url")
    @classmethod
    def _an_address(cls, value: str) -> str:
        try:
            connect(value)  # sends nothing yet
        except BadArgument as error:
            raise ValueError(error.detail) from None
        return value

    @field_validator("redis_password_file", "redis_ca_file", "redis_cert_file", "redis_key_file")
    @classmethod
    def _there(cls, value: Path | None) -> Path | None:
        if value is None:
            return None
        if not (found := value.expanduser()).is_file():
            raise ValueError("there is no such file")
        return found

    @field_validator("blobs", mode="before")
    @classmethod
    def _folder_or_bucket(cls, value: Any) -> Any:
        return check_place(value) if str(value).startswith(SCHEME) else Path(value).expanduser()

    @model_validator(mode="after")
    def _together(self) -> Self:
        if self.redis_password_file is not None and urlsplit(self.redis_url).password:
            raise ValueError(
                "TELEPATCH_REDIS_URL has a password, and TELEPATCH_REDIS_PASSWORD_FILE too; give one of both"
            )
        if not self.redis_url.startswith("rediss://") and any(getattr(self, name) for name in _TLS):
            named = ", ".join(f"TELEPATCH_{name.upper()}" for name in _TLS if getattr(self, name))
            raise ValueError(f"{named} is for TLS: TELEPATCH_REDIS_URL has to begin with rediss://")
        if (self.redis_cert_file is None) != (self.redis_key_file is None):
            raise ValueError(
                "TELEPATCH_REDIS_CERT_FILE and TELEPATCH_REDIS_KEY_FILE go together; one of them is missing"
            )
        return self

    @property
    def queue(self) -> str:
        """The address with all that it takes to be let in, for `telepatch_broker.connection.connect`; never shown.

        Raises:
            BadArgument: the password file cannot be read, or is empty.
        """
        parts = urlsplit(self.redis_url)
        netloc, query = parts.netloc, parts.query
        if self.redis_password_file is not None:
            user, _, place = netloc.rpartition("@")
            netloc = f"{user.partition(':')[0]}:{quote(_password(self.redis_password_file), safe='')}@{place}"
        files = {option: str(getattr(self, name)) for name, option in _TLS.items() if getattr(self, name)}
        query = "&".join(part for part in (query, urlencode(files)) if part)
        return f"{parts.scheme}://{netloc}{parts.path}" + (f"?{query}" if query else "")

    @property
    def shown_queue(self) -> str:
        """The address without anything secret."""
        return without_password(self.redis_url)


def without_password(url: str) -> str:
    """An address of Redis, without the password that it may have."""
    parts = urlsplit(url)
    user, at, place = parts.netloc.rpartition("@")
    name = user.partition(":")[0]
    return f"{parts.scheme}://{name}{at if name else ''}{place}{parts.path}"


def refuse_password(url: str | None, option: str = "--redis-url") -> None:
    """Everybody on a machine can read the command lines of its processes.

    Raises:
        BadArgument: the address, from a command line, has a password.
    """
    if url is not None and urlsplit(url).password:
        raise BadArgument(
            f"{option} has a password, which everybody on this machine could read in its list of processes; set "
            "TELEPATCH_REDIS_URL, or put the password in a file and give that as TELEPATCH_REDIS_PASSWORD_FILE"
        )


def open_blobs(place: Path | str) -> Blobs:
    """The blobs of a folder, or of a bucket.

    Raises:
        BadArgument: the package that speaks to buckets is not installed.
    """
    return S3Blobs(place) if isinstance(place, str) else DirectoryBlobs(place)


def _password(file: Path) -> str:
    try:
        found = file.read_text(encoding="utf-8").strip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        raise BadArgument(f"TELEPATCH_REDIS_PASSWORD_FILE: {file} cannot be read: {error}") from None
    if not found:
        raise BadArgument(f"TELEPATCH_REDIS_PASSWORD_FILE: {file} is empty; it holds the password, and nothing else")
    return found
