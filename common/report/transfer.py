"""Tables of the shared vectors and updates, who sent what to whom, from the audit logs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from fedsteph.common.report.page import Block, Points, Section, Table, Text
from fedsteph.common.trust.audit_log import Line

SHARED_EVENTS = {
    "vector.seal": "send vector to",
    "vector.open": "take vector of",
    "update.send": "send update, unsealed",
}


def relayed(lines: Iterable[Line], run: str) -> Table:
    """The envelopes that the server relayed in a run: sender, recipient, bytes and digest. It knows no content."""
    rows = [
        [line.event.peer or "-", _bytes(line), line.time[:19].replace("T", " "), line.event.artefact or "-"]
        for line in lines
        if line.event.event == "envelope.relay" and line.event.run == run
    ]
    return Table(["from -> to", "bytes", "when (UTC)", "SHA-256 of the envelope"], rows, "Envelopes relayed")


def decided(lines: Iterable[Line], run: str | None, site: str) -> Table:
    """A site's sent and received vectors and updates, and what it refused, in a run; None: in all."""
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


def transfer_section(tables: Sequence[Table], failures: Sequence[str], sharing: str) -> Section:
    """The section about shared vectors: non-empty tables, a sentence per failure, and how they were shared, as text."""
    blocks: list[Block] = [
        Text(f"What travelled: task vectors in {sharing}, sealed for one recipient each and signed by the sender.")
    ]
    blocks += [table for table in tables if table.rows]
    if not any(table.rows for table in tables):
        blocks.append(Text("No envelope is in the audit logs at hand."))
    if failures:
        blocks.append(Points(failures))
    return Section("What was shared", blocks)
