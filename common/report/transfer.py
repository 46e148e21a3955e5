"""What was shared: who sent what to whom, as the audit logs have it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from fedsteph.common.report.page import Block, Points, Section, Table, Text
from fedsteph.common.trust.audit_log import Line

SHARED_EVENTS = {
    "vector.seal": "send vector to",
    "vector.open": "take vector of",
    "update.send": "send update, unsealed",
}


def relayed(lines: Iterable[Line], run: str) -> Table:
    """The envelopes that the server passed on in a run: it knows their routes, sizes and digests, and no content."""
    rows = [
        [line.event.peer or "-", _bytes(line), line.time[:19].replace("T", " "), line.event.artefact or "-"]
        for line in lines
        if line.event.event == "envelope.relay" and line.event.run == run
    ]
    return Table(["from -> to", "bytes", "when (UTC)", "SHA-256 of the envelope"], rows, "Envelopes relayed")


def decided(lines: Iterable[Line], run: str | None, site: str) -> Table:
    """What a site let out and took in, and what its policy refused, in one run or in all.

    Args:
        run: None: all runs.
    """
    rows = [
        [
            site,
            f"{SHARED_EVENTS[line.event.event]} {line.event.peer or ''}".strip(),
            line.event.decision,
            line.event.reason or "-",
            _bytes(line),
            line.event.artefact or "-",
        ]
        for line in lines
        if line.event.event in SHARED_EVENTS and run in (None, line.event.run)
    ]
    header = ["site", "what", "decision", "why", "bytes", "SHA-256 of the envelope"]
    return Table(header, rows, "Decisions of the sites' policies")


def _bytes(line: Line) -> str:
    return "-" if line.event.size is None else f"{line.event.size:,}"


def transfer_section(tables: Sequence[Table], failures: Sequence[Mapping[str, Any]], sharing: str) -> Section:
    """The section of a page.

    Args:
        failures: ``site``, ``phase`` and ``reason`` of each refusal or failure.
        sharing: how vectors travelled, in words.
    """
    blocks: list[Block] = [
        Text(f"What travelled: task vectors in {sharing}, sealed for one recipient each and signed by the sender.")
    ]
    blocks += [table for table in tables if table.rows]
    if not any(table.rows for table in tables):
        blocks.append(Text("No envelope is in the audit logs at hand."))
    if failures:
        blocks.append(Points([f"{f['site']} in {f['phase']}: {f['reason']}" for f in failures]))
    return Section("What was shared", blocks)
