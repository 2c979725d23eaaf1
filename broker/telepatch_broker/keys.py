"""Names of everything this room keeps in Redis; ``scripts/common.lua`` builds the same ones inside scripts.

What belongs to one model carries the model as hash tag, so that it stays together.
"""

from __future__ import annotations

import re

from telepatch_broker.jobs import LaneName
from telepatch_protocol.errors import BadArgument
from telepatch_protocol.jobs import Priority
from telepatch_protocol.meta import shown

DOORBELL = "telepatch:doorbell"
"""Channel: the name of each person whose event stream has grown."""

EXPIRY = "telepatch:expiry"
"""Sorted set: ids of ended jobs by the time at which their result, and later their record, goes."""

GARBAGE = "telepatch:garbage"
"""Sorted set: names of blobs by the time at which they go. Every blob starts here, until a job refers to it."""

USES = "telepatch:uses"
"""Hash: how many unfinished jobs need an attachment, or an upload, whose owner counts as one more."""

UPLOADED = "telepatch:uploaded"
"""Hash: how many bytes of uploads each person has."""

UNFINISHED = "telepatch:unfinished"
"""Sorted set: person and digest of uploads that are not complete, by the time at which they go."""

OWED = "telepatch:owed"
"""Hash: bytes and owners of uploads that were deleted while jobs needed them, by blob."""

UNENDED = "telepatch:unended"
"""Hash: how many jobs of each person have not ended."""

PROMISED = "telepatch:promised"
"""Hash: how many bytes the unended jobs of each person will save."""

STORED = "telepatch:stored"
"""Hash: how many bytes of results of each person are kept."""

KEYED = "telepatch:keyed"
"""String: there is, or once was, an API key."""

IMPORTED = "telepatch:imported"
"""Set: ids of API keys from old files, whose digest is not known until they are shown."""

PEOPLE = "telepatch:people"
"""Set: everybody who has or had an API key or limits, or has used anything."""

MODELS = "telepatch:models"
"""Set: models that ever had a job."""

CARDS = "telepatch:cards"
"""Hash: model cards, as JSON."""

NONCE = "telepatch:nonce"
"""Hash: name and content of the blob by which processes see that they share one blob store."""

QUARANTINE = "telepatch:quarantine"
"""Sorted set: ids of jobs that workers died of, by the time at which they were put there."""

SCHEMA = "telepatch:schema"
"""String: the version of all that stands here."""

PROBE = "telepatch:probe"
"""String that expires: written to see whether writes are taken."""

BACKUP = "telepatch:backup"
"""String that expires: there while a backup copies blobs, of which none is removed meanwhile."""

WANTED = "telepatch:wanted"
"""Hash: models that hosts are to serve, as JSON."""

UNLOADED = "telepatch:unloaded"
"""Set: models that hosts served, and were told to serve no more."""

HOSTS = "telepatch:hosts"
"""Set: names of hosts that ever told of themselves."""

_NAME = re.compile(r"[^\s{}\x00-\x1f]{1,200}")
_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def check_name(what: str, name: str) -> str:
    """The name of a model, person or worker, if it can stand in a key."""
    if not _NAME.fullmatch(name) or not name.isprintable():
        raise BadArgument(
            f"the {what} is named {shown(name)}; 1 to 200 characters that can be seen, without white space and braces, "
            "can be"
        )
    return name


def check_id(id: str) -> str:
    """The id of a job, if it is a UUID as the protocol writes it."""
    if not _ID.fullmatch(id):
        raise BadArgument(f"the job id is {shown(id)}; a UUID in lower case, as new_job_id() gives, can be")
    return id


def job(id: str) -> str:
    """Hash: one job."""
    return f"telepatch:job:{id}"


def quarantined(id: str) -> str:
    """Hash: what is kept of a job in quarantine."""
    return f"telepatch:quarantine:{id}"


def children(id: str) -> str:
    """List: ids of the jobs that wait for this one."""
    return f"telepatch:job:{id}:children"


