"""The container files: their script is run, and what they promise about rights, ports and secrets is read off them."""

from __future__ import annotations

import re
import subprocess
import zipfile
from pathlib import Path

import pytest
import yaml

FILES = Path(__file__).resolve().parents[3] / "configs" / "deploy" / "container"
INSTALL = FILES / "install.sh"


def small_wheel(folder: Path, version: str) -> None:
    """A wheel by our name without dependencies, whose command says its version."""
    folder.mkdir(exist_ok=True)
    info = f"fedsteph-{version}.dist-info"
    with zipfile.ZipFile(folder / f"fedsteph-{version}-py3-none-any.whl", "w") as wheel:
        wheel.writestr("fedsteph.py", f"def main():\n    print('fedsteph {version}')\n")
        wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: fedsteph\nVersion: {version}\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/entry_points.txt", "[console_scripts]\nfedsteph = fedsteph:main\n")
        wheel.writestr(f"{info}/RECORD", "")


def install(prefix: Path, wheels: Path) -> subprocess.CompletedProcess[str]:
    words = ["sh", INSTALL, prefix, wheels, "", "--no-index"]
    return subprocess.run(words, capture_output=True, text=True, check=False)


def test_the_image_s_script_installs_one_wheel_that_nobody_else_can_change(tmp_path):
    small_wheel(tmp_path / "dist", "9.9")
    done = install(tmp_path / "opt", tmp_path / "dist")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "fedsteph 9.9"
    rights = [path.lstat().st_mode for path in (tmp_path / "opt").rglob("*") if not path.is_symlink()]
    assert len(rights) > 100 and not [mode for mode in rights if mode & 0o022]
    small_wheel(tmp_path / "dist", "9.8")
    refused = install(tmp_path / "other", tmp_path / "dist")
    assert refused.returncode == 1 and "must hold exactly one fedsteph-*.whl" in refused.stderr
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize("name", ["coordinator", "site"])
def test_services_have_no_rights_and_sites_no_ports(name):
    services = yaml.safe_load((FILES / f"{name}.compose.yaml").read_text())["services"]
    for service in services.values():
        assert service["read_only"] is True
        if service["image"] == "fedsteph":
            assert service["user"] == "10001:10001" and service["cap_drop"] == ["ALL"]
            assert service["security_opt"] == ["no-new-privileges:true"]
    open_ports = {who: one["ports"] for who, one in services.items() if "ports" in one}
    assert open_ports == ({"superlink": ["9092:9092"]} if name == "coordinator" else {})
    started = {Path(one["entrypoint"][0]).name for one in services.values() if "entrypoint" in one}
    expected = {"coordinator": {"start-superlink.sh", "start-superexec.sh"}}
    assert started == expected.get(name, {"start-supernode.sh", "start-superexec.sh"})
    scripts = FILES.parent / ("server" if name == "coordinator" else "site")
    assert started <= {path.name for path in scripts.iterdir()}, "the scripts that 'provision' writes"


def test_the_site_s_data_and_code_are_read_only():
    services = yaml.safe_load((FILES / "site.compose.yaml").read_text())["services"]
    mounts = {mount for service in services.values() for mount in service["volumes"]}
    written = {mount.split(":")[1] for mount in mounts if not mount.endswith(":ro")}
    assert written == {"/kirp/made/state", "/kirp/made/audit"}


def test_the_image_holds_no_secret_and_does_not_run_as_root():
    text = (FILES / "Containerfile").read_text()
    copied = re.findall(r"^COPY (.*)$", text, flags=re.MULTILINE)
    assert copied == [
        "configs/deploy/container/install.sh /build/",
        "dist/*.whl /build/",
        "--from=build /opt/fedsteph /opt/fedsteph",
    ]
    assert re.findall(r"^USER (.*)$", text, flags=re.MULTILINE) == ["10001:10001"]
    assert not re.search("key|secret|password|token", " ".join(re.findall(r"^(?:ENV|ARG) .*$", text, re.MULTILINE)))


def test_the_shell_scripts_can_be_read_by_a_shell():
    for script, shell in ((INSTALL, "sh"), (FILES / "site.sbatch", "bash")):
        subprocess.run([shell, "-n", script], check=True)
