"""An HTTP endpoint with ``/healthz`` and ``/metrics``, which tell the last look at an installation."""

from __future__ import annotations

import importlib.util
import socket
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from fedsteph.common.deployment.health_list import METRICS, REASONS, Health, Sample
from fedsteph.common.deployment.health_settings import HealthSettings
from fedsteph.common.errors import ConfigError, DeploymentError

_TIMEOUT_SECONDS = 10.0


def require_prometheus(where: str | Path) -> None:
    """Raise ConfigError if prometheus_client is not installed."""
    if importlib.util.find_spec("prometheus_client") is None:
        remedy = "pip install 'fedsteph[metrics]', or take the health section out"
        raise ConfigError("asks for metrics, and prometheus_client is not installed", where=where, remedy=remedy)


def exposition(samples: Iterable[Sample]) -> bytes:
    """Samples in Prometheus' text format, each metric with its help from the list."""
    from prometheus_client import CollectorRegistry, generate_latest  # noqa: PLC0415 (optional)
    from prometheus_client.core import GaugeMetricFamily  # noqa: PLC0415

    families: dict[str, Any] = {}
    for sample in samples:
        listed = METRICS[sample.name]
        if sample.name not in families:
            families[sample.name] = GaugeMetricFamily(sample.name, listed.help, labels=list(listed.labels))
        families[sample.name].add_metric([sample.labels[key] for key in listed.labels], sample.value)

    class Collector:
        def collect(self) -> Iterable[Any]:
            return families.values()

    registry = CollectorRegistry()  # of its own: the library's has this process's memory and files, too
    registry.register(Collector())
    return bytes(generate_latest(registry))


class HealthEndpoint:
    """Answers with what :meth:`show` was given last; until then it is not well."""

    def __init__(self, settings: HealthSettings) -> None:
        """Raises DeploymentError if the address cannot be listened at."""
        self._health = Health(reason="start")

        class Server(ThreadingHTTPServer):
            address_family = socket.AF_INET6 if ":" in settings.address else socket.AF_INET
            daemon_threads = True

        try:
            self._server = Server((settings.address, settings.port), self._handler())
        except OSError as error:
            where = f"{settings.address}, port {settings.port}"
            what, remedy = f"cannot be listened at ({error.strerror})", "Change health.address or health.port"
            raise DeploymentError(what, where=where, remedy=remedy) from error

    @property
    def url(self) -> str:
        """Where it answers."""
        host, port = str(self._server.server_address[0]), self._server.server_port
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    def show(self, health: Health) -> None:
        """Tell this from now on."""
        self._health = health

    @contextmanager
    def serving(self) -> Iterator[None]:
        """Answer during the block."""
        thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._server.shutdown()
            thread.join()
            self._server.server_close()

    def answer(self, path: str) -> tuple[int, str, bytes]:
        """Status, content type and body for a path."""
        health, plain = self._health, "text/plain; charset=utf-8"
        if path == "/healthz":
            if health.reason is None:
                return 200, plain, b"ok\n"
            return 503, plain, f"{REASONS[health.reason]}\n".encode()
        if path == "/metrics":
            return 200, "text/plain; version=0.0.4; charset=utf-8", exposition(health.samples)
        return 404, plain, b"/healthz or /metrics\n"

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        endpoint = self

        class Handler(BaseHTTPRequestHandler):
            timeout = _TIMEOUT_SECONDS  # a client that says nothing does not keep its thread

            def do_GET(self) -> None:
                status, kind, body = endpoint.answer(self.path.partition("?")[0])
                self.send_response_only(status)  # without versions of Python and of the server
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                """A scrape a minute would fill the log."""

        return Handler