def of_model(model: str, what: str) -> str:
    """What one model has.

    ``leases`` by deadline, the list that wakes workers (``wake``), ``counts`` by state, ``totals`` of what happened so
    far, ``workers`` and how far each is with ``loading``; the channel ``cancelled``.
    """
    return f"telepatch:{{{model}}}:{what}"


def of_lane(model: str, lane: LaneName, what: str) -> str:
    """What each of its lanes has: ``people`` with queued jobs by virtual time, those ``served`` ahead of the ``clock``.

    Virtual time is in tokens on the interactive lane, and in milliseconds on the long one.
    """
    return of_model(model, f"long:{what}" if lane == "long" else what)


PRIORITIES: tuple[Priority, ...] = ("high", "normal", "low")
"""In the order in which a person's jobs are taken."""

_LISTS: dict[Priority, str] = {"high": "high", "normal": "queue", "low": "low"}


def queue(model: str, person: str, lane: LaneName = "interactive", priority: Priority = "normal") -> str:
    """List: ids of the jobs of a person of one priority that are queued for a model, next one first."""
    return of_lane(model, lane, f"{_LISTS[priority]}:{person}")


def jobs_of(person: str) -> str:
    """Sorted set: ids of all jobs of a person, all with score 0, so that they sort by id."""
    return f"telepatch:person:{person}:jobs"


def upload(person: str, sha256: str) -> str:
    """Hash: an upload of a person."""
    return f"telepatch:person:{person}:upload:{sha256}"


def parts_of(person: str, sha256: str) -> str:
    """List: blobs with the parts of an upload that is not complete."""
    return f"{upload(person, sha256)}:parts"


def uploads_of(person: str) -> str:
    """Sorted set: digests of all uploads of a person, by the time they were begun."""
    return f"telepatch:person:{person}:uploads"


def edits_of(person: str) -> str:
    """Hash: the edits of a person, by name."""
    return f"telepatch:person:{person}:edits"


def events_of(person: str) -> str:
    """Stream: events of all jobs of a person."""
    return f"telepatch:person:{person}:events"


def api_key(id: str) -> str:
    """Hash: what is known of an API key."""
    return f"telepatch:key:{id}"


def secret(digest: str) -> str:
    """String: the id of the API key with this digest."""
    return f"telepatch:secret:{digest}"


def keys_of(person: str) -> str:
    """Sorted set: ids of the API keys of a person, by the time they were made."""
    return f"telepatch:person:{person}:keys"


def limits_of(person: str) -> str:
    """Hash: the limits of a person that are not the usual ones."""
    return f"telepatch:person:{person}:limits"


def pace_of(person: str) -> str:
    """String that expires: up to when the requests of a person use up what they may make."""
    return f"telepatch:person:{person}:pace"


def usage(person: str, day: int) -> str:
    """Hash that expires: what a person has used up on a day, counted from 1970."""
    return f"telepatch:person:{person}:usage:{day}"


def clock(worker: str) -> str:
    """String: jobs that are with a worker, the time that each of them has had, and when that was."""
    return f"telepatch:clock:{worker}"


def worker(id: str) -> str:
    """String that expires: what a worker says of itself, as JSON."""
    return f"telepatch:worker:{id}"


def numbers(id: str) -> str:
    """String that expires: what a worker counted of itself, as JSON."""
    return f"telepatch:worker:{id}:numbers"


def tokenizer(sha256: str) -> str:
    """String: a tokenizer file."""
    return f"telepatch:tokenizer:{sha256}"


def drain(worker: str) -> str:
    """String that expires: there once a worker is asked to end."""
    return f"telepatch:worker:{worker}:drain"


def host(name: str) -> str:
    """String that expires: what a host says of itself, as JSON."""
    return f"telepatch:host:{name}"


def seat(model: str, number: int) -> str:
    """String that expires: the host that has one of the wanted copies of a model."""
    return of_model(model, f"seat:{number}")
