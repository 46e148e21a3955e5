"""Checks a SuperLink before Flower connects: reachable, TLS, trusted certificate, speaks Flower, clock.

Flower itself retries a wrong port, a server without TLS or another protocol for ever, and reports no error.
"""

from __future__ import annotations

import http.client
import ipaddress
import re
import socket
import ssl
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path

from fedsteph.common.errors import DeploymentError

# The path of a SuperNode's first request. A SuperLink refuses an unsigned request; other servers do not know the path.
_FLEET_PATH = "/v1/fleet/pull-messages"
_REFUSED_BY_FLOWER = {400, 401, 403, 415, 422}
_TIMEOUT_SECONDS = 10.0
LOOPBACK = ("127.0.0.1", "localhost", "::1")
_HOST = re.compile(r"(?=.{1,253}$)(?!-)[A-Za-z0-9-]{1,63}(?<!-)(\.(?!-)[A-Za-z0-9-]{1,63}(?<!-))*")
# Flower refuses a signature that is older than 305 s or more than 5 s in the future.
MOST_BEHIND_SECONDS = 300.0
MOST_AHEAD_SECONDS = 4.0


@dataclass(frozen=True)
class Answer:
    """A SuperLink's TLS version, when its certificate expires, and how far our clock is ahead of its clock."""

    protocol: str
    expires: datetime
    ahead_seconds: float | None  # None: the server does not tell the time


def split_address(address: str) -> tuple[str, int]:
    """Split ``host:port`` or ``[IPv6]:port`` into host and port. Raises DeploymentError if the text is neither."""
    host, colon, port = address.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    number = int(port) if port.isascii() and port.isdecimal() else 0
    if not colon or not _is_host(host) or not 0 < number < 65_536:
        raise DeploymentError("is not an address", where=address, remedy="Write host:port, like fl.example.org:9092")
    return host, number


def require_host(name: str) -> None:
    """Check that a name is an IP address or a valid DNS name. Raises DeploymentError if it is neither."""
    if not _is_host(name):
        remedy = "Write a name like fl.example.org, or an IP address"
        raise DeploymentError("is no host's name", where=name, remedy=remedy)


def _is_host(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return _HOST.fullmatch(name) is not None
    return True


def ask(address: str, ca: Path) -> Answer:
    """Connect to a SuperLink as a SuperNode would; the PEM file ``ca`` has the authority of its certificate.

    Raises DeploymentError, with its remedy, for the first thing that is wrong.
    """
    host, port = split_address(address)
    try:
        context = ssl.create_default_context(cafile=ca)
    except (OSError, ssl.SSLError) as error:
        raise DeploymentError("is no CA certificate in PEM form", where=ca, remedy="Copy ca.crt again") from error
    try:
        raw = socket.create_connection((host, port), timeout=_TIMEOUT_SECONDS)
    except OSError as error:
        what = f"nothing answers there ({error.strerror or error})"
        remedy = "Check host and port, that the server runs, and the firewall"
        raise DeploymentError(what, where=address, remedy=remedy) from error
    with raw:
        try:
            with context.wrap_socket(raw, server_hostname=host) as secure:
                certificate = secure.getpeercert() or {}
                protocol = str(secure.version())
                date = _ask_flower(secure, address)
        except ssl.SSLCertVerificationError as error:
            raise _untrusted(error, address, ca) from error
        except (OSError, http.client.HTTPException) as error:
            raise _another_service(error, address) from error
    expires = datetime.fromtimestamp(ssl.cert_time_to_seconds(str(certificate["notAfter"])), UTC)
    ahead = None if date is None else (datetime.now(UTC) - date).total_seconds()
    return Answer(protocol, expires, ahead)


def _another_service(error: Exception, address: str) -> DeploymentError:
    what, remedy = "something speaks TLS there, and no HTTP", "Check the port: it may be another service"
    if isinstance(error, ssl.SSLError):
        what = "something answers there that does not speak TLS"
        remedy += ", or a SuperLink without certificates"
    elif isinstance(error, TimeoutError):
        what = f"something listens there, and says nothing within {_TIMEOUT_SECONDS:g} s"
    return DeploymentError(what, where=address, remedy=remedy)


def _ask_flower(secure: ssl.SSLSocket, address: str) -> datetime | None:
    connection = http.client.HTTPConnection(*split_address(address), timeout=_TIMEOUT_SECONDS)
    connection.sock = secure
    connection.request("POST", _FLEET_PATH, body=b"", headers={"Content-Type": "application/x-protobuf"})
    answer = connection.getresponse()
    answer.read(65_536)
    if answer.status in (502, 503, 504):
        what = f"the proxy is there, and the SuperLink behind it is not (HTTP {answer.status})"
        raise DeploymentError(what, where=address, remedy="Start the SuperLink, or mend the proxy's upstream")
    if answer.status not in _REFUSED_BY_FLOWER:
        what = f"an HTTPS server answers there that is no Flower SuperLink (HTTP {answer.status})"
        raise DeploymentError(what, where=address, remedy="Check the port, and that a proxy lets /v1/fleet/ through")
    text = answer.getheader("Date")
    try:
        date = None if text is None else parsedate_to_datetime(text)
    except ValueError:
        return None
    return date if date is not None and date.tzinfo is not None else None


def _untrusted(error: ssl.SSLCertVerificationError, address: str, ca: Path) -> DeploymentError:
    if "match" in error.verify_message.lower():
        return DeploymentError(
            f"its certificate is not for this name ({error.verify_message})",
            where=address,
            remedy="Use a name in the certificate's SANs, or make one with this name",
        )
    if _holds_elsewhere(address):
        return DeploymentError(
            f"its certificate does not hold against {ca.name}, but against the authorities that this machine trusts: "
            "likely a proxy on the way inspects TLS, and puts its own certificate in the server's place",
            where=address,
            remedy=f"Have your network's IT exempt {address} from TLS inspection; do not go on without. If nobody "
            f"inspects it, the server's certificate is of a public authority: ask the coordinator for its CA",
        )
    return DeploymentError(
        f"its certificate does not hold against {ca.name} ({error.verify_message})",
        where=address,
        remedy="Ask the coordinator for the CA's certificate; check this machine's clock; ask your network's IT if a "
        "proxy inspects TLS; do not go on without",
    )


def _holds_elsewhere(address: str) -> bool:
    """Whether the server's certificate holds against the system's own authorities."""
    host, port = split_address(address)
    context = ssl.create_default_context()
    try:
        with socket.create_connection((host, port), timeout=_TIMEOUT_SECONDS) as raw:
            context.wrap_socket(raw, server_hostname=host).close()
    except OSError:
        return False
    return True
