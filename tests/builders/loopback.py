"""Certificates and small servers on loopback: everything that can stand where a SuperLink should."""

from __future__ import annotations

import socket
import socketserver
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key

from fedsteph.server.deployment.certificates import make_ca, make_server_certificate

LOOPBACK_NAMES = ["127.0.0.1", "localhost"]


@dataclass(frozen=True)
class Tls:
    """The files of a server's certificate."""

    ca: Path
    ca_key: Path
    certificate: Path
    key: Path


def make_tls(folder: Path, names: list[str] | None = None) -> Tls:
    """A CA, and a certificate by it with these SANs."""
    folder.mkdir(parents=True, exist_ok=True)
    tls = Tls(folder / "ca.crt", folder / "ca.key", folder / "server.crt", folder / "server.key")
    make_ca(tls.ca, tls.ca_key, folder.name)
    make_server_certificate(tls.certificate, tls.key, tls.ca, tls.ca_key, names or LOOPBACK_NAMES)
    return tls


def reissue(tls: Tls, *, valid: timedelta, names: list[x509.GeneralName] | None = None) -> None:
    """Put another certificate by the same CA, for the same key, in its place: other dates, other SANs or none."""
    before = x509.load_pem_x509_certificate(tls.certificate.read_bytes())
    signer = load_pem_private_key(tls.ca_key.read_bytes(), password=None)
    assert isinstance(signer, ec.EllipticCurvePrivateKey)
    end = datetime.now(UTC) + valid
    builder = (
        x509.CertificateBuilder(before.issuer, before.subject, before.public_key(), before.serial_number)
        .not_valid_before(end - timedelta(days=400))
        .not_valid_after(end)
    )
    for extension in before.extensions:
        if isinstance(extension.value, x509.SubjectAlternativeName) and names is not None:
            if names:
                builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        else:
            builder = builder.add_extension(extension.value, critical=extension.critical)
    tls.certificate.write_bytes(builder.sign(signer, hashes.SHA384()).public_bytes(Encoding.PEM))


def free_port() -> int:
    """A port that nothing listens at."""
    with socket.create_server(("127.0.0.1", 0)) as found:
        return int(found.getsockname()[1])


def address_of(listener: socket.socket) -> str:
    """``host:port`` of a listening socket."""
    return f"127.0.0.1:{listener.getsockname()[1]}"


@contextmanager
def serving(server: socketserver.TCPServer, tls: Tls | None = None) -> Iterator[str]:
    """Run a server in a thread; its ``host:port``."""
    if tls is not None:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(tls.certificate, tls.key)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def web(
    tls: Tls | None,
    status: int = 401,
    date: str | None = "now",
    seen: Callable[[str, str], object] = lambda method, path: None,
) -> AbstractContextManager[str]:
    """A server that answers every request alike; by default as a SuperLink answers an unsigned one.

    Args:
        date: of the Date header; None for no such header.
        seen: told of every request's method and path.
    """

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            seen(self.command, self.path)
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self.send_response_only(status)
            if date is not None:
                self.send_header("Date", http_date() if date == "now" else date)
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_GET = do_POST  # noqa: N815

        def log_message(self, *_: object) -> None:
            pass

    return serving(ThreadingHTTPServer(("127.0.0.1", 0), Handler), tls)


def raw(tls: Tls | None, said: bytes) -> AbstractContextManager[str]:
    """A server of another protocol: it says ``said`` to whatever comes, and hangs up."""

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            self.request.recv(4096)
            self.request.sendall(said)

    return serving(socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler), tls)


def http_date(ahead: timedelta = timedelta(0)) -> str:
    """A Date header, of a clock that is so much ahead."""
    return format_datetime(datetime.now(UTC) + ahead, usegmt=True)
