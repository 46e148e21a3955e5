"""The Flower app builds from this layout, the same bundle each time, and any change to its code is noticed."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from importlib.metadata import version
from pathlib import Path

import pytest
from checkouts import ROOT, copy_checkout
from each_case import each

from fedsteph.common.deployment import flower_programs
from fedsteph.common.deployment.flower_app import assemble, config_folder, digest_of, flwr, own_digest
from fedsteph.common.deployment.flower_app import build as build_bundle
from fedsteph.common.errors import DeploymentError, EngineError


@pytest.fixture(scope="module")
def own() -> str:
    return own_digest()


@pytest.fixture
def app(tmp_path) -> Path:
    """The app as it is assembled, which a test may change."""
    return assemble(tmp_path / "fedsteph")


def contents(bundle: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(bundle) as files:
        return {name: files.read(name) for name in files.namelist()}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory) -> Path:
    """The bundle of this installation."""
    folder = tmp_path_factory.mktemp("bundle")
    return build_bundle(assemble(folder / "fedsteph"), folder / "home")


@pytest.mark.flower
def test_the_bundle_holds_the_app_and_neither_tests_nor_simulations(bundle):
    names = set(contents(bundle))
    for name in ("fedsteph/__init__.py", "server/app.py", "client/data/formats.py", "common/wire/protocol.py"):
        assert name in names
    folders = {name.partition("/")[0] for name in names if "/" in name}
    assert folders == {"fedsteph", "server", "client", "common", ".info"}
    front = {"fedsteph/__init__.py", "fedsteph/client_app.py", "fedsteph/server_app.py"}
    assert {name for name in names if name.startswith("fedsteph/")} == front  # no command travels


@pytest.mark.flower
def test_a_checkout_makes_the_same_bundle_code_as_an_installation(bundle, tmp_path):
    """Else 'flwr run .' in a checkout would be refused by sites that review what is installed."""
    words = [Path(sys.executable).parent / "flwr", "build", "--app", copy_checkout(tmp_path / "checkout")]
    (tmp_path / "out").mkdir()
    subprocess.run(words, cwd=tmp_path / "out", check=True, capture_output=True)
    [built] = (tmp_path / "out").glob("*.fab")
    assert contents(built) == contents(bundle)


@pytest.mark.flower
def test_the_same_content_makes_the_same_bundle(bundle, tmp_path):
    """A site pins the bundle's SHA-256, and the coordinator builds its own, elsewhere and later."""
    again = assemble(tmp_path / "elsewhere" / "fedsteph")
    for path in again.rglob("*.py"):
        os.utime(path, (1_700_000_000, 1_700_000_000))
    assert build_bundle(again, tmp_path / "other-home").read_bytes() == bundle.read_bytes()


def test_assembling_again_leaves_nothing_of_before(app):
    (app / "client" / "stale.py").write_text("")
    assert not (assemble(app) / "client" / "stale.py").exists()


def test_configurations_travel_with_the_installation():
    assert (config_folder() / "simulate.yaml").read_bytes() == (ROOT / "configs" / "simulate.yaml").read_bytes()


def test_the_installed_command_works_from_an_empty_folder(tmp_path):
    fedsteph = Path(sys.executable).parent / "fedsteph"
    words = ["provision", "trial", "--federation", "kidney", "--address", "127.0.0.1:9092", "--width", "6"]
    words += ["--sites", "kirp,kirc", "--targets", "kirp"]
    done = subprocess.run([fedsteph, *words], cwd=tmp_path, check=True, capture_output=True, text=True)
    assert done.stdout.startswith("trial: ca, server, and 2 sites")
    assert (tmp_path / "trial" / "server" / "nginx.conf").is_file()


def test_the_version(cli):
    code, out, _ = cli("--version")
    assert (code, out) == (0, f"fedsteph {version('fedsteph')}\n")


def test_flowers_failure_is_told(tmp_path, monkeypatch):
    program = tmp_path / "flwr"
    program.write_text("#!/bin/sh\necho 'no such publisher' >&2\nexit 1\n")
    program.chmod(0o755)
    monkeypatch.setattr(flower_programs, "program", lambda name: str(program))
    with pytest.raises(EngineError, match="'flwr build' failed: no such publisher") as caught:
        flwr(["build"], tmp_path, tmp_path / "home")
    assert caught.value.where == str(tmp_path / "home")


