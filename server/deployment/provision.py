"""Makes the folders of a trial federation: CA, server certificate, node keys, configuration and scripts.

The keys that protect vectors are not made here: each site makes its own, and they never leave it.
"""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from fedsteph.common.config.run_config import SITE_NAME, FederationConfig
from fedsteph.common.deployment.flower_app import config_folder
from fedsteph.common.deployment.flower_programs import CONFIG, connection
from fedsteph.common.deployment.tls import LOOPBACK, require_host, split_address
from fedsteph.common.errors import ConfigError, DeploymentError
from fedsteph.common.host import atomic
from fedsteph.common.host.disk import writing
from fedsteph.server.deployment.certificates import make_ca, make_node_key, make_server_certificate, make_token

_BIN = str(Path(sys.executable).parent)
_PLAIN_PATH = re.compile(r"[A-Za-z0-9._/+~-]+")
_PLACEHOLDER = re.compile(r"@([a-z_]+)@")


@dataclass(frozen=True)
class Plan:
    """What to provision."""

    federation: str
    address: str  # host:port that sites connect to
    superlink: str  # host:port where the SuperLink listens
    sites: tuple[str, ...]
    targets: tuple[str, ...]
    width: int  # of the sites' features
    names: tuple[str, ...] = ()  # further hosts or IP addresses for the server's certificate
    site_port: int = 9094  # of the first SuperNode on its loopback, Flower's own default; the next site's is one more

    def __post_init__(self) -> None:
        try:
            FederationConfig(name=self.federation, sites=self.sites, targets=self.targets)
        except ValueError as error:
            raise ConfigError(str(error), where="provision") from error
        if len(self.sites) < 2 or not self.targets:
            raise ConfigError("a federation is a target and at least one source", where="--sites and --targets")
        split_address(self.address)
        for name in self.names:
            require_host(name)
        if split_address(self.superlink)[0] not in LOOPBACK:
            remedy = "Let it listen on 127.0.0.1: its Control API asks nobody for a password"
            raise ConfigError(f"{self.superlink} is not on this machine's loopback", where="--superlink", remedy=remedy)
        if not 1 <= self.width <= 65_536:
            raise ConfigError("must be 1 to 65536", where="--width")


def provision(out: Path, plan: Plan) -> None:
    """Write ``ca/``, ``server/`` and ``sites/NAME/`` into a new folder; after an error, nothing is left of it.

    Raises DeploymentError if the folder exists, or its path cannot be written into scripts, units and nginx.conf;
    StorageError if its disk cannot be written.
    """
    _require_new(out)
    part = out.parent / f".{out.name}.part"
    shutil.rmtree(part, ignore_errors=True)
    with _filling(part, out):
        part.mkdir(parents=True, mode=0o700)
        _fill(part, out.resolve(), plan)
        part.rename(out)


def _fill(part: Path, final: Path, plan: Plan) -> None:
    host, port = split_address(plan.address)
    superlink_host, superlink_port = split_address(plan.superlink)
    values = {
        "federation": plan.federation,
        "address": plan.address,
        "host": host,
        "port": str(port),
        "superlink": plan.superlink,
        "superlink_host": superlink_host,
        "superlink_port": str(superlink_port),
        "sites": ", ".join(f'"{name}"' for name in plan.sites),
        "targets": ", ".join(f'"{name}"' for name in plan.targets),
        "width": str(plan.width),
        "bin": _BIN,
        "zeros": "0" * 64,
    }
    templates = config_folder() / "deploy"
    _write(templates / "README.md", part / "README.md", values)

    ca, server = part / "ca", part / "server"
    ca.mkdir(mode=0o700)
    make_ca(ca / "ca.crt", ca / "ca.key", plan.federation)
    _folder(templates, "server", server, final / "server", values)
    shutil.copyfile(ca / "ca.crt", server / "ca.crt")
    names = list(dict.fromkeys([host, *plan.names, superlink_host, "localhost", "127.0.0.1"]))
    make_server_certificate(server / "server.crt", server / "server.key", ca / "ca.crt", ca / "ca.key", names)
    make_token(server / "superexec.secret")
    atomic.write_text(server / "flwr" / CONFIG, connection(plan.superlink, final / "server" / "ca.crt"))

    (server / "nodes").mkdir()
    for index, site in enumerate(plan.sites):
        folder = part / "sites" / site
        own = {**values, "site": site, "site_port": str(plan.site_port + index)}
        _fill_site(folder, final / "sites" / site, own, ca / "ca.crt")
        make_node_key(folder / "auth.key", server / "nodes" / f"{site}.pub")


