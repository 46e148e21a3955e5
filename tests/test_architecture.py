"""The house keeps its order: one import name, rooms of a readable size, imports that run one way, light commands."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("client", "common", "server", "simulations")
FORBIDDEN = {
    "common": {"fedsteph.client", "fedsteph.server", "fedsteph.simulations", "fedsteph.commands"},
    "client": {"fedsteph.server", "fedsteph.simulations", "fedsteph.commands"},
    "server": {"fedsteph.client", "fedsteph.simulations", "fedsteph.commands", "torch", "pandas", "h5py"},
    "simulations": {"fedsteph.commands"},
}
MOST_FILES = 15  # in a folder
MOST_LOOSE = 3  # beside the folders of client, common and simulations
# From the ground up: a room imports from those before it alone.
FLOORS = {
    "common": ["errors", "encoders", "host", "config", "model", "vector", "trust", "wire", "deployment", "report"],
    "client": [
        "data",
        "clinical",
        "training",
        "privacy",
        "steph",
        "panel",
        "slides",
        "models",
        "site",
        "evaluation",
        "sharing",
        "screening",
        "attack",
        "methods",
        "target",
        "report",
        "upkeep",
        "deployment",
        "app",
    ],
    "server": [
        "manifest",
        "aggregation",
        "exchange",
        "mail_room",
        "outcome",
        "run_status",
        "run_log",
        "session",
        "hello",
        "baselines",
        "relay",
        "federation",
        "app",
        "coordinator_page",
        "deployment",
    ],
    "simulations": ["markdown", "memory", "worlds", "run", "study", "bench", "relay", "attacks", "pictures"],
}
COMMAND_LINE = {"typer", "click"}
PAIRS = {"__init__", "app"}  # of the files of one name: a package's first file, and Flower's two apps


def modules(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


@cache
def imports(path: Path) -> list[str]:
    """Full names of the modules that a file imports, wherever in it."""
    return [*_imports(path)]


def _imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            yield str(node.module)
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def begins(name: str, prefixes: set[str]) -> bool:
    return any(name == prefix or name.startswith(f"{prefix}.") for prefix in prefixes)


def test_everything_is_imported_by_one_name() -> None:
    """In programs that tests hand to another interpreter, too."""
    own = {*PACKAGES, "configs", "tests"}
    for folder in (*PACKAGES, "fedsteph/commands", "tests"):
        for path in modules(folder):
            assert not [name for name in imports(path) if begins(name, own)], path
            assert not re.findall(rf"[\"'\n;] *(?:import|from) (?:{'|'.join(PACKAGES)})\b", path.read_text()), path


def test_imports_run_one_way() -> None:
    for package, forbidden in FORBIDDEN.items():
        for path in modules(package):
            assert not [name for name in imports(path) if begins(name, forbidden)], path
    assert "torch" in set(imports(ROOT / "common" / "model" / "abmil.py")), "the check sees imports"


def test_rooms_import_from_the_floors_below() -> None:
    for package, floors in FLOORS.items():
        base = ROOT / package
        rooms = {path.stem for path in base.glob("*.py")} | {path.parent.name for path in base.glob("*/*.py")}
        assert rooms - {"__init__"} == set(floors), package
        for path in modules(package):
            room = path.relative_to(base).parts[0].removesuffix(".py")
            if room == "__init__":
                continue
            for name in imports(path):
                parts = name.split(".")
                if parts[:2] == ["fedsteph", package] and len(parts) > 2:
                    assert floors.index(parts[2]) <= floors.index(room), f"{path} imports {name}"


def test_rooms_are_of_a_readable_size() -> None:
    for package in (*PACKAGES, "fedsteph/commands"):
        for folder in {path.parent for path in modules(package)}:
            files = [path.name for path in folder.glob("*.py") if path.name != "__init__.py"]
            assert len(files) <= MOST_FILES, folder
    for package in ("client", "common", "simulations"):
        assert len([p for p in (ROOT / package).glob("*.py") if p.name != "__init__.py"]) <= MOST_LOOSE, package


def test_one_name_is_one_thing() -> None:
    """Commands have the names of what they are about; all other files have names of their own."""
    names = Counter(path.stem for package in PACKAGES for path in modules(package))
    assert {name for name, count in names.items() if count > 1} == PAIRS


def test_command_line_code_is_in_one_place() -> None:
    assert not [path for package in PACKAGES for path in modules(package) if COMMAND_LINE & set(imports(path))]


def loaded(statement: str, *names: str) -> set[str]:
    """Which of these modules a fresh interpreter has after a statement."""
    code = f"import sys\n{statement}\nprint(*sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True)
    return {name for name in names if name in found.stdout.split()}


HEAVY = ("torch", "flwr", "numpy", "pandas", "scipy", "h5py", "matplotlib", "cryptography", "ray")


def test_the_front_door_and_every_help_are_light() -> None:
    assert loaded("import fedsteph", *HEAVY, "typer", "rich") == set()
    # What a command's --help shows is made from what these imports load, and from nothing else.
    assert loaded("import fedsteph.__main__", *HEAVY) == set()


def test_the_server_loads_no_model_code_and_a_client_no_server_code() -> None:
    heavy = ("torch", "pandas", "h5py", "fedsteph.client", "fedsteph.simulations")
    assert loaded("import fedsteph.server.app", *heavy, "fedsteph.server.federation") == {"fedsteph.server.federation"}
    deployment = "import fedsteph.server.deployment."
    every = "; ".join(deployment + name for name in ("deployed_run", "server_doctor", "provision"))
    assert loaded(every, *heavy) == set()
    every = "import fedsteph.client.app, fedsteph.client.target.enhance"
    assert loaded(every, "fedsteph.server", "fedsteph.simulations", "torch") == {"torch"}


def test_the_process_of_a_hello_loads_what_a_hello_needs() -> None:
    """As the guard starts it: neither model code nor the SuperNode, whose database and web server take long to load."""
    every = "from fedsteph.client.deployment import guard; import fedsteph.client.app; sys.argv[1:] = ['--help']"
    program = "\ntry: guard.flwr_clientapp()\nexcept SystemExit: pass"
    heavy = ("torch", "pandas", "h5py", "scipy", "matplotlib", "sqlalchemy", "alembic", "uvicorn")
    assert loaded(every + program, *heavy, "fedsteph.client.app") == {"fedsteph.client.app"}
