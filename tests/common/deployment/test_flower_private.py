"""Flower's undocumented parts that we use: all of them are listed, and both ends of the range have them."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import version
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

from fedsteph.common.deployment.flower_private import PRIVATE, PUBLIC

ROOT = Path(__file__).resolve().parents[3]


def imported() -> set[tuple[str, str]]:
    """What the product imports from inside Flower."""
    found = set()
    for folder in ("client", "common", "server", "simulations"):
        for path in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.ImportFrom) and str(node.module).startswith("flwr"):
                    found |= {(str(node.module), alias.name) for alias in node.names}
    modules = {module for module, _ in PRIVATE}
    return {one for one in found if one[0] not in PUBLIC and ".".join(one) not in modules}


def test_everything_private_that_is_imported_is_on_the_list() -> None:
    assert imported() <= PRIVATE.keys() and len(imported()) > 5
    for place in PRIVATE.values():
        path = ROOT / place.partition(":")[0]
        assert "flwr" in path.read_text(), place


def test_the_installed_version_has_all_of_it() -> None:
    for module, name in PRIVATE:
        assert hasattr(importlib.import_module(module), name or "__name__"), (module, name)


def test_the_oldest_version_of_the_range_has_all_of_it(tmp_path) -> None:
    """Read from its wheel, which is not installed."""
    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    (flower,) = (one for one in map(Requirement, wanted) if one.name == "flwr")
    (oldest,) = (one.version for one in flower.specifier if one.operator == ">=")
    assert Version(version("flwr")) in flower.specifier and Version(oldest) <= Version(version("flwr"))
    words = ["download", "--no-deps", "--quiet", "--dest", str(tmp_path), f"flwr=={oldest}.0"]
    done = subprocess.run([sys.executable, "-m", "pip", *words], capture_output=True, check=False)
    if done.returncode:
        pytest.skip("no package index gives Flower's oldest version")
    with zipfile.ZipFile(next(tmp_path.glob("flwr-*.whl"))) as wheel:
        files = {name: wheel for name in wheel.namelist()}
        for module, name in PRIVATE:
            base = module.replace(".", "/")
            path = next(one for one in (f"{base}.py", f"{base}/__init__.py") if one in files)
            assert not name or name in names_in(wheel.read(path).decode()), (module, name)


def names_in(source: str) -> set[str]:
    """What a module defines, imports or, as generated code does, names as text."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.ImportFrom):
            found |= {alias.asname or alias.name for alias in node.names}
        elif isinstance(node, ast.Constant) and isinstance(node.value, bytes) and b"Message" in node.value:
            found.add("Message")
    return found
