"""``fedsteph doctor site``: a site that is ready passes, and every fault, made for real, is found and has a remedy."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace

import pytest
import yaml
from each_case import each
from keys_and_rosters import identity_of, roster_of, write_membership
from loopback import Tls, free_port, http_date, make_tls, raw, reissue, web
from reviewed_homes import copy_home, replace
from sites import make_site

import fedsteph.client.deployment.site_doctor
from fedsteph.client.deployment import reviewed_app
from fedsteph.client.deployment.reviewed_app import installed
from fedsteph.client.models.model_file import save_base
from fedsteph.common.deployment.checks import Check
from fedsteph.common.model.architecture import Architecture
from fedsteph.common.model.initial_model import model_digest, untrained_model
from fedsteph.common.trust.audit_log import FILE, AuditLog, Event
from fedsteph.common.trust.key_file import write_identity
from fedsteph.common.trust.roster import write_roster
from fedsteph.server.deployment.certificates import make_node_key, make_token

ROOT = Path(__file__).resolve().parents[3]
READY = ["account", "data", "device", "membership", "policy", "audit", "privacy", "reviewed app"]
READY += ["start of an app", "CA certificate", "server"]
SECRETS = ["secret kirp.sign.key", "secret kirp.seal.key", "secret auth.key", "secret superexec.secret"]
ACCOUNT = os.geteuid() + 1  # the SuperNode's: neither root nor the owner of what the tests write


def account(uid: int) -> SimpleNamespace:
    """What an account sees of ``os``: what it may write by the mode bits, as a member of every group."""

    def access(path: Path | str, mode: int) -> bool:
        assert mode == os.W_OK
        found = Path(path).stat()
        return bool(found.st_mode & (0o200 if found.st_uid == uid else 0o022))

    return SimpleNamespace(geteuid=lambda: uid, access=access, W_OK=os.W_OK)


def be(monkeypatch, somebody: SimpleNamespace) -> None:
    """Examine the site as this account."""
    for module in (fedsteph.client.deployment.site_doctor, reviewed_app):
        monkeypatch.setattr(module, "os", somebody)


@dataclass
class Ready:
    """A site that lacks nothing, and its server."""

    folder: Path
    tls: Tls

    def renew(self, whole: Path) -> None:
        """All but the reviewed app again as in this folder."""
        for path in self.folder.iterdir():
            if path.is_file():
                path.unlink()
            elif path.name != "flwr":
                shutil.rmtree(path)
        shutil.copytree(whole, self.folder, dirs_exist_ok=True)

    def write(self, **changes: object) -> None:
        """Change the site file; ``federation`` and ``policy`` key by key, or as a whole with None."""
        path = self.folder / "site.yaml"
        content = yaml.safe_load(path.read_text())
        for key, value in changes.items():
            if isinstance(value, dict):
                content[key].update(value)
            else:
                content[key] = value
        path.write_text(yaml.safe_dump({key: value for key, value in content.items() if value is not None}))

    @property
    def home(self) -> Path:
        return self.folder / "flwr"

    @property
    def app(self) -> Path:
        return installed(self.folder / "flwr")[0]

    def change_app(self, change: Callable[[Path], object]) -> None:
        """As root would: writable, changed, and read-only again."""
        folders = [self.folder / "flwr", *(p for p in (self.folder / "flwr").rglob("*") if p.is_dir())]
        for folder in folders:
            folder.chmod(0o755)
        change(self.app)
        for path in (self.folder / "flwr").rglob("*"):
            path.chmod(path.stat().st_mode & ~0o222)
        (self.folder / "flwr").chmod(0o555)


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Iterator[tuple[Path, Path]]:
    """The folders of a site that lacks nothing but the reviewed app, and of its server's certificates; to be copied."""
    above = tmp_path_factory.mktemp("whole")
    folder, tls = make_site(above / "kirp", patients=12), make_tls(above / "tls")
    file = write_membership(folder, "kirp", roster_of("kirp", "kirc"))
    make_node_key(folder / "auth.key", folder / "auth.pub")
    AuditLog(folder / "audit").append(Event("site.join", "allowed"))
    AuditLog(folder / "audit").append(Event("run.end"))
    make_token(folder / "superexec.secret")
    (folder / "ca.crt").write_bytes(tls.ca.read_bytes())
    folder.chmod(0o755)
    with web(tls) as address:
        federation = {
            **{key: getattr(file, key) for key in ("roster", "roster_sha256", "sign_key", "seal_key")},
            **{"audit": "audit", "server": address, "ca": "ca.crt", "auth_key": "auth.key", "flwr_home": "flwr"},
            "superexec_secret": "superexec.secret",
        }
        policy = {"targets": ["kirc"], "recipes": "any"}
        site = {"name": "kirp", "device": "cpu", "federation": federation, "policy": policy}
        (folder / "site.yaml").write_text(yaml.safe_dump(site))
        yield folder, tls.ca.parent


