"""``telepatch run graph.json``: send a graph that was exported or written by hand, wait, show what it saved."""

from __future__ import annotations

import base64
import json
import sys
import time
from pathlib import Path
from typing import Annotated, Any, Final

import numpy as np
import typer

from telepatch.cli import exits
from telepatch.cli.service import Key, Service, Url
from telepatch_protocol import tensors, wire
from telepatch_protocol.errors import from_record
from telepatch_protocol.jobs import ENDED, Accepted, JobSpec, JobStatus, Submission, SubmissionAnswer, new_job_id
from telepatch_protocol.printable import printable

app = typer.Typer(rich_markup_mode="rich")

WAIT_S: Final = 5.0
POLL_S: Final = 0.5
PREVIEW: Final = 8


@app.command(rich_help_panel="Use a service")
def run(
    graph: Annotated[str, typer.Argument(help="File of the graph as JSON; - reads it from standard input.")],
    url: Url = None,
    key: Key = None,
    attachment: Annotated[
        Path | None, typer.Option(help="safetensors file with the tensors that the graph names.", show_default=False)
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Write the saved tensors to this safetensors file.", show_default=False)
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the saved tensors as JSON.")] = False,
    dry: Annotated[bool, typer.Option("--dry-run", help="Only check the graph and print its price.")] = False,
) -> None:
    """Send a graph, wait for it, print what it saved.

    A trace exports its graph with [bold]t.graph.to_json()[/bold]. Ctrl-C cancels the job.

    \b
    [bold]Examples[/bold]
      telepatch run graph.json
      telepatch run graph.json --out saved.safetensors
      telepatch run graph.json --json | jq .values.logits
      telepatch run graph.json --dry-run
    """
    submission = _submission(_read(graph), attachment, dry)
    if out is not None and not out.parent.is_dir():
        raise _unusable(f"cannot write {out}: there is no folder {out.parent}")
    job = submission.jobs[0].id
    with Service(url, key) as service:
        accepted = _submit(service, submission)
        if dry:
            typer.echo(accepted.price.model_dump_json(indent=2) if accepted.price else "the gateway names no price")
            return
        try:
            _wait(service, job, accepted.state)
        except KeyboardInterrupt:
            service.ask("DELETE", f"/v1/jobs/{job}")
            typer.echo(f"telepatch: cancelled job {job}", err=True)
            raise typer.Exit(exits.INTERRUPTED) from None
        _show(service, job, out, as_json)


def _read(graph: str) -> dict[str, Any]:
    """The document, checked here already, as JSON values."""
    text = sys.stdin.buffer.read() if graph == "-" else _bytes_of(Path(graph))
    wire.decode(text)
    document: dict[str, Any] = json.loads(text)
    return document


def _bytes_of(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise _unusable(f"cannot read {file}: {error.strerror}") from None


def _unusable(told: str) -> typer.Exit:
    """Say what is wrong with the command line, and end with the code for that."""
    typer.echo(f"telepatch: {told}", err=True)
    return typer.Exit(exits.USAGE)


def _submission(document: dict[str, Any], attachment: Path | None, dry: bool) -> Submission:
    """One document, one job; tensors ride along as base64."""
    attached = None
    if attachment is not None:
        data = _bytes_of(attachment)
        tensors.metas(data)
        attached = base64.b64encode(data).decode()
    return Submission(documents=(document,), jobs=(JobSpec(id=new_job_id()),), dry_run=dry, attachment=attached)


def _submit(service: Service, submission: Submission) -> Accepted:
    """What became of the job at the door; a refusal is raised."""
    body = submission.model_dump(mode="json", exclude_none=True)
    answer = service.ask("POST", "/v1/jobs", body, wait=0 if submission.dry_run else WAIT_S)
    accepted = SubmissionAnswer.model_validate(answer).jobs[0]
    if accepted.error is not None:
        raise from_record(accepted.error)
    for warning in accepted.warnings:
        typer.echo(f"telepatch: {printable(warning)}", err=True)
    return accepted


def _wait(service: Service, job: str, state: str | None) -> None:
    """Wait until the job has ended, telling a watching person where it stands; raise its error if it has one."""
    shown = ""
    while state not in ENDED:
        status = JobStatus.model_validate(service.ask("GET", f"/v1/jobs/{job}"))
        state = status.state
        place = f", {status.position} before it" if status.position else ""
        if sys.stderr.isatty() and (now := f"{state}{place}") != shown:
            typer.echo(f"job {job}: {now}", err=True)
            shown = now
        if state not in ENDED:
            time.sleep(POLL_S)


def _show(service: Service, job: str, out: Path | None, as_json: bool) -> None:
    """Write or print what was saved; a job that failed answers with its own error, which is raised."""
    if as_json:
        typer.echo(service.fetch("GET", f"/v1/jobs/{job}/result", format="json"))
        return
    data = service.fetch("GET", f"/v1/jobs/{job}/result")
    if out is not None:
        out.write_bytes(data)
    for name, tensor in tensors.decode(data).items():
        shape = ", ".join(map(str, tensor.array.shape))
        typer.echo(f"{printable(name, lines=False)}: {tensor.dtype} ({shape})")
        typer.echo("  " + np.array2string(tensor.array, threshold=PREVIEW, edgeitems=2, precision=4, prefix="  "))
    if out is not None:
        typer.echo(f"written to {out}")
