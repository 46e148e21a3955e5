"""A provisioned trial: every file loads, starts and refuses what it must; and nothing is left when it fails midway."""

from __future__ import annotations

import configparser
import http.client
import os
import re
import shutil
import ssl
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import entry_points
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from each_case import each
from loopback import Tls, free_port, web

from fedsteph.client.site.site import Site
from fedsteph.common.config.run_config import load_config
from fedsteph.common.deployment.tls import ask
from fedsteph.common.errors import ConfigError, DeploymentError, StorageError
from fedsteph.server.deployment import provision as module
from fedsteph.server.deployment.certificates import make_ca, names_in
from fedsteph.server.deployment.provision import Plan, provision, provision_site, site_names
from fedsteph.server.deployment.server_file import ServerFile

SITES = ("kirp", "kirc", "kich")
PROVISION = ("provision", "--federation", "kidney", "--sites", "kirp,kirc", "--targets", "kirp", "--width", "6")


def plan(**changes) -> Plan:
    given = {"federation": "kidney", "address": "fl.example.org:9092", "superlink": "127.0.0.1:9091", "sites": SITES}
    return Plan(**{**given, "targets": ("kirp", "kich"), "width": 1536, "names": ("10.0.0.7",), **changes})


@pytest.fixture(scope="module")
def trial(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("provision") / "trial"
    provision(out, plan())
    return out


def texts(folder: Path) -> dict[str, str]:
    return {str(p.relative_to(folder)): p.read_text() for p in sorted(folder.rglob("*")) if p.is_file()}


# ---------------------------------------------------------------- the folder


def test_the_tree(trial):
    found = {str(path.relative_to(trial)) + "/" * path.is_dir() for path in trial.rglob("*")}
    site = {
        "",
        "state/",
        "audit/",
        "flwr/",
        "site.yaml",
        "ca.crt",
        "auth.key",
        "superexec.secret",
        "flower.env",
        "start-supernode.sh",
        "start-superexec.sh",
        "start-health.sh",
        "fedsteph-supernode.service",
        "fedsteph-health.service",
        "fedsteph-clientapp.service",
    }
    server = {
        "",
        "server.yaml",
        "config.yaml",
        "ca.crt",
        "server.crt",
        "server.key",
        "superexec.secret",
        "flower.env",
        "start-superlink.sh",
        "start-superexec.sh",
        "register-sites.sh",
        "nginx.conf",
        "flwr/",
        "flwr/config.toml",
        "start-health.sh",
        "fedsteph-superlink.service",
        "fedsteph-health.service",
        "fedsteph-superexec.service",
        "nodes/",
        *(f"nodes/{name}.pub" for name in SITES),
    }
    expected = {"README.md", "ca/", "ca/ca.crt", "ca/ca.key", "sites/"} | {f"server/{name}" for name in server}
    assert found == expected | {f"sites/{name}/{path}" for name in SITES for path in site}


def test_secrets_are_the_owners_alone_and_folders_closed(trial):
    modes = {path: stat.S_IMODE(path.stat().st_mode) for path in (trial, *trial.rglob("*"))}
    secret = {path for path in modes if path.suffix in (".key", ".secret")}
    assert len(secret) == 3 + 2 * len(SITES) and {modes[path] for path in secret} == {0o600}
    closed = [trial, trial / "ca", trial / "server", *(trial / "sites" / name for name in SITES)]
    assert {modes[path] for path in closed} == {0o700} and not [path for path, mode in modes.items() if mode & 0o022]


def test_every_secret_is_another_and_in_the_folder_of_its_party_alone(trial):
    """And none of them is a key that protects vectors: those are made at the sites."""
    secrets = [path.read_bytes() for path in trial.rglob("*") if path.suffix in (".key", ".secret")]
    assert len(set(secrets)) == len(secrets)
    assert not [path for path in trial.rglob("*") if path.match("*.sign.key") or path.match("*.seal.key")]
    assert not [name for name, text in texts(trial).items() if "fedsteph-sign-" in text or "fedsteph-seal-" in text]
    own = {name: texts(trial / "sites" / name) for name in SITES}
    others = {**texts(trial / "ca"), **texts(trial / "server")}
    for name in SITES:
        assert not {text for path, text in own[name].items() if "secret" in path or path.endswith(".key")} & {
            *others.values(),
            *(text for other in SITES if other != name for text in own[other].values()),
        }


def test_no_placeholder_is_left(trial):
    assert not {name: found for name, text in texts(trial).items() if (found := re.findall(r"@\w+@", text))}


def test_each_node_key_is_registered_under_its_site(trial):
    for name in SITES:
        secret = (trial / "sites" / name / "auth.key").read_bytes()
        public = (trial / "server" / "nodes" / f"{name}.pub").read_bytes()
        loaded = serialization.load_ssh_private_key(secret, password=None)
        assert loaded.public_key() == serialization.load_ssh_public_key(public)


def test_the_certificate_has_all_names(trial):
    assert names_in(trial / "server" / "server.crt") == ["fl.example.org", "localhost", "10.0.0.7", "127.0.0.1"]


# ---------------------------------------------------------------- what our own commands read


def test_the_server_file(trial):
    server = ServerFile.open(trial / "server")
    assert (server.superlink, server.address) == ("127.0.0.1:9091", "fl.example.org:9092")
    for path in (server.ca, server.certificate, server.key, server.superexec_secret, server.config):
        assert path.is_file()
    with pytest.raises(ConfigError, match="roster"):
        server.require_ready()


def test_the_configuration(trial):
    config = load_config(trial / "server" / "config.yaml")
    assert (config.federation.name, config.federation.sites) == ("kidney", SITES)
    assert (config.federation.targets, config.federation.quorum) == (("kirp", "kich"), 2)
    assert (config.model.width, config.model.encoder) == (1536, None)


@each("name", SITES)
def test_a_site_file_shares_with_nobody_until_it_is_filled_in(trial, name):
    site = Site.open(trial / "sites" / name)
    assert (site.name, site.file.device) == (name, "auto") and site.file.policy is not None
    assert (site.file.policy.targets, site.file.policy.recipes, site.file.policy.min_pairs) == ((), (), 50)
    federation = site.file.federation
    assert federation is not None and (federation.server, federation.roster_sha256) == ("fl.example.org:9092", "0" * 64)
    assert (federation.sign_key, federation.seal_key) == (f"keys/{name}.sign.key", f"keys/{name}.seal.key")
    for path in (federation.ca, federation.auth_key, federation.superexec_secret):
        assert (site.folder / str(path)).is_file()
    for path in (federation.flwr_home, federation.audit, site.state):
        assert (site.folder / str(path)).is_dir()


@pytest.mark.parametrize("name", ["no", "on", "null", "12", "1e5", "2026-01-01", "1_000", "0x1f"])
def test_a_name_that_yaml_would_read_as_something_else(tmp_path, name):
    provision(tmp_path / "trial", plan(federation=name, sites=(name, "kirc"), targets=(name,)))
    config = load_config(tmp_path / "trial" / "server" / "config.yaml")
    assert (config.federation.name, config.federation.sites) == (name, (name, "kirc"))
    assert Site.open(tmp_path / "trial" / "sites" / name).name == name


def test_an_ipv6_address(tmp_path):
    provision(tmp_path / "trial", plan(address="[::1]:9092", superlink="[::1]:9091"))
    server = ServerFile.open(tmp_path / "trial" / "server")
    assert (server.address, server.superlink) == ("[::1]:9092", "[::1]:9091") and "::1" in names_in(server.certificate)


@pytest.mark.parametrize("address", ["0.0.0.0:9091", "superlink.internal:9091", "10.1.2.3:9091", "[::]:9091"])
def test_a_superlink_on_the_network_is_refused(refused, tmp_path, address):
    """Its Control API asks nobody for a password."""
    words = (*PROVISION, "--address", "fl.example.org:9092", "--superlink", address, tmp_path / "trial")
    said = refused(*words)
    assert said.startswith("--superlink: ") and "is not on this machine's loopback" in said
    assert list(tmp_path.iterdir()) == []


@each("address", ["127.0.0.1:9091", "localhost:9091", "[::1]:9091"])
def test_a_superlink_on_loopback(address):
    assert plan(superlink=address).superlink == address


# ---------------------------------------------------------------- the proxy


def exposed(trial: Path) -> re.Pattern[str]:
    """The one location of nginx.conf that is passed on."""
    conf = (trial / "server" / "nginx.conf").read_text()
    [pattern] = re.findall(r"location ~ (\S+) \{", conf)
    assert conf.count("proxy_pass ") == 1
    assert re.findall(r"location (?!~)(\S+) \{\s*(.*)\n", conf) == [("/", "return 404;")]
    return re.compile(pattern)


OPEN = [
    "activate-node",
    "deactivate-node",
    "send-node-heartbeat",
    "pull-messages",
    "push-messages",
    "get-run",
    "get-fab",
    "push-object",
    "pull-object",
    "confirm-message-received",
]
CLOSED = ["/", "/v1/fleet/", "/v1/fleet/register-node", "/v1/fleet/unregister-node", "/v1/fleet/xpull-messages"]
CLOSED += ["/v1/fleet/pull-messages/", "/v1/fleet/pull-messages/../../control/stop-run", "/v1/control/start-run"]
CLOSED += ["/v1/control/register-node", "/v1/runtime/pull-task", "/x/v1/fleet/pull-messages", "/V1/FLEET/PULL-MESSAGES"]


@each("name", OPEN)
def test_the_proxy_lets_out_what_a_node_calls(trial, name):
    assert exposed(trial).search(f"/v1/fleet/{name}")


@each("path", CLOSED)
def test_the_proxy_lets_out_nothing_else(trial, path):
    assert not exposed(trial).search(path)


def test_no_other_route_of_the_installed_flower_is_let_out(trial):
    translation = pytest.importorskip("flwr.supercore.protobuf.translation")
    tables = [value for value in vars(translation).values() if isinstance(value, dict)]
    routes = {key[1] for table in tables for key in table if isinstance(key, tuple) and str(key[1]).startswith("/v1/")}
    assert {path for path in routes if exposed(trial).search(path)} == {f"/v1/fleet/{name}" for name in OPEN}
    assert len(routes) > 20


def test_what_the_proxy_insists_on(trial):
    conf = (trial / "server" / "nginx.conf").read_text()
    for line in (
        "server 127.0.0.1:9091;",
        "listen 9092 ssl;",
        "server_name fl.example.org;",
        "ssl_protocols TLSv1.2 TLSv1.3;",
        "limit_except POST { deny all; }",
        "proxy_ssl_verify on;",
        f"proxy_ssl_trusted_certificate {trial}/server/ca.crt;",
        "client_max_body_size 512m;",
    ):
        assert line in conf


@contextmanager
def proxy(folder: Path, server: Path, port: int) -> Iterator[str]:
    """The real nginx with a provisioned nginx.conf, on loopback instead of everywhere."""
    conf = (server / "nginx.conf").read_text().replace(f"listen {port} ssl", f"listen 127.0.0.1:{port} ssl")
    temporary = "".join(f"{kind}_temp_path {folder}/{kind};" for kind in ("client_body", "proxy", "fastcgi"))
    temporary += "".join(f"{kind}_temp_path {folder}/{kind};" for kind in ("uwsgi", "scgi"))
    (folder / "nginx.conf").write_text(
        f"daemon off; master_process off; pid {folder}/pid; error_log stderr notice;\n"
        f"events {{}}\nhttp {{ access_log off; {temporary}\n{conf}\n}}\n"
    )
    words = ["nginx", "-p", str(folder), "-c", str(folder / "nginx.conf"), "-e", "stderr"]
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        first = process.stderr.readline()  # written when it listens
        try:
            assert "[notice]" in first, first + process.stderr.read()
            yield f"127.0.0.1:{port}"
        finally:
            process.terminate()
            process.communicate()


@pytest.mark.skipif(shutil.which("nginx") is None, reason="nginx is not installed")
def test_the_real_nginx_lets_out_what_a_node_calls_and_nothing_else(tmp_path):
    """Also what only a real server makes of a path: dots, slashes and escapes; and a SuperLink of another CA."""
    port, seen = free_port(), []
    (tmp_path / "nginx").mkdir()

    def made(out: Path, superlink: str) -> Tls:
        provision(out, plan(address=f"127.0.0.1:{port}", superlink=superlink))
        server = out / "server"
        return Tls(server / "ca.crt", out / "ca" / "ca.key", server / "server.crt", server / "server.key")

    def status(address: str, tls: Tls, method: str, path: str) -> int:
        context = ssl.create_default_context(cafile=tls.ca)
        connection = http.client.HTTPSConnection(address, context=context)
        connection.request(method, path, body=b"")
        found = connection.getresponse().status
        connection.close()
        return found

    first = made(tmp_path / "first", "127.0.0.1:1")
    with web(first, seen=lambda *request: seen.append(request)) as superlink:
        tls = made(tmp_path / "trial", superlink)
        conf = tmp_path / "trial" / "server" / "nginx.conf"
        trusted = conf.read_text()
        ca = f"proxy_ssl_trusted_certificate {tls.ca}"
        assert ca in trusted
        conf.write_text(trusted.replace(ca, f"proxy_ssl_trusted_certificate {first.ca}"))
        with proxy(tmp_path / "nginx", tmp_path / "trial" / "server", port) as address:
            assert ask(address, tls.ca).ahead_seconds is not None
            for name in OPEN:
                assert status(address, tls, "POST", f"/v1/fleet/{name}") == 401
                assert status(address, tls, "GET", f"/v1/fleet/{name}") == 403
            assert seen == [("POST", f"/v1/fleet/{name}") for name in ("pull-messages", *OPEN)]
            attacks = [
                *CLOSED,
                "/v1/fleet/%2e%2e/control/start-run",
                "/v1/control/start-run?/v1/fleet/pull-messages",
                "/v1/control/start-run#/v1/fleet/pull-messages",
                "/v1/fleet/register-node;/pull-messages",
                "/v1/fleet/../fleet/register-node",
                "/v1/fleet/pull-messages%0a/../register-node",
            ]
            assert {path for path in attacks if status(address, tls, "POST", path) not in (400, 404)} == set()
            assert len(seen) == 1 + len(OPEN)
        conf.write_text(trusted)
        with proxy(tmp_path / "nginx", tmp_path / "trial" / "server", port) as address:
            with pytest.raises(DeploymentError, match=r"the SuperLink behind it is not \(HTTP 502\)"):
                ask(address, tls.ca)
            assert len(seen) == 1 + len(OPEN)


# ---------------------------------------------------------------- scripts


def scripts(trial: Path) -> list[Path]:
    return sorted(trial.rglob("*.sh"))


def test_the_shell_accepts_every_script(trial):
    assert len(scripts(trial)) == 4 + 3 * len(SITES)
    for script in scripts(trial):
        assert stat.S_IMODE(script.stat().st_mode) == 0o755
        subprocess.run(["sh", "-n", script], check=True, capture_output=True)


def make_program(path: Path, text: str = "", mode: int = 0o755) -> None:
    """A shell script in place of a program."""
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}")
    path.chmod(mode)


