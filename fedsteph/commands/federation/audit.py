"""``fedsteph audit``: check and show an audit log, a site's or the server's."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from fedsteph.commands.terminal.options import JsonOption
from fedsteph.common.errors import AuditError
from fedsteph.common.host import console

audit = typer.Typer(no_args_is_help=True, help="Check and show an audit log.")

FolderArgument = Annotated[Path, typer.Argument(help="The audit folder, a site's or the server's.")]


@audit.command("verify")
def verify(
    folder: FolderArgument,
    expect: Annotated[str | None, typer.Option(help="A hash noted elsewhere, which the log must hold.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Check every line: an edited, dropped or reordered one is named. Exit code 1 if there is any.

    \b
    Examples:
      fedsteph audit verify fedsteph-audit
      fedsteph audit verify fedsteph-audit --expect 3fa9...    a hash that the server noted ('site.join')
    """
    from fedsteph.common.trust.audit_log import verify as verify_log

    _require(folder)
    found = verify_log(folder, expect)
    if as_json:
        return console.show_json(asdict(found))
    console.say(f"{found.lines} lines hold together; the last hash is {found.head}")
    if found.torn_bytes:
        text = f"{found.torn_bytes} bytes of a line that a crash cut off follow; the next line written mends that"
        console.out.print(text, highlight=False)


@audit.command("show")
def show(
    folder: FolderArgument,
    last: Annotated[int, typer.Option(help="How many lines, from the end.", min=1)] = 20,
    as_json: JsonOption = False,
) -> None:
    """Show the last lines.

    \b
    Examples:
      fedsteph audit show fedsteph-audit --last 50
      fedsteph audit show fedsteph-audit --json | jq 'select(.event.decision == "refused")'
    """
    from fedsteph.common.trust.audit_log import read_lines

    _require(folder)
    lines = list(read_lines(folder))[-last:]
    if as_json:
        for line in lines:
            print(json.dumps(asdict(line)))
        return
    for line in lines:
        event = line.event
        size = "" if event.size is None else f"{event.size} B"
        artefact = "" if event.artefact is None else f"{event.artefact[:16]}..."
        head = f"{line.number:5}  {line.time[:19]}  {event.event:16} {event.decision:8}"
        words = [head, event.peer or "", size, artefact, event.reason or ""]
        console.say("  ".join(word for word in words if word))


def _require(folder: Path) -> None:
    from fedsteph.common.trust.audit_log import FILE

    if not (folder / FILE).exists():
        raise AuditError("holds no audit log", where=folder, remedy=f"Give the folder that has {FILE}")
