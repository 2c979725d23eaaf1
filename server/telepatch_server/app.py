"""The application: every call, wrapped, with its services."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import Any

from fastapi import Depends, FastAPI
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema
from starlette.middleware import Middleware

from telepatch_broker.tracing import Traces
from telepatch_protocol.card import Frozen
from telepatch_protocol.fragments import Fragment
from telepatch_protocol.jobs import Submission
from telepatch_server import problems
from telepatch_server.access import Logged
from telepatch_server.auth import PROTECTED
from telepatch_server.bodies import Limited
from telepatch_server.lingering import Lingering
from telepatch_server.metrics import Measured, Metrics
from telepatch_server.queries import known_only
from telepatch_server.routes import (
    admin,
    data,
    edits,
    events,
    health,
    jobs,
    me,
    models,
    operations,
    results,
    words,
    worker_blobs,
)
from telepatch_server.services import running
from telepatch_server.settings import Settings
from telepatch_server.tracing import Traced

ROUTERS = tuple(
    part.router for part in (jobs, events, results, data, edits, models, words, me, operations, worker_blobs, health)
)


class Problem(Frozen):
    """An error as RFC 9457 has it; `code` is its class, `node`, `file` and `line` the place in the author's program."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    node: str | None = None
    file: str | None = None
    line: int | None = None
    parent: str | None = None


def create_app(settings: Settings, traces: Traces | None = None) -> FastAPI:
    """The gateway as an ASGI application; it connects when it is started, and not before.

    Args:
        settings: what it is told.
        traces: where spans of requests go, if anywhere.

    Example:
        >>> app = create_app(Settings(redis_url="redis://localhost"))
    """
    metrics = Metrics()
    return _documented(
        problems.install(
            _with_calls(
                FastAPI(
                    title="Telepatch",
                    version=version("telepatch"),
                    summary="Read and change what happens inside neural networks that run elsewhere.",
                    lifespan=_lifespan(settings, metrics),
                    dependencies=[Depends(known_only)],
                    middleware=[
                        *([] if traces is None else [Middleware(Traced, traces=traces)]),
                        Middleware(Logged),
                        Middleware(Measured, metrics=metrics),
                        Middleware(Lingering),
                        Middleware(
                            Limited,
                            most=settings.gateway_body_bytes,
                            seconds=settings.gateway_body_seconds,
                            others={
                                worker_blobs.PREFIX: settings.gateway_blob_bytes,
                                data.PREFIX: settings.gateway_upload_bytes,
                            },
                        ),
                    ],
                )
            )
        )
    )


def _with_calls(app: FastAPI) -> FastAPI:
    for router in ROUTERS:
        app.include_router(router)
    app.include_router(admin.router, dependencies=PROTECTED)
    return app


def _lifespan(settings: Settings, metrics: Metrics) -> Any:
    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with running(settings, metrics) as services:
            app.state.services = services
            app.state.people, app.state.usage = services.people, services.usage
            yield

    return lifespan


def _documented(app: FastAPI) -> FastAPI:
    """OpenAPI with the bodies that are read by hand, and the problems."""
    plain = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            schemas = plain().setdefault("components", {}).setdefault("schemas", {})
            for name, schema in _schemas(
                (
                    Problem,
                    Submission,
                    Fragment,
                    jobs.Cancelling,
                    results.Wanted,
                    words.Tokenize,
                    words.Detokenize,
                    admin.NewKeyWanted,
                    admin.Rotation,
                    admin.Limiting,
                    admin.OldKeys,
                    operations.Load,
                )
            ):
                schemas.setdefault(name, schema)
        assert app.openapi_schema is not None
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]
    return app


def _schemas(models: tuple[type[BaseModel], ...]) -> list[tuple[str, dict[str, Any]]]:
    _, found = models_json_schema(
        [(model, "validation") for model in models], ref_template="#/components/schemas/{model}"
    )
    return list(found["$defs"].items())