@pytest.fixture
def programs(tmp_path, monkeypatch) -> Path:
    """The folder in which the scripts look for Flower's programs."""
    monkeypatch.setattr(module, "_BIN", str(tmp_path / "bin"))
    return tmp_path / "bin"


@pytest.fixture
def started(tmp_path, programs):
    """Provisions with stand-ins for Flower's programs; runs a script and gives what it was started with."""
    for name in ("flower-superlink", "flower-superexec", "flower-supernode"):
        text = 'echo "$0" "$@" in "$PWD" umask "$(umask)"\nenv | grep -E "^(FLWR_|PATH=)"\n'
        make_program(programs / name, text)
    provision(tmp_path / "trial", plan())
    for home in (tmp_path / "trial" / "sites").glob("*/flwr"):
        make_program(home / "bin" / "flwr-clientapp")  # as 'fedsteph app install' leaves it

    def run(script: str) -> str:
        path = tmp_path / "trial" / script
        done = subprocess.run([path], cwd=tmp_path, check=True, capture_output=True, text=True)
        for setting in (
            "FLWR_TELEMETRY_ENABLED=0",
            "FLWR_DISABLE_UPDATE_CHECK=1",
            "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION=1",
            "FLWR_SUPEREXEC_TASK_POLL_INTERVAL=0.2",
            f"FLWR_HOME={path.parent / 'flwr'}",
        ):
            assert setting in done.stdout.splitlines()
        path_found = [line for line in done.stdout.splitlines() if line.startswith("PATH=")]
        own = f"{path.parent}/flwr/bin:" if "sites" in script else ""  # the guard's programs come first
        assert path_found == [f"PATH={own}{programs}:/usr/local/bin:/usr/bin:/bin"]
        return done.stdout.replace(f"{programs}/", "").replace(str(tmp_path / "trial"), "TRIAL")

    return run


