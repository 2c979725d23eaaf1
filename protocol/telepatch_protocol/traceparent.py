"""W3C trace context: the header that says where in a trace a request belongs, and whether anybody keeps traces."""

from __future__ import annotations

import re
from collections.abc import Mapping

HEADER = "traceparent"

_FORM = re.compile(r"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
_ADDRESSES = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")


def sane(text: str | None) -> str | None:
    """A traceparent, if it is one."""
    return text if text is not None and _FORM.fullmatch(text) else None


def trace_of(traceparent: str) -> str:
    """The id of its trace."""
    return traceparent.split("-")[1]


def exporters(found: Mapping[str, str]) -> tuple[str, ...]:
    """Where traces go by OpenTelemetry's standard variables; nowhere unless one of them says so.

    Args:
        found: the variables of a process.

    Example:
        >>> exporters({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318"})
        ('otlp',)
    """
    if found.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return ()
    asked = found.get("OTEL_TRACES_EXPORTER") or ("otlp" if any(found.get(name) for name in _ADDRESSES) else "")
    return tuple(name for part in asked.split(",") if (name := part.strip()) not in ("", "none"))