@pytest.fixture
def ready(tmp_path, whole, installed_once, own_code, quick_start, monkeypatch) -> Ready:
    """Installed by the tests' account, examined by another one, which may write only what lets it."""
    tls = shutil.copytree(whole[1], tmp_path / "tls")
    (tmp_path / "installation").mkdir(mode=0o755)
    copy_home(installed_once, tmp_path / "kirp" / "flwr")
    be(monkeypatch, account(ACCOUNT))
    monkeypatch.setattr(reviewed_app, "own_digest", lambda: own_code)
    monkeypatch.setattr(sys, "prefix", str(tmp_path / "installation"))
    found = Ready(tmp_path / "kirp", Tls(*(tls / name for name in ("ca.crt", "ca.key", "server.crt", "server.key"))))
    found.renew(whole[0])
    return found


@pytest.fixture
def examine(doctor):
    """Runs the command; gives its exit code and the checks by name."""
    return lambda ready, *words: doctor("site", ready.folder / "site.yaml", *words)


# ---------------------------------------------------------------- all is well


def test_a_site_that_is_ready(ready, examine):
    code, checks = examine(ready)
    assert code == 0
    names = ["fedsteph", "packages", "account", "data", "device", "membership", *SECRETS]
    assert list(checks) == [*names, *READY[4:], "memory", "disk of fedsteph-state"]
    assert {name: checks[name].verdict for name in [*READY, *SECRETS]} == dict.fromkeys([*READY, *SECRETS], "PASS")
    assert not [checks[name].remedy for name in [*READY, *SECRETS] if checks[name].remedy]
    assert checks["audit"].found == "2 lines hold together" and checks["policy"].found == "shares with kirc"
    found = "vectors are trained without differential privacy; so far: nothing was shared yet; no budget"
    assert checks["privacy"].found == found and "certificate: 396 days left" in checks["server"].found


def test_a_site_s_file_of_m0_tells_its_digest(ready, examine):
    model, path = untrained_model(Architecture(6, 8, 5, 4), 0), ready.folder / "m0.safetensors"
    ready.write(m0=path.name)
    assert examine(ready, "--quick")[1]["M0"].verdict == "FAIL", "there is none"
    for told, verdict in ((model_digest(model), "PASS"), ("0" * 64, "FAIL")):
        save_base(path, model, m0_sha256=told)
        found = examine(ready, "--quick")[1]["M0"]
        assert found.verdict == verdict and (model_digest(model)[:12] in found.found) == (verdict == "PASS")


def test_the_same_again_says_the_same(ready, examine):
    """But for what the machine has free, and the clocks."""

    def stable():
        checks = examine(ready)[1]
        return [(check.name, check.verdict) for check in checks.values() if check.name not in ("memory", "server")]

    assert stable() == stable()


def test_quick_leaves_the_feature_files_alone(ready, examine):
    next((ready.folder / "features").iterdir()).write_bytes(b"junk")
    assert examine(ready, "--quick")[0] == 0 and "data" not in examine(ready, "--quick")[1]
    assert examine(ready)[1]["data"].verdict == "FAIL"


