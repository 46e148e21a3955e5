"""``health`` in ``site.yaml`` and ``server.yaml``: where ``fedsteph health`` answers, if at all."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass


@dataclass(frozen=True)
class HealthSettings:
    """The address of ``/healthz`` and ``/metrics``, which ask nobody for a password."""

    address: str = "127.0.0.1"  # IP address of this machine that the answers are given at; loopback: this machine alone
    port: int = 9464  # port for HTTP [1024 to 65535; 0: any free one]
    every: float = 60.0  # seconds between two looks at the installation [5 to 3600]
    # true: allow an address that stands for every network of this machine (0.0.0.0 or ::)
    expose: bool = False

    def __post_init__(self) -> None:
        if not (self.port == 0 or 1024 <= self.port <= 65_535):
            raise ValueError("port must be 1024 to 65535, or 0 for any free one")
        if not 5 <= self.every <= 3600:
            raise ValueError("every must be 5 to 3600 seconds")
        try:
            found = ipaddress.ip_address(self.address)
        except ValueError as error:
            raise ValueError("address must be an IP address of this machine, such as 127.0.0.1") from error
        mapped = found.ipv4_mapped if isinstance(found, ipaddress.IPv6Address) else None
        if (found.is_unspecified or (mapped is not None and mapped.is_unspecified)) and not self.expose:
            raise ValueError(f"address {self.address} answers every network: set expose to true if that is meant")