def test_the_digest_command(cli):
    assert cli("app", "digest") == (0, f"{own_digest()}\n", "")


def edited(name, change):
    return lambda app: (app / name).write_text(change((app / name).read_text()))


def swapped(app):
    one, other = app / "client" / "__init__.py", app / "client" / "site" / "policy.py"
    content = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(content)


def linked(app):
    path = app / "common" / "trust" / "audit_log.py"
    path.rename(app.parent / "audit.py")
    path.symlink_to(app.parent / "audit.py")


LOG = "common/trust/audit_log.py"
CHANGES = {
    "edited": edited(
        "client/site/policy.py", lambda text: text.replace("min_patients: int = 30", "min_patients: int = 1")
    ),
    "one byte": edited("client/sharing/outgoing.py", lambda text: text + "\n"),
    "removed": lambda app: (app / LOG).unlink(),
    "renamed": lambda app: (app / LOG).rename(app / "common/trust/audits.py"),
    **{"swapped": swapped, "linked": linked, "linked folder": lambda app: (app / "torch").symlink_to(app.parent)},
}
PLANTED = [
    "torch.py",
    "client/data/evil.py",
    "sitecustomize.py",
    "deep/er/package/__init__.py",
    "client/site/policy.cpython-311-x86_64-linux-gnu.so",
    "client/site/__pycache__/policy.cpython-311.pyc",
    "client/site/policy.pyc",
    "evil.pth",
    "evil.zip",
]


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_change_of_the_code_is_noticed(app, own, change):
    assert digest_of(app) == own
    change(app)
    assert digest_of(app) != own


@each("name", PLANTED)
@each("content", [b"", b"import os"])
def test_a_planted_file_is_noticed(app, own, name, content):
    (app / name).parent.mkdir(parents=True, exist_ok=True)
    (app / name).write_bytes(content)
    assert digest_of(app) != own
    (app / name).unlink()


def test_a_readme_is_no_code(app, own):
    (app / "README.md").write_text("edited")
    (app / "LICENSE").write_text("edited")
    (app / "NOTES.md").write_text("added")
    assert digest_of(app) == own


def rewritten(app, old, new):
    path, text = app / "pyproject.toml", (ROOT / "pyproject.toml").read_text()
    assert old in text
    path.write_text(text.replace(old, new))


@each(
    ("old", "new"),
    [
        ("fedsteph.client_app:app", "elsewhere.app:app"),
        ("fedsteph.server_app:app", "elsewhere.app:app"),
        ('run-folder = ""', 'run-folder = "/elsewhere"'),
        ('"/client/**/*.py",', ""),
        ("[tool.flwr.app.components]", "[tool.flwr.app.componentz]"),
    ],
)
def test_what_flower_is_told_is_noticed(app, own, old, new):
    """Same files, another entry point: Flower loads what [tool.flwr.app.components] says."""
    rewritten(app, old, new)
    assert digest_of(app) != own


def test_the_rest_of_the_project_file_is_no_code(app, own):
    for old, new in (("[tool.flwr.app]", "# a comment\n[tool.flwr.app]"), ("line-length = 120", "line-length = 80")):
        rewritten(app, old, new)
        assert digest_of(app) == own


@each("content", [None, b"", b"[tool.other]\n", b"[tool.flwr\n", b"\xff\xfe", b'[project]\nname = "fedsteph"\n'])
def test_a_folder_without_a_flower_app_has_no_digest(app, content):
    (app / "pyproject.toml").unlink(missing_ok=True)
    if content is not None:
        (app / "pyproject.toml").write_bytes(content)
    with pytest.raises(DeploymentError, match="holds no Flower app") as caught:
        digest_of(app)
    assert (caught.value.where, caught.value.remedy) == (str(app), "Install it anew")


def test_the_digest_does_not_depend_on_where_it_lies(app, own, tmp_path):
    app.rename(tmp_path / "zzz")
    assert digest_of(tmp_path / "zzz") == own
