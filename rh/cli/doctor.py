"""`rh doctor`: what works here, what does not, and how to fix it."""

from __future__ import annotations

from typing import Annotated

import typer

from rh.cli import show
from rh.cli.complete import complete_system
from rh.cli.options import AsJson

__all__ = ["doctor"]

_MARKS = {"ok": "ok  ", "warn": "warn", "fail": "FAIL"}


def doctor(
    systems: Annotated[
        list[str] | None,
        typer.Argument(metavar="SYSTEM", autocompletion=complete_system, help="Check only these systems."),
    ] = None,
    timeout: Annotated[float, typer.Option(metavar="SECONDS", min=0.001, help="Timeout for each system.")] = 10.0,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Also show how to install extras that nothing here needs.")
    ] = False,
    json: AsJson = False,
) -> None:
    """Check this machine and all systems, and suggest fixes.

    Exits with 1 if a check fails. Changes nothing.
    """
    from rh.cli.checks import machine, places

    failed = False
    for check in (
        *(machine.checks(verbose=verbose) if not systems else ()),
        *places.checks(systems or None, timeout_s=timeout),
    ):
        for finding in check:
            failed = failed or finding.status == "fail"
            if json:
                show.emit(finding._asdict())
                continue
            show.line(f"{_MARKS[finding.status]}  {finding.what}: {finding.detail}")
            if finding.fix:
                for number, text in enumerate(finding.fix.splitlines()):
                    show.line(("      fix: " if not number else "           ") + text.strip())
    if failed:
        raise typer.Exit(1)
