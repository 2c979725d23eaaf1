"""The ``telepatch`` command: ``python -m telepatch`` is the same."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line; say in one line what to install where its libraries are missing."""
    try:
        import typer  # noqa: F401
    except ModuleNotFoundError:
        print("telepatch: the command line needs one more step: pip install 'telepatch[cli]'", file=sys.stderr)
        raise SystemExit(2) from None
    from telepatch.cli.app import run

    raise SystemExit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
