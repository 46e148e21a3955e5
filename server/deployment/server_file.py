"""``server.yaml``: where the coordinator's keys, certificates, roster, runs and audit log lie."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from fedsteph.common.config.schema import build, read_yaml
from fedsteph.common.errors import ConfigError

SERVER_FILE = "server.yaml"


@dataclass(frozen=True)
class ServerFile:
    """Addresses are ``host:port``; paths are relative to the file, and absolute once it was opened."""

    superlink: str  # where the SuperLink listens: on loopback, behind the proxy
    address: str  # what the sites connect to
    ca: Path = Path("ca.crt")
    certificate: Path = Path("server.crt")
    key: Path = Path("server.key")
    superexec_secret: Path = Path("superexec.secret")
    database: Path = Path("superlink.db")
    flwr_home: Path = Path("flwr")  # of the 'flwr' command and of the ServerApp
    config: Path = Path("config.yaml")  # the federation's configuration
    roster: Path = Path("roster.yaml")
    audit: Path = Path("audit")
    runs: Path = Path("runs")

    @classmethod
    def open(cls, path: Path) -> ServerFile:
        """Read the file, or the one in a folder.

        Raises:
            ConfigError: absent, or a fault in it.
        """
        file = path / SERVER_FILE if path.is_dir() else path
        made = build(cls, read_yaml(file), file)
        folder = file.resolve().parent
        paths: dict[str, Any] = {}
        for field in fields(cls):
            value = getattr(made, field.name)
            if isinstance(value, Path):
                paths[field.name] = folder / value
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