@pytest.mark.parametrize("found", [None, "not executable", "in the path's other folders"])
def test_a_site_does_not_start_its_clientapps_without_the_guard(tmp_path, programs, found):
    """Flower's own program would run whatever code the server sends."""
    for name in ("flower-superexec", "flwr-clientapp"):
        make_program(programs / name, "echo started\n")
    provision(tmp_path / "trial", plan())
    folder = tmp_path / "trial" / "sites" / "kirp"
    if found == "not executable":
        make_program(folder / "flwr" / "bin" / "flwr-clientapp", mode=0o644)
    elif found is None:
        (programs / "flwr-clientapp").unlink()
    done = subprocess.run([folder / "start-superexec.sh"], check=False, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (1, "")
    assert f"no reviewed app in {folder}/flwr: 'fedsteph app install' it first" in done.stderr


def test_scripts_find_their_own_folder(tmp_path, started):
    """The folder is carried to another place, and a caller's FLWR_HOME counts for nothing."""
    moved = tmp_path / "opt" / "kirp"
    moved.parent.mkdir()
    (tmp_path / "trial" / "sites" / "kirp").rename(moved)
    env = {**os.environ, "FLWR_HOME": "/elsewhere", "PATH": f"/elsewhere/bin:{os.environ['PATH']}"}
    for script in ("start-supernode.sh", "start-superexec.sh"):
        done = subprocess.run([moved / script], env=env, check=True, capture_output=True, text=True)
        lines = done.stdout.splitlines()
        assert f"FLWR_HOME={moved}/flwr" in lines
        assert [line for line in lines if line.startswith(f"PATH={moved}/flwr/bin:")] != []
        assert "elsewhere" not in done.stdout
        assert "node-config" not in lines[0] or f'site-config="{moved}/site.yaml"' in lines[0]


def test_flower_env_names_no_home(trial):
    found = [path.read_text() for path in trial.rglob("flower.env")]
    assert len(found) == 1 + len(SITES) and not [text for text in found if "FLWR_HOME" in text]


def test_how_every_party_starts(started):
    secret = "--superexec-auth-secret-file superexec.secret"
    expected = {
        "server/start-superlink.sh": "flower-superlink --host 127.0.0.1 --port 9091"
        " --ssl-ca-certfile ca.crt --ssl-certfile server.crt --ssl-keyfile server.key"
        " --enable-supernode-auth --database superlink.db --log-file logs/superlink.log"
        f" --log-rotation-interval-hours 24 --log-rotation-backup-count 90 --isolation process {secret}"
        " --disable-runtime-dependency-installation",
        "server/start-superexec.sh": "flower-superexec --runtime-api-address 127.0.0.1:9091 --root-certificates ca.crt"
        f" {secret}",
    }
    for site, port in (("kirp", 9094), ("kirc", 9095), ("kich", 9096)):
        expected[f"sites/{site}/start-supernode.sh"] = (
            "flower-supernode --superlink fl.example.org:9092 --root-certificates ca.crt"
            f' --auth-supernode-private-key auth.key --node-config site-config="TRIAL/sites/{site}/site.yaml"'
            f" --isolation process {secret} --host 127.0.0.1 --port {port}"
        )
        expected[f"sites/{site}/start-superexec.sh"] = (
            f"flower-superexec --runtime-api-address 127.0.0.1:{port} --insecure {secret}"
        )
    for script, words in expected.items():
        folder = script.rpartition("/")[0]
        assert started(script).splitlines()[0] == f"{words} in TRIAL/{folder} umask 0077"


@pytest.mark.parametrize("refused", [None, "kirc"])
@pytest.mark.parametrize("repeated", [None, "kich"])
def test_how_the_sites_are_registered(tmp_path, programs, refused, repeated):
    """'flwr' exits with 0 whatever happened; the script tells which site was refused, and goes on with the others.

    One that was registered before is no fault: the script is run again for every site that joins.
    """
    make_program(
        programs / "flwr",
        'echo "$@" >> calls\n'
        f"case $* in *{refused}*) echo '{{\"success\": false}}' ;;\n"
        f'*{repeated}*) echo \'{{"success": false, "error-message": "Public key already in use"}}\'; exit 1 ;;\n'
        "*) echo '{\"success\": true}' ;; esac\n",
    )
    provision(tmp_path / "trial", plan())
    server = tmp_path / "trial" / "server"
    done = subprocess.run([server / "register-sites.sh"], cwd=tmp_path, check=False, capture_output=True, text=True)
    names = sorted(SITES)
    calls = [f"supernode register nodes/{name}.pub fedsteph --name {name} --format json" for name in names]
    assert (server / "calls").read_text().splitlines() == calls
    told = [f"{n}: this key was registered before" if n == repeated else f"{n}: registered" for n in names]
    assert done.stdout.splitlines() == [line for line in told if not line.startswith(f"{refused}:")]
    assert done.returncode == (0 if refused is None else 1)
    assert (refused is None and done.stderr == "") or f"{refused}: not registered" in done.stderr


def test_sites_that_share_a_machine_have_ports_of_their_own(cli, tmp_path):
    words = ("--address", "fl.example.org:9092", "--site-port", 20_000, tmp_path / "trial")
    assert cli(*PROVISION, *words)[0] == 0
    for name, port in (("kirp", 20_000), ("kirc", 20_001)):
        folder = tmp_path / "trial" / "sites" / name
        assert f"--port {port}" in (folder / "start-supernode.sh").read_text()
        assert f"127.0.0.1:{port}" in (folder / "start-superexec.sh").read_text()


def test_nothing_but_a_sites_own_loopback_goes_without_tls(trial):
    insecure = {name for name, text in texts(trial).items() if "--insecure" in text or "insecure =" in text}
    assert insecure == {f"sites/{name}/start-superexec.sh" for name in SITES}


@pytest.mark.flower
def test_the_installed_flower_knows_every_option(trial, capsys, monkeypatch):
    for name in ("flower-superlink", "flower-supernode", "flower-superexec"):
        [entry] = entry_points(group="console_scripts", name=name)
        monkeypatch.setattr(sys, "argv", [name, "--help"])
        with pytest.raises(SystemExit):
            entry.load()()
        known = capsys.readouterr().out
        used = set()
        for script in scripts(trial):
            _, starts, command = script.read_text().partition(f"exec {name}")
            used |= set(re.findall(r"--[a-z-]+", command)) if starts else set()
        assert len(used) >= 3 and {option for option in used if option not in known} == set()


UNFIT = ["our trial", "tri'al", 'tri"al', "tri$al", "tri;al", "tri%al", "tri@zeros@al", "tri{al", "triäl", "tri\nal"]


@pytest.mark.parametrize("name", [*UNFIT, "our folder/trial"])
def test_a_path_that_scripts_units_and_nginx_cannot_take(tmp_path, name):
    with pytest.raises(DeploymentError, match="has a space or a special character in its path") as caught:
        provision(tmp_path / name, plan())
    assert caught.value.where == str(tmp_path / name) and list(tmp_path.iterdir()) == []


def test_a_relative_folder_counts_whole(refused, tmp_path, monkeypatch):
    """What goes into the files is its absolute path."""
    (tmp_path / "our folder").mkdir()
    monkeypatch.chdir(tmp_path / "our folder")
    said = refused(*PROVISION, "--address", "fl.example.org:9092", "trial")
    assert said.startswith(f"{tmp_path / 'our folder' / 'trial'}: has a space or a special character in its path")
    assert list((tmp_path / "our folder").iterdir()) == []


def test_programs_that_lie_where_scripts_cannot_reach_them(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_BIN", str(tmp_path / "my env" / "bin"))
    with pytest.raises(DeploymentError, match="special character") as caught:
        provision(tmp_path / "trial", plan())
    assert caught.value.where == str(tmp_path / "my env" / "bin") and list(tmp_path.iterdir()) == []


# ---------------------------------------------------------------- systemd units


def unit(path: Path) -> configparser.ConfigParser:
    parser = configparser.ConfigParser(strict=True, interpolation=None)
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    parser.read(path)
    return parser


def units(trial: Path) -> list[Path]:
    return sorted(trial.rglob("*.service"))


def test_every_unit_restarts_and_is_confined(trial):
    assert len(units(trial)) == 3 + 3 * len(SITES)
    for path in units(trial):
        service = unit(path)["Service"]
        assert service["Restart"] == "always" and service["User"] == "fedsteph"
        for key in ("NoNewPrivileges", "PrivateTmp"):
            assert service[key] == "yes"
        assert service["ProtectSystem"] == "strict"
        started = Path(service["ExecStart"])
        assert started.parent == path.parent and started.is_file()


@each("name", SITES)
def test_a_site_cannot_write_where_its_reviewed_app_lies(trial, name):
    folder = trial / "sites" / name
    for kind in ("supernode", "clientapp"):
        service = unit(folder / f"fedsteph-{kind}.service")["Service"]
        writable = [Path(word) for word in service["ReadWritePaths"].split()]
        assert writable == [folder / "state", folder / "audit"] and service["ReadOnlyPaths"] == str(folder / "flwr")
    supernode = unit(folder / "fedsteph-supernode.service")["Service"]
    assert (supernode["RestartSec"], supernode["TimeoutStartSec"]) == ("65", "600")
    assert supernode["ExecStartPre"].split()[1:] == ["doctor", "site", f"{folder}/site.yaml", "--quick"]


def test_a_superlink_is_back_before_its_run_is_lost(trial):
    superlink = unit(trial / "server" / "fedsteph-superlink.service")["Service"]
    assert int(superlink["RestartSec"]) < 6 and superlink["TimeoutStartSec"] == "600"
    assert superlink["ExecStartPre"].split()[1:] == ["doctor", "server", f"{trial}/server", "--before-start"]
    superexec = unit(trial / "server" / "fedsteph-superexec.service")["Unit"]
    assert "Requires" not in superexec


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
def test_systemd_accepts_every_unit(trial):
    done = subprocess.run(["systemd-analyze", "verify", *units(trial)], capture_output=True, text=True, check=False)
    ours = [line for line in done.stderr.splitlines() if str(trial) in line or "fedsteph" in line]
    # The command stands in this environment's bin, which is there where it was installed only.
    assert [line for line in ours if "is not executable" not in line] == []


# ---------------------------------------------------------------- whole or not at all


@pytest.mark.parametrize("stop", [KeyboardInterrupt, RuntimeError, OSError])
@pytest.mark.parametrize("step", ["make_ca", "make_server_certificate", "make_node_key", "make_token"])
def test_an_interruption_leaves_nothing(tmp_path, monkeypatch, stop, step):
    make, calls = getattr(module, step), []

    def interrupted(*given):
        calls.append(given)
        make(*given)
        if len(calls) == (2 if step in ("make_node_key", "make_token") else 1):
            raise stop

    monkeypatch.setattr(module, step, interrupted)
    with pytest.raises(StorageError if stop is OSError else stop):
        provision(tmp_path / "trial", plan())
    assert list(tmp_path.iterdir()) == []


def test_what_a_kill_left_is_not_taken_over(tmp_path):
    left = tmp_path / ".trial.part"
    (left / "ca").mkdir(parents=True)
    (left / "ca" / "ca.key").write_text("a planted key")
    provision(tmp_path / "trial", plan())
    assert [path.name for path in tmp_path.iterdir()] == ["trial"]
    assert "planted" not in (tmp_path / "trial" / "ca" / "ca.key").read_text()


@pytest.mark.parametrize("empty", [True, False])
def test_an_existing_folder_is_left_alone(tmp_path, empty):
    (tmp_path / "trial").mkdir()
    if not empty:
        (tmp_path / "trial" / "ca.key").write_text("precious")
    before = texts(tmp_path)
    with pytest.raises(DeploymentError, match="exists already") as caught:
        provision(tmp_path / "trial", plan())
    assert "nothing is overwritten" in str(caught.value.remedy) and texts(tmp_path) == before


# ---------------------------------------------------------------- the command


def test_the_command(cli, refused, tmp_path):
    out = tmp_path / "trial"
    words = (*PROVISION, "--address", "127.0.0.1:9091", "--san", "fl.example.org", "--san", "10.0.0.7", out)
    code, said, err = cli(*words)
    assert (code, err) == (0, "") and "ca, server, and 2 sites" in said
    assert set(names_in(out / "server" / "server.crt")) == {"127.0.0.1", "localhost", "fl.example.org", "10.0.0.7"}
    assert "exists already" in refused(*words)


@pytest.mark.parametrize(
    ("option", "value", "told"),
    [
        ("--address", "fl.example.org", "is not an address"),
        ("--address", "fl.example.org:99999", "is not an address"),
        ("--superlink", "9091", "is not an address"),
        ("--sites", "kirp", "a target and at least one source"),
        ("--sites", "kirp,KIRC", "--sites: 'KIRC' cannot be a site's name"),
        ("--sites", "kirp;kirc", "cannot be a site's name"),
        ("--sites", "kirp,../kirc", "cannot be a site's name"),
        ("--sites", "kirp,kirp", "without repetitions"),
        ("--targets", "", "a target and at least one source"),
        ("--targets", "luad", "not among them: luad"),
        ("--federation", "Kidney cancer", "name must be like"),
        ("--width", "0", "--width"),
        ("--width", "wide", "--width"),
        ("--site-port", "80", "--site-port"),
        ("--address", "höst.example.org:9092", "is not an address"),
        ("--address", "https://fl.example.org:9092", "is not an address"),
        ("--address", "x; }:9092", "is not an address"),
        ("--superlink", "local host:9091", "is not an address"),
        ("--san", "ex ample", "ex ample: is no host's name"),
        ("--san", "fl.example.org:9092", "fl.example.org:9092: is no host's name"),
        ("--width", "65537", "--width"),
        ("--width", "99999999", "--width"),
    ],
)
def test_a_fault_is_one_line_and_leaves_nothing(refused, tmp_path, option, value, told):
    words = [*PROVISION, "--address", "fl.example.org:9092", option, value, tmp_path / "trial"]
    assert told in refused(*words) and list(tmp_path.iterdir()) == []


def test_names_from_an_option():
    assert site_names(" kirp, kirc ,,kich", "--sites") == SITES and site_names("", "--sites") == ()


@each("width", [0, 65_537])
def test_a_width_that_is_none(width):
    """The command's option has the same bounds; this is for whoever calls the function."""
    with pytest.raises(ConfigError, match="--width: must be 1 to 65536"):
        plan(width=width)


def test_permissions_hold_without_a_umask(tmp_path):
    before = os.umask(0)
    try:
        provision(tmp_path / "trial", plan())
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "trial").stat().st_mode) == 0o700
    secrets = [path for path in (tmp_path / "trial").rglob("*") if path.suffix in (".key", ".secret")]
    assert {stat.S_IMODE(path.stat().st_mode) for path in secrets} == {0o600}


