"""Tables of the shared vectors and updates, who sent what to whom, from the audit logs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from fedsteph.common.report.page import Block, Points, Section, Table, Text
from fedsteph.common.trust.audit_log import Line

TITLE = "For data stewards: what left, what arrived, who decided"
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


def transfer_section(
    tables: Sequence[Table], failures: Sequence[str], sharing: str, own: Sequence[str] = ()
) -> Section:
    """The section for data stewards: what a site may say first (``own``), non-empty tables, a sentence per failure."""
    blocks: list[Block] = [Points(own)] if own else []
    if any(table.rows for table in tables):
        text = (
            f"What travelled: task vectors in {sharing}, sealed for one recipient each and signed by the sender; no "
            "slide, feature, label or patient's value. A decision is the policy's, on an envelope; a vector that it "
            "allowed may still be left out of a merge by the screening."
        )
        blocks += [Text(text), *(table for table in tables if table.rows)]
    else:
        blocks.append(Text("Nothing travelled: no envelope is in the audit logs at hand."))
    if failures:
        blocks.append(Points(failures))
    return Section(TITLE, blocks)
