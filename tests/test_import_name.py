"""fedsteph is imported by its own name alone, whatever lies in the working directory and on PYTHONPATH.

Flower's processes, the site's app among them, are started beside such files in tests/deployment, Ray's workers in
tests/simulations/run/test_simulate.py, a study's spawned workers in tests/simulations/study.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import zipfile
from importlib.metadata import version
from pathlib import Path

import pytest
from checkouts import ROOT, copy_checkout
from foreign import NAMES, imported, plant
from sites import make_site

from fedsteph.common.deployment.flower_app import assemble

FOLDERS = ("client", "common", "server", "simulations")
EVERY_MODULE = """
import pkgutil, sys, fedsteph
def failed(name): raise RuntimeError(name)
for module in pkgutil.walk_packages(fedsteph.__path__, "fedsteph.", failed):
    if not module.name.endswith("__main__"):
        __import__(module.name)
print(len([name for name in sys.modules if name.startswith("fedsteph.")]))
"""
FROM_A_BUNDLE = """
import sys
from flwr.supercore.object_ref import load_app
app = load_app("fedsteph.client_app:app", RuntimeError, sys.argv[1])
import fedsteph.client.target.enhance, fedsteph.server.federation
print(type(app).__name__, *(m.__file__ for n, m in sys.modules.items() if n.startswith("fedsteph") and m.__file__))
"""


AT_ONCE = """
import sys, threading
sys.path.insert(0, sys.argv[1])
threading.begun, threading.may_end = threading.Event(), threading.Event()
found = {}
def load(name):
    try:
        found[name] = __import__(name, fromlist=["app"]).app
    except ImportError as error:
        found[name] = error
one = threading.Thread(target=load, args=["fedsteph.server_app"])
one.start()
threading.begun.wait()
other = threading.Thread(target=load, args=["fedsteph.client_app"])
other.start()
other.join(timeout=1)  # it must wait for the first; if it does not, it has failed by now
threading.may_end.set()
one.join(), other.join()
print(*(type(app).__name__ for app in found.values()))
"""


@pytest.fixture
def folder(tmp_path) -> Path:
    return plant(tmp_path / "foreign")


def run(folder: Path, *words: object) -> str:
    """What a program says that is started in the folder, with the folder on PYTHONPATH too."""
    done = subprocess.run(
        [*map(str, words)],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_files_are_found_by_who_asks_for_them(folder) -> None:
    """Else the tests below could not fail."""
    for name in NAMES:
        with pytest.raises(AssertionError, match=f"ImportError: {name}"):
            run(folder, sys.executable, "-c", f"import {name}")
    assert imported(folder) == sorted(NAMES)


def test_the_command_line_imports_none_of_them(folder, tmp_path) -> None:
    make_site(tmp_path / "kirp", patients=4)
    assert "policy:" in run(folder, Path(sys.executable).parent / "fedsteph", "config", "--site")
    assert "no problem found" in run(folder, sys.executable, "-m", "fedsteph", "data", "check", tmp_path / "kirp")
    assert imported(folder) == []


def test_a_script_imports_every_module_and_none_of_them(folder) -> None:
    script = folder / "notebook.py"
    script.write_text(EVERY_MODULE)
    assert int(run(folder, sys.executable, script)) > 250 and imported(folder) == []


def test_flower_loads_all_of_an_app_from_its_own_folder(folder, tmp_path) -> None:
    """Not from the installation, which has modules of the same names."""
    app = assemble(tmp_path / "fedsteph")
    kind, *loaded = run(folder, sys.executable, "-c", FROM_A_BUNDLE, app).split()
    assert kind == "ClientApp" and len(loaded) > 80
    assert not [path for path in loaded if not Path(path).is_relative_to(app)] and imported(folder) == []


def test_two_threads_may_load_the_two_apps_of_a_bundle_at_once(folder, tmp_path) -> None:
    """As Flower's simulation does: the second comes while the first has only begun to import fedsteph."""
    app = assemble(tmp_path / "fedsteph")
    front_door = app / "fedsteph" / "__init__.py"
    pause = "import threading as _t\n_t.begun.set()\n_t.may_end.wait()\n"
    head, future, rest = front_door.read_text().partition("from __future__ import annotations\n")
    front_door.write_text(head + future + pause + rest)
    assert sorted(run(folder, sys.executable, "-c", AT_ONCE, app).split()) == ["ClientApp", "ServerApp"]


def test_an_editable_install_is_the_checkout(folder, tmp_path) -> None:
    """What hatchling makes for it puts the checkout on the path, and fedsteph is imported from there."""
    checkout = copy_checkout(tmp_path / "checkout")
    (checkout / ".wheel").mkdir()
    build = "from hatchling.build import build_editable; build_editable('.wheel')"
    subprocess.run([sys.executable, "-c", build], cwd=checkout, check=True, capture_output=True)
    with zipfile.ZipFile(next((checkout / ".wheel").glob("*.whl"))) as wheel:
        wheel.extractall(tmp_path / "site-packages")
    program = "import site, sys; site.addsitedir(sys.argv[1]); sys.path.insert(0, sys.path.pop()); "
    program += "import fedsteph.client.app, fedsteph.simulations.run.leash as leash; print(leash.__file__)"
    said = run(folder, sys.executable, "-c", program, tmp_path / "site-packages").strip()
    assert Path(said) == checkout / "fedsteph" / "simulations" / "run" / "leash.py" and imported(folder) == []


def built(checkout: Path, target: str) -> set[str]:
    """The files of a wheel or a source distribution, as hatchling makes it of a checkout."""
    words = [sys.executable, "-m", "hatchling", "build", "-t", target, "-d", "out"]
    subprocess.run(words, cwd=checkout, check=True, capture_output=True)
    if target == "wheel":
        with zipfile.ZipFile(next((checkout / "out").glob("*.whl"))) as wheel:
            return set(wheel.namelist())
    with tarfile.open(next((checkout / "out").glob("*.tar.gz"))) as archive:
        archive.extractall(checkout / "unpacked", filter="data")
    (folder,) = (checkout / "unpacked").iterdir()
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_wheels_hold_fedsteph_alone_with_links_and_without_and_from_a_source_distribution(tmp_path) -> None:
    checkouts = {name: copy_checkout(tmp_path / name) for name in ("linked", "plain")}
    for link in (checkouts["plain"] / "fedsteph").iterdir():
        if link.is_symlink():
            link.unlink()  # as in an archive of the sources, or where links cannot be
    wheel = built(checkouts["linked"], "wheel")
    assert {name.partition("/")[0] for name in wheel} <= {"fedsteph", f"fedsteph-{version('fedsteph')}.dist-info"}
    modules = {f"fedsteph/{p.relative_to(ROOT)}" for top in FOLDERS for p in (ROOT / top).rglob("*.py")}
    modules |= {str(p.relative_to(ROOT)) for p in (ROOT / "fedsteph" / "commands").rglob("*.py")}
    assert modules < wheel and len(modules) > 250 and built(checkouts["plain"], "wheel") == wheel
    sources = built(checkouts["linked"], "sdist")
    assert not [name for name in sources if name.startswith(("fedsteph/client/", "fedsteph/common/"))]
    (unpacked,) = (checkouts["linked"] / "unpacked").iterdir()
    assert built(unpacked, "wheel") == wheel