def provision_site(out: Path, site: str, federation: str, address: str, ca: Path, site_port: int) -> Path:
    """Write one site's folder at the site itself: only the CA's certificate comes from the coordinator.

    Returns the public half of the node's key, for the coordinator's ``nodes/``. Raises DeploymentError if the folder
    exists, or its path cannot be written into scripts and units; ConfigError if the site's name is not valid.
    """
    for name, option in ((site, "--site"), (federation, "--federation")):
        if site_names(name, option) != (name,):
            raise ConfigError("must be one name", where=option)
    split_address(address)
    _require_new(out)
    if not ca.is_file():
        raise DeploymentError("there is no such certificate", where=ca, remedy="Ask the coordinator for ca.crt")
    values = {"federation": federation, "address": address, "bin": _BIN, "zeros": "0" * 64}
    with _filling(out, out):
        _fill_site(out, out.resolve(), {**values, "site": site, "site_port": str(site_port)}, ca)
        make_node_key(out / "auth.key", out / f"{site}.pub")
    return out / f"{site}.pub"


def _fill_site(folder: Path, final: Path, values: Mapping[str, str], ca: Path) -> None:
    _folder(config_folder() / "deploy", "site", folder, final, values)
    for name in ("state", "audit", "flwr"):
        (folder / name).mkdir()
    shutil.copyfile(ca, folder / "ca.crt")
    make_token(folder / "superexec.secret")


def _require_new(path: Path) -> None:
    for part in (path.resolve(), Path(_BIN)):
        if _PLAIN_PATH.fullmatch(str(part)) is None:
            remedy = "Use a path of letters, digits, dots, - and _: it goes into scripts, systemd units and nginx.conf"
            raise DeploymentError("has a space or a special character in its path", where=part, remedy=remedy)
    if path.exists():
        raise DeploymentError("exists already", where=path, remedy="Choose another folder; nothing is overwritten")


@contextmanager
def _filling(folder: Path, final: Path) -> Iterator[None]:
    """After an error in the block nothing is left of ``folder``; one of the disk is about ``final``."""
    try:
        with writing(final):
            yield
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _folder(templates: Path, kind: str, folder: Path, final: Path, values: Mapping[str, str]) -> None:
    folder.mkdir(parents=True, mode=0o700)
    own = {**values, "folder": str(final)}
    for template in (*sorted((templates / kind).iterdir()), templates / "flower.env"):
        _write(template, folder / template.name, own)


def _write(template: Path, path: Path, values: Mapping[str, str]) -> None:
    text = _PLACEHOLDER.sub(lambda found: values[found[1]], template.read_text(encoding="utf-8"))
    path.write_text(text, encoding="utf-8")
    if path.suffix == ".sh":
        path.chmod(0o755)


def site_names(text: str, option: str) -> tuple[str, ...]:
    """Names from a comma-separated option. Raises ConfigError if one of them is not a valid site name."""
    names = tuple(name.strip() for name in text.split(",") if name.strip())
    for name in names:
        if SITE_NAME.fullmatch(name) is None:
            remedy = "Lower-case letters, digits, - and _, at most 32; separate names by commas"
            raise ConfigError(f"'{name}' cannot be a site's name", where=option, remedy=remedy)
    return names
