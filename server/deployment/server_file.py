"""``server.yaml``: where the coordinator's keys, certificates, roster, runs and audit log lie."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fedsteph.common.config.schema import build, read_yaml
from fedsteph.common.deployment.health_settings import HealthSettings
from fedsteph.common.errors import ConfigError
from fedsteph.common.host.log_file import LogFormat

SERVER_FILE = "server.yaml"


@dataclass(frozen=True)
class ServerFile:
    """Addresses are ``host:port``; paths are relative to the file, and absolute once it was opened."""

    superlink: str  # host:port where the SuperLink listens: on loopback, behind the proxy
    address: str  # host:port that the sites connect to
    ca: Path = Path("ca.crt")  # certificate that signed the server's
    certificate: Path = Path("server.crt")  # the server's certificate
    key: Path = Path("server.key")  # secret key of the server's certificate
    superexec_secret: Path = Path("superexec.secret")  # secret that SuperLink and SuperExec share
    database: Path = Path("superlink.db")  # the SuperLink's database, from which it goes on after a restart
    flwr_home: Path = Path("flwr")  # Flower's folder (FLWR_HOME), of the 'flwr' command and the ServerApp
    config: Path = Path("config.yaml")  # the federation's configuration
    roster: Path = Path("roster.yaml")  # roster of all sites' public keys, made by 'fedsteph roster add'
    audit: Path = Path("audit")  # folder of the audit log
    runs: Path = Path("runs")  # folder of the runs' results
    health: HealthSettings | None = None  # where 'fedsteph health' answers; null: nowhere
    logs: Path = Path("logs")  # folder of the SuperLink's log and of those it has rotated, for 'fedsteph prune'
    log_format: LogFormat = "text"  # of the log of a run's ServerApp; json: one JSON object per line [text or json]

    @classmethod
    def open(cls, path: Path) -> ServerFile:
        """Read the file, or the one in a folder. Raises ConfigError if it is absent, or has a fault."""
        file = path / SERVER_FILE if path.is_dir() else path
        made = build(cls, read_yaml(file), file)
        folder = file.resolve().parent
        paths: dict[str, Any] = {key: folder / path for key, path in vars(made).items() if isinstance(path, Path)}
        return replace(made, **paths)

    def require_ready(self) -> None:
        """Raises:
        ConfigError: the configuration or the roster is not there yet.
        """
        for path, remedy in (
            (self.config, "Write the federation's configuration, or name it in server.yaml"),
            (self.roster, "Make it with 'fedsteph roster add' from the sites' public files"),
        ):
            if not path.is_file():
                raise ConfigError("there is no such file", where=path, remedy=remedy)
