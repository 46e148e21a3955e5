"""``fedsteph health``: an HTTP endpoint for a hospital's or a coordinator's own monitoring."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

from fedsteph.commands.federation.status import look
from fedsteph.commands.terminal.either_side import EitherArgument, open_either
from fedsteph.common.errors import ConfigError, FedstephError
from fedsteph.common.host import console

if TYPE_CHECKING:
    from fedsteph.client.site.site import Site
    from fedsteph.common.deployment.health_list import Health
    from fedsteph.common.deployment.health_settings import HealthSettings
    from fedsteph.server.deployment.server_file import ServerFile


def health(where: EitherArgument = Path()) -> None:
    """Answer /healthz and /metrics (Prometheus) over HTTP, as the health section of the file says. Runs until stopped.

    /healthz is 200, or 503 with one reason. Nothing leaves the machine by itself: a monitoring server has to ask. What
    it is told is a fixed list (docs/deployment.md): no patient, no score, no exact epsilon. Needs the extra 'metrics'.

    \b
    Examples:
      fedsteph health server
      fedsteph health site.yaml
      curl http://127.0.0.1:9464/healthz

    \b
    Exit codes:
      1 your input: no health section, or the address cannot be listened at
      130 stopped
    """
    from fedsteph.common.deployment.health_endpoint import HealthEndpoint, require_prometheus

    opened = open_either(where)
    settings = _settings(opened)
    if settings is None:
        remedy = "Add 'health: {address: 127.0.0.1, port: 9464}' to server.yaml or site.yaml"
        raise ConfigError("has no health section, so that nothing is told", where=where, remedy=remedy)
    require_prometheus(where)
    endpoint = HealthEndpoint(settings)
    with endpoint.serving():
        console.tell(f"{endpoint.url}/healthz and {endpoint.url}/metrics")
        while True:
            endpoint.show(_health(opened))
            time.sleep(settings.every)


def _settings(opened: ServerFile | Site) -> HealthSettings | None:
    from fedsteph.server.deployment.server_file import ServerFile

    return opened.health if isinstance(opened, ServerFile) else opened.file.health


def _health(opened: ServerFile | Site) -> Health:
    """The allowed part of a look; a look that fails is told here, and its text to nobody else."""
    from fedsteph.common.deployment.health_list import Health, Sample
    from fedsteph.server.deployment.coordinator_health import coordinator_health
    from fedsteph.server.deployment.coordinator_status import CoordinatorStatus

    try:
        found = look(opened)
    except (FedstephError, OSError) as error:
        console.tell(str(error))
        return Health([Sample("fedsteph_up", 0.0)], "status")
    if isinstance(found, CoordinatorStatus):
        return coordinator_health(found)
    from fedsteph.client.deployment.site_health import site_health

    return site_health(found)