# ---------------------------------------------------------------- a site's folder, made at the site


@pytest.fixture
def ca(tmp_path_factory) -> Path:
    """The one thing that comes from the coordinator."""
    folder = tmp_path_factory.mktemp("coordinator")
    make_ca(folder / "ca.crt", folder / "ca.key", "kidney")
    return folder / "ca.crt"


def site_words(out: Path, ca: Path) -> list[object]:
    words = ["provision-site", out, "--site", "kirp", "--federation", "kidney"]
    return [*words, "--address", "fl.example.org:9092", "--ca", ca]


def test_a_site_makes_its_own_folder(cli, tmp_path, ca):
    """One command there; a certificate goes in, the public half of a key comes out."""
    out = tmp_path / "kirp"
    code, said, err = cli(*site_words(out, ca))
    assert (code, err) == (0, "")
    assert said == f"{out}: fill in site.yaml; give {out}/kirp.pub to the coordinator, for server/nodes/\n"
    assert (out / "ca.crt").read_bytes() == ca.read_bytes()
    secret = serialization.load_ssh_private_key((out / "auth.key").read_bytes(), password=None)
    assert secret.public_key() == serialization.load_ssh_public_key((out / "kirp.pub").read_bytes())
    site = Site.open(out)
    assert site.file.federation is not None and site.file.policy is not None
    assert (site.name, site.file.federation.server) == ("kirp", "fl.example.org:9092")
    assert (site.file.policy.targets, site.file.policy.recipes) == ((), ())