def test_the_folder_will_do_and_the_table_names_the_fault(cli, ready):
    (ready.folder / "auth.key").chmod(0o644)
    code, out, err = cli("doctor", "site", ready.folder, "--quick")
    assert code == 1 and "site kirp" in out and "FAIL" in out and "1 of " in err


def test_nothing_of_a_secret_is_printed(cli, ready):
    for path in ready.folder.rglob("*.key"):
        path.chmod(0o644)
    code, out, err = cli("doctor", "site", ready.folder, "--json")
    assert code == 1
    for path in ready.folder.rglob("*.key"):
        [*_, secret] = [line for line in path.read_text().splitlines() if not line.startswith(("#", "-----"))]
        assert secret.rpartition(":")[2][:20] not in out + err


# ---------------------------------------------------------------- every fault


def replaced(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def other_keys(ready):
    lose("keys/kirp.sign.key")(ready)
    lose("keys/kirp.seal.key")(ready)
    write_identity(ready.folder / "keys", "kirp", identity_of("stranger"))


def other_roster(ready):
    roster = roster_of("kirc", "kich")
    write_roster(ready.folder / "roster.yaml", roster)
    ready.write(federation={"roster_sha256": roster.digest})


def stray_file(ready):
    shutil.copy(next((ready.folder / "features").glob("P001*")), ready.folder / "features/stray.h5")


def cut_log(ready):
    (ready.folder / "audit" / FILE).write_text((ready.folder / "audit" / FILE).read_text().splitlines()[0])


def mode(path: str, bits: int):
    return lambda ready: (ready.folder / path).chmod(bits)


def lose(path: str):
    return lambda ready: (ready.folder / path).unlink()


def federation(**changes: object):
    return lambda ready: ready.write(federation=changes)


def policy(**changes: object):
    return lambda ready: ready.write(policy=changes)


Fault = Callable[[Ready], object]
# What is done to a site, the check that fails, and what it says.
FAULTS: list[tuple[Fault, str, str]] = [
    (mode("keys/kirp.sign.key", 0o644), "secret kirp.sign.key", "mode 0644"),
    (mode("keys/kirp.seal.key", 0o640), "membership", "can be reached by other users"),
    (mode("auth.key", 0o604), "secret auth.key", "mode 0604"),
    (lose("auth.key"), "secret auth.key", "cannot be read"),
    (lose("keys/kirp.sign.key"), "membership", "kirp.sign.key: cannot be read"),
    (federation(roster_sha256="0" * 64), "membership", f"not the pinned {'0' * 64}"),
    (
        lambda r: write_roster(r.folder / "roster.yaml", roster_of("kirp", "kirc", "kich")),
        "membership",
        "and not the pinned",
    ),
    (other_roster, "membership", "no entry under the name kirp"),
    (other_keys, "membership", "other keys under the name kirp"),
    (lose("roster.yaml"), "membership", "there is no such roster"),
    (lambda r: r.write(federation=None), "membership", "no 'federation' section"),
    (lambda r: r.write(policy=None), "policy", "none"),
    (policy(targets=["kirc", "mallory", "kich"]), "policy", "mallory, kich is no site of the roster"),
    (mode("superexec.secret", 0o640), "secret superexec.secret", "mode 0640"),
    (lose("superexec.secret"), "secret superexec.secret", "cannot be read"),
    (lambda r: r.write(device="cuda:9"), "device", "cuda:9 was asked for"),
    (lambda r: next((r.folder / "features").iterdir()).write_bytes(b"junk"), "data", "1 problem"),
    (lose("labels.csv"), "data", "1 problem"),
    (lambda r: replaced(r.folder / "audit" / FILE, "allowed", "refused"), "audit", "was edited"),
    (cut_log, "audit", "dropped or changed"),
    (federation(flwr_home="absent"), "reviewed app", "no app is installed"),
    (
        lambda r: (r.folder.parent / "installation").chmod(0o777),
        "reviewed app",
        "installation: this account can change the installation itself",
    ),
    (lambda r: r.write(federation={"server": f"127.0.0.1:{free_port()}"}), "server", "nothing answers there"),
    (
        lambda r: (r.folder / "ca.crt").write_bytes(make_tls(r.folder.parent / "other").ca.read_bytes()),
        "server",
        "does not hold against ca.crt",
    ),
    (lambda r: (r.folder / "ca.crt").write_text("junk"), "server", "no CA certificate in PEM form"),
]
WARNINGS: list[tuple[Fault, str, str]] = [
    (policy(targets=[]), "policy", "no target"),
    (policy(recipes=[]), "policy", "so nothing is trained"),
    (policy(privacy="dp-sgd"), "policy", "asks for dp-sgd"),
    (stray_file, "data", "1 problem"),
    (federation(flwr_home=None), "reviewed app", "not checked"),
    (federation(server=None), "server", "not checked"),
    (federation(ca=None), "server", "not checked"),
]


def replaced_readonly(path: Path, old: str, new: str) -> None:
    path.chmod(0o644)
    replaced(path, old, new)


def require_found(examine, ready: Ready, name: str, verdict: str, told: str) -> None:
    """This check has this verdict, says this and has a remedy; and others do not fail with it."""
    code, checks = examine(ready, *([] if name == "data" else ["--quick"]))
    assert (checks[name].verdict, code) == (verdict, 1 if verdict == "FAIL" else 0)
    assert told in checks[name].found and checks[name].remedy
    unconcerned = {key for key, check in checks.items() if check.verdict == "PASS"}
    # The log vouches for the ledger, and the CA for the server.
    vouched_for = {"audit": ["privacy"], "server": ["CA certificate"]}.get(name, [])
    touched = {name, "membership", "policy", *vouched_for}
    assert set(READY) & set(checks) - unconcerned <= touched


@each(
    ("verdict", "make", "name", "told"),
    [*(("FAIL", *fault) for fault in FAULTS), *(("WARN", *fault) for fault in WARNINGS)],
)
def test_a_fault_is_found(ready, whole, examine, verdict, make, name, told):
    ready.renew(whole[0])
    make(ready)
    require_found(examine, ready, name, verdict, told)
    (ready.folder.parent / "installation").chmod(0o755)


OURS = "not the code of this fedsteph"
GUARD = "bin: the guard's programs are not this fedsteph's"
APP_FAULTS: dict[str, tuple[Fault, str]] = {
    "a changed app": (
        lambda r: r.change_app(lambda app: replaced_readonly(app / "client/site/policy.py", "= 30", "= 1")),
        OURS,
    ),
    "a planted file": (lambda r: r.change_app(lambda app: (app / "torch.py").write_text("")), OURS),
    "a planted shared object": (
        lambda r: r.change_app(lambda app: (app / "client/site/site.cpython-311-x86_64-linux-gnu.so").write_bytes(b"")),
        OURS,
    ),
    "a planted link": (lambda r: r.change_app(lambda app: (app / "torch").symlink_to(r.folder)), OURS),
    "two apps": (
        lambda r: r.change_app(lambda app: (app.parent / "stranger.evil.1.0.0.00000000").mkdir()),
        "2 apps are installed",
    ),
    "no app": (lambda r: r.change_app(lambda app: app.rename(r.folder / "away")), "no app is installed"),
    "a changed guard": (
        lambda r: replace(r.home / "bin/guard.py", (r.home / "bin/guard.py").read_text() + "\n"),
        GUARD,
    ),
    "a guard that is Flower's own program": (
        lambda r: replace(r.home / "bin/flwr-clientapp", '#!/bin/sh\nexec /usr/bin/flwr-clientapp "$@"\n'),
        GUARD,
    ),
    "another site's guard": (
        lambda r: replace(
            r.home / "bin/flwr-clientapp", (r.home / "bin/flwr-clientapp").read_text().replace("kirp/", "kirc/")
        ),
        GUARD,
    ),
    "a program planted beside the guard": (lambda r: replace(r.home / "bin/sh", "#!/bin/bash\n"), GUARD),
    "a stub that is missing": (lambda r: r.change_app(lambda app: (r.home / "bin/flwr-agentapp").unlink()), GUARD),
    "no guard": (lambda r: r.change_app(lambda app: (r.home / "bin").rename(r.folder / "away")), GUARD),
}


@pytest.mark.parametrize(("make", "told"), APP_FAULTS.values(), ids=APP_FAULTS)
def test_a_fault_of_the_reviewed_app_is_found(ready, examine, make, told):
    make(ready)
    require_found(examine, ready, "reviewed app", "FAIL", told)


def test_root_is_told_to_use_an_account(ready, examine, monkeypatch):
    be(monkeypatch, SimpleNamespace(geteuid=lambda: 0, access=lambda *_: True, W_OK=os.W_OK))
    code, checks = examine(ready, "--quick")
    assert code == 1 and (checks["account"].verdict, "this is root" in checks["account"].found) == ("FAIL", True)
    assert "account of its own" in str(checks["account"].remedy)
    assert "this account can change it" in checks["reviewed app"].found


def test_an_app_that_this_account_owns_is_not_protected_from_it(ready, examine, monkeypatch):
    """Whoever owns a file can make it writable again, though it cannot write to it now."""
    owner = (ready.folder / "flwr").stat().st_uid
    be(monkeypatch, SimpleNamespace(geteuid=lambda: owner, access=lambda *_: False, W_OK=os.W_OK))
    found = examine(ready, "--quick")[1]["reviewed app"]
    assert (found.verdict, "this account can change it" in found.found) == ("FAIL", True)
    assert "As root: fedsteph app install HOME, in a new folder" in str(found.remedy)


# Each path that this account must neither be able to write nor own, with a mode that lets it write.
GUARDED = {
    **{"": 0o775, "flwr": 0o557, "flwr/apps": 0o575, "flwr/apps/*": 0o575, "flwr/apps/*/common": 0o575},
    **{"flwr/apps/*/client/app.py": 0o446, "flwr/reviewed.sha256": 0o446},
    **{"flwr/bin": 0o575, "flwr/bin/guard.py": 0o466},
}


@each(("pattern", "writable"), GUARDED.items())
def test_one_path_that_this_account_can_write_or_owns_is_enough(ready, examine, pattern, writable):
    path = next(ready.folder.glob(pattern)) if pattern else ready.folder
    before = path.stat()
    path.chmod(writable)
    require_found(examine, ready, "reviewed app", "FAIL", f"{path}: this account can change it")
    path.chmod(before.st_mode)
    if os.geteuid() == 0:  # only root can give files away
        os.chown(path, ACCOUNT, -1)
        found = examine(ready, "--quick")[1]["reviewed app"]
        assert (found.verdict, found.found) == ("FAIL", f"{path}: this account can change it")
        os.chown(path, before.st_uid, -1)


EXAMINE = """
import io, json, sys
from contextlib import redirect_stdout
from fedsteph.__main__ import main
for site in sys.argv[1:]:
    sys.argv = ["fedsteph", "doctor", "site", site, "--quick", "--json"]
    with redirect_stdout(io.StringIO()) as told:
        try:
            main()
        except SystemExit:
            pass
    print(json.dumps(json.loads(told.getvalue())))
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")
@pytest.mark.skipif(shutil.which("setpriv") is None, reason="setpriv is not installed")
def test_a_real_account_is_told_the_same(ready):
    """The command as systemd starts it, where the kernel decides what is writable."""
    with TemporaryDirectory() as scratch:  # tmp_path is closed to other accounts
        Path(scratch).chmod(0o755)
        sites = [Path(scratch) / name for name in ("ready", "writable", "owned")]
        for site in sites:
            shutil.copytree(ready.folder, site)
            copy_home(ready.home, site / "flwr")
            for path in (site / "auth.key", site / "superexec.secret", site / "keys", *(site / "keys").iterdir()):
                os.chown(path, ACCOUNT, ACCOUNT)
            for path in (site / "audit").iterdir():
                os.chown(path, ACCOUNT, ACCOUNT)
        sites[1].chmod(0o777)
        os.chown(sites[2] / "flwr", ACCOUNT, -1)
        python = ["setpriv", f"--reuid={ACCOUNT}", f"--regid={ACCOUNT}", "--clear-groups", sys.executable, "-c"]
        if subprocess.run([*python, "import fedsteph.common, typer"], cwd=ROOT, check=False).returncode:
            pytest.skip("other accounts cannot run this Python")
        done = subprocess.run([*python, EXAMINE, *sites], cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.stdout, done.stderr
        found = [json.loads(line)["checks"] for line in done.stdout.splitlines()]
        for checks in found:
            assert f"user {ACCOUNT}, not root" in [check["found"] for check in checks]
        told = [{check["name"]: check["found"] for check in checks if check["verdict"] == "FAIL"} for checks in found]
        for checks in told:  # where another account may not start the Python of these tests
            checks.pop("start of an app", None)
        changeable = [{"reviewed app": f"{path}: this account can change it"} for path in (sites[1], sites[2] / "flwr")]
        assert told == [{}, *changeable]


# ---------------------------------------------------------------- the server


@pytest.fixture
def server_check(ready, examine):
    """The server's check, where this stands in the server's place."""

    def check(stand_in: AbstractContextManager[str]) -> Check:
        with stand_in as address:
            ready.write(federation={"server": address})
            return examine(ready, "--quick")[1]["server"]

    return check


@each(
    ("seconds", "verdict", "told"),
    [
        (3600, "FAIL", "s behind the server's"),
        (-3600, "FAIL", "s ahead of the server's"),
        (310, "FAIL", "s behind the server's"),
        (-10, "FAIL", "s ahead of the server's"),
        (200, "PASS", "clocks"),
        (None, "PASS", "no clock"),
    ],
)
def test_the_clock(ready, server_check, seconds, verdict, told):
    """Flower refuses a signature that is over 305 s old, or over 5 s ahead of the server's time."""
    date = None if seconds is None else http_date(timedelta(seconds=seconds))
    found = server_check(web(ready.tls, date=date))
    assert (found.verdict, told in found.found) == (verdict, True)
    assert verdict == "PASS" or "time synchronisation" in str(found.remedy)


@each(
    ("days", "verdict", "told"),
    [(-1, "FAIL", "expired"), (20, "WARN", "certificate: 19 days left"), (40, "PASS", "certificate: 39 days left")],
)
def test_the_certificates_dates(ready, server_check, days, verdict, told):
    reissue(ready.tls, valid=timedelta(days=days))
    found = server_check(web(ready.tls))
    assert (found.verdict, told in found.found) == (verdict, True)
    assert ("provision-renew" in str(found.remedy)) == (days == 20)


@each(
    ("stand_in", "told"),
    [
        (lambda tls: web(None), "does not speak TLS"),
        (lambda tls: raw(tls, b"220 smtp\r\n"), "no HTTP"),
        (lambda tls: web(tls, 404), "no Flower SuperLink (HTTP 404)"),
        (lambda tls: web(tls, 502), "the SuperLink behind it is not (HTTP 502)"),
    ],
)
def test_what_stands_where_the_server_should(ready, server_check, stand_in, told):
    found = server_check(stand_in(ready.tls))
    assert (found.verdict, told in found.found) == ("FAIL", True) and found.remedy


def test_a_missing_name(ready, server_check):
    named = make_tls(ready.folder.parent / "named", ["fl.example.org"])
    ready.write(federation={"ca": str(named.ca)})
    found = server_check(web(named))
    assert (found.verdict, "is not for this name" in found.found) == ("FAIL", True)


# ---------------------------------------------------------------- no check at all


@each(
    ("text", "told"),
    [
        ("polcy: {}\n", "unknown key 'polcy'"),
        ("policy: {count_band: 5}\n", "count_band"),
        ("federation: {roster: r}\n", "is missing"),
        ("device: [\n", "not valid YAML"),
    ],
)
def test_a_site_file_with_a_fault_is_one_line(refused, ready, text, told):
    (ready.folder / "site.yaml").write_text(text)
    assert told in refused("doctor", "site", ready.folder)


def test_a_site_that_is_not_there(refused, tmp_path):
    assert "there is no such site folder" in refused("doctor", "site", tmp_path / "absent")
