"""Who may import whom: the server needs no torch, and the client knows of neither server nor engine."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FORBIDDEN = {
    "server": {"client", "simulations", "torch", "pandas", "h5py"},
    "client": {"server", "simulations"},
    "common": {"server", "client", "simulations"},
}


def imported(path: Path) -> set[str]:
    """Top-level names of all modules that a file imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            found.add(str(node.module))
    return {name.partition(".")[0] for name in found}


def files(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


@pytest.mark.parametrize(
    "path", [path for package in FORBIDDEN for path in files(package)], ids=lambda path: str(path.relative_to(ROOT))
)
def test_no_file_imports_what_its_package_may_not(path: Path) -> None:
    package = path.relative_to(ROOT).parts[0]
    assert not imported(path) & FORBIDDEN[package]


def test_the_check_sees_imports() -> None:
    assert {"flwr", "common", "server"} <= set().union(*map(imported, files("server")))
    assert {"client", "server"} <= set().union(*map(imported, files("simulations")))
    assert "torch" in imported(ROOT / "common" / "abmil.py")


def modules_after(statement: str) -> set[str]:
    """The modules of a fresh interpreter after an import."""
    code = f"import sys\n{statement}\nprint(*sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True)
    return set(found.stdout.split())


@pytest.mark.parametrize(
    ("statement", "there", "not_there"),
    [
        (
            "import fedsteph.server.app",
            "fedsteph.server.federation",
            {"torch", "pandas", "h5py", "client", "simulations"},
        ),
        (
            "import fedsteph.server.deployment.deployed_run, fedsteph.server.deployment.server_doctor, fedsteph.server.deployment.provision",
            "fedsteph.server.deployment.certificates",
            {"torch", "pandas", "h5py", "client", "simulations"},
        ),
        ("import fedsteph.client.app", "fedsteph.client.target.enhance", {"server", "simulations"}),
    ],
)
def test_not_even_through_another_module(statement: str, there: str, not_there: set[str]) -> None:
    modules = modules_after(statement)
    assert there in modules
    assert not modules & not_there