def test_it_is_the_folder_that_the_coordinator_would_have_made(trial, tmp_path, ca):
    """But for the keys, which nobody else has seen."""
    out = tmp_path / "kirp"
    provision_site(out, "kirp", "kidney", "fl.example.org:9092", ca, 9094)
    theirs, own = texts(trial / "sites" / "kirp"), texts(out)
    assert set(own) - set(theirs) == {"kirp.pub"} and set(theirs) <= set(own)
    differing = {name for name in theirs if theirs[name].replace(f"{trial}/sites", str(tmp_path)) != own[name]}
    assert differing == {"auth.key", "ca.crt", "superexec.secret"}
    for path in (out, *out.rglob("*")):
        theirs_path = trial / "sites" / "kirp" / path.relative_to(out)
        assert path.name == "kirp.pub" or path.stat().st_mode == theirs_path.stat().st_mode
    assert stat.S_IMODE(out.stat().st_mode) == 0o700
    assert not {name: found for name, text in own.items() if (found := re.findall(r"@\w+@", text))}


def test_its_port(cli, tmp_path, ca):
    assert cli(*site_words(tmp_path / "kirp", ca), "--site-port", 20_000)[0] == 0
    assert "--port 20000" in (tmp_path / "kirp" / "start-supernode.sh").read_text()
    assert "127.0.0.1:20000" in (tmp_path / "kirp" / "start-superexec.sh").read_text()


