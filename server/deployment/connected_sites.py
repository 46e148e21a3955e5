"""Which sites are connected to the SuperLink: its list of nodes, and which node is which site."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from fedsteph.server.deployment.server_file import ServerFile
from fedsteph.server.run_status import RunStatus, SiteProgress

NODES = "nodes"  # folder of the public node keys that register-sites.sh reads, and of the ids that it was given
_ONLINE = "online"


@dataclass(frozen=True)
class ConnectedSite:
    """A site, and what the SuperLink knows of its node."""

    site: str
    connected: bool | None  # None: no node is known to be this site's, or the SuperLink did not answer
    last_seen: str | None  # ISO 8601, UTC; now, while it is connected; None: never, or not known
    software: str | None  # the version of fedsteph that its last hello told
    node: str | None  # Flower's id

    def seconds_unseen(self, now: datetime) -> float | None:
        """Seconds since it was last connected; None: not known."""
        return (
            None if self.last_seen is None else max(0.0, (now - datetime.fromisoformat(self.last_seen)).total_seconds())
        )


def connected_sites(
    server: ServerFile, names: Sequence[str], statuses: Sequence[RunStatus], nodes: Sequence[Mapping[str, Any]] | None
) -> tuple[ConnectedSite, ...]:
    """A row per site.

    Args:
        names: the sites.
        statuses: of runs, the newest first: a hello is signed, so it counts more than a registration.
        nodes: as :meth:`fedsteph.common.deployment.flower_programs.Flower.nodes`; None: nobody answered.
    """
    told: dict[str, SiteProgress] = {}
    for status in statuses:
        told = dict(status.sites) | told
    by_id = {str(node["node-id"]): node for node in nodes or ()}
    rows = []
    for name in names:
        known = told.get(name)
        node = known.node if known is not None else _registered(server, name)
        found = None if node is None else by_id.get(node)
        connected = None if nodes is None or node is None else found is not None and found["status"] == _ONLINE
        software = None if known is None else known.software
        rows.append(ConnectedSite(name, connected, _last_seen(connected, found), software, node))
    return tuple(rows)


def _registered(server: ServerFile, site: str) -> str | None:
    """The node id that Flower gave to the site's key when it was registered."""
    path = server.flwr_home.parent / NODES / f"{site}.id"
    text = path.read_text(encoding="utf-8").strip() if path.is_file() else ""
    return text if text.isdecimal() else None


def _last_seen(connected: bool | None, node: Mapping[str, Any] | None) -> str | None:
    if connected:
        return datetime.now(UTC).isoformat(timespec="seconds")
    for key in ("offline-at", "online-at"):
        try:
            return datetime.fromisoformat(str((node or {}).get(key))).isoformat(timespec="seconds")
        except ValueError:  # Flower writes N/A
            continue
    return None
