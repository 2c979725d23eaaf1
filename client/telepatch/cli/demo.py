"""``telepatch demo``: the embedded service, two studies through the public client, tables and pictures."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Final

import typer

import telepatch
from telepatch.cli import exits

app = typer.Typer(rich_markup_mode="rich")

STUDIES: Final = ("logit_lens", "activation_patching")
MODEL: Final = "smollm2-135m"
END_GRACE_S: Final = 90.0


@app.command(rich_help_panel="Try it here")
def demo(
    out: Annotated[Path, typer.Option(help="Folder for tables and pictures.")] = Path("out"),
    studies: Annotated[
        Path | None, typer.Option(help="Folder of the studies; by default the repository's.", show_default=False)
    ] = None,
    url: Annotated[
        str | None, typer.Option(help="Use this service instead of starting one.", show_default=False)
    ] = None,
) -> None:
    """Read and change a real model: two studies from start to end.

    Starts the whole service on free ports (the first time it fetches and converts the model), runs a logit lens and an
    activation-patching study as any user would, prints their tables, writes their pictures, and ends the service.

    \b
    [bold]Examples[/bold]
      telepatch demo
      telepatch demo --out ./pictures
      telepatch demo --url http://127.0.0.1:8000
    """
    folder = studies or _repository_studies()
    sys.path.insert(0, str(folder.resolve()))  # as if each were run by itself: they share small modules
    programs = {name: _main_of(folder / f"{name}.py") for name in STUDIES}
    out.mkdir(parents=True, exist_ok=True)
    if url is not None:
        _run(programs, url, out)
        return
    with tempfile.TemporaryDirectory(prefix="telepatch-demo-") as home, _service(Path(home)) as started:
        _run(programs, started, out)


def _run(programs: dict[str, Callable[..., Any]], url: str, out: Path) -> None:
    """Run the studies one after the other and say what they wrote."""
    begun = time.time()
    for name, main in programs.items():
        typer.echo(f"\n--- {name.replace('_', ' ')} ---")
        main(url, out)
    written = sorted(file for file in out.rglob("*") if file.is_file() and file.stat().st_mtime >= begun - 1)
    typer.echo("\nWritten:")
    for file in written:
        typer.echo(f"  {file.resolve()}")


@contextmanager
def _service(home: Path) -> Iterator[str]:
    """The embedded service in a folder of its own; yields its URL and ends with the block."""
    announced = home / "ready.json"
    options = ["--model", MODEL, "--port", "0", "--home", str(home), "--announce", str(announced), "--with-parent"]
    process = subprocess.Popen([sys.executable, "-P", "-m", "telepatch", "up", *options], start_new_session=True)
    try:
        while not announced.exists():
            if process.poll() is not None:
                raise typer.Exit(process.returncode or exits.FAILED)
            time.sleep(0.1)
        yield str(json.loads(announced.read_text())["url"])
    finally:
        process.terminate()
        try:
            process.wait(END_GRACE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _repository_studies() -> Path:
    """The studies of the repository that this package runs from, or those that were installed with it."""
    for root in (Path(telepatch.__file__).resolve().parents[2], Path(sys.prefix) / "share" / "telepatch"):
        if all((root / "studies" / f"{name}.py").exists() for name in STUDIES):
            return root / "studies"
    typer.echo("telepatch: the studies are not beside this package; say where: --studies FOLDER", err=True)
    raise typer.Exit(exits.USAGE)


def _main_of(file: Path) -> Callable[..., Any]:
    """The ``main(url, out)`` of a study."""
    spec = importlib.util.spec_from_file_location(file.stem, file)
    if spec is None or spec.loader is None or not file.exists():
        typer.echo(f"telepatch: no study at {file}", err=True)
        raise typer.Exit(exits.USAGE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    main: Callable[..., Any] = module.main
    return main