@pytest.mark.parametrize(
    ("option", "value", "told"),
    [
        ("--site", "KIRP", "--site: 'KIRP' cannot be a site's name"),
        ("--site", "kirp,kirc", "--site: must be one name"),
        ("--site", "", "--site: must be one name"),
        ("--site", "../kirp", "cannot be a site's name"),
        ("--federation", "Kidney cancer", "--federation: 'Kidney cancer' cannot be"),
        ("--federation", "", "--federation: must be one name"),
        ("--address", "fl.example.org", "is not an address"),
        ("--address", "x; }:9092", "is not an address"),
        ("--ca", "absent.crt", "there is no such certificate"),
        ("--ca", ".", "there is no such certificate"),
        ("--site-port", "80", "--site-port"),
    ],
)
def test_a_sites_fault_is_one_line_and_leaves_nothing(refused, tmp_path, monkeypatch, ca, option, value, told):
    monkeypatch.chdir(tmp_path)
    assert told in refused(*site_words(tmp_path / "kirp", ca), option, value) and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", UNFIT)
def test_a_sites_path_that_scripts_and_units_cannot_take(tmp_path, ca, name):
    with pytest.raises(DeploymentError, match="has a space or a special character in its path"):
        provision_site(tmp_path / name, "kirp", "kidney", "fl.example.org:9092", ca, 9094)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("empty", [True, False])
def test_an_existing_site_folder_is_left_alone(refused, tmp_path, ca, empty):
    (tmp_path / "kirp").mkdir()
    if not empty:
        (tmp_path / "kirp" / "auth.key").write_text("precious")
    before = texts(tmp_path)
    assert "exists already. Choose another folder; nothing is overwritten" in refused(
        *site_words(tmp_path / "kirp", ca)
    )
    assert texts(tmp_path) == before and (tmp_path / "kirp").is_dir()


@pytest.mark.parametrize("stop", [KeyboardInterrupt, OSError])
@pytest.mark.parametrize("step", ["make_node_key", "make_token", "_write"])
def test_an_interruption_leaves_nothing_at_a_site(tmp_path, monkeypatch, ca, stop, step):
    make = getattr(module, step)

    def interrupted(*given):
        make(*given)
        raise stop

    monkeypatch.setattr(module, step, interrupted)
    with pytest.raises(StorageError if stop is OSError else stop):
        provision_site(tmp_path / "kirp", "kirp", "kidney", "fl.example.org:9092", ca, 9094)
    assert list(tmp_path.iterdir()) == []
