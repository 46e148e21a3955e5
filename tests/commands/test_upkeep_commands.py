"""``fedsteph backup``, ``restore`` and ``prune``: what each says, and what it is refused."""

from __future__ import annotations

import getpass
import json
import os
import sys
import time
from pathlib import Path

import pytest
import yaml
from keys_and_rosters import roster_of, write_membership

from fedsteph.common.trust import passphrase_file

WORDS = "correct horse battery staple"


@pytest.fixture(autouse=True)
def cheap(monkeypatch) -> None:
    seal = passphrase_file.seal_by_passphrase
    monkeypatch.setattr("fedsteph.client.upkeep.backup.seal_by_passphrase", lambda c, p: seal(c, p, 2**14))


@pytest.fixture
def site(tmp_path) -> Path:
    folder = tmp_path / "kirp"
    federation = vars(write_membership(folder, "kirp", roster_of("kirp")))
    (folder / "site.yaml").write_text(yaml.safe_dump({"name": "kirp", "federation": federation, "policy": {}}))
    words = tmp_path / "words"
    words.write_text(f"{WORDS}\n")
    words.chmod(0o600)
    return folder


def test_a_backup_there_and_back(cli, refused, site):
    words, file, new = site.parent / "words", site.parent / "a.backup", site.parent / "new"
    secret = ("--passphrase-file", words)
    code, out, _ = cli("backup", site, "--out", file, *secret)
    assert code == 0 and "  keys/kirp.sign.key\n" in out and f"sealed, and read once more: {file}" in out
    code, out, _ = cli("restore", file, "--to", new, "--spent", "0", *secret)
    assert code == 0 and "restored: kirp" in out and "counts as epsilon 0" in out and WORDS not in out
    code, out, _ = cli("privacy", "ledger", new)
    assert code == 0 and "together: epsilon 0.00" in out
    shown = json.loads(cli("privacy", "ledger", new, "--json")[1])
    assert (shown["epsilon"], shown["bounded"], shown["trainings"][0]["epsilon"]) == (0.0, True, 0.0)
    code, out, _ = cli("restore", file, "--to", site.parent / "third", "--json", *secret)
    assert code == 0 and json.loads(out)["repaired"] is True
    assert "nobody knows what left" in cli("privacy", "ledger", site.parent / "third")[1]
    assert "has gone on since the backup" in refused("restore", file, "--to", new, *secret)
    assert "stands without --spent" in refused("restore", file, "--to", new, "--spent-delta", "0.1", *secret)
    words.write_text("another passphrase\n")
    assert "nobody can tell which" in refused("restore", file, "--to", new, *secret)
    words.chmod(0o644)
    assert "can be reached by other users" in refused("restore", file, "--to", new, *secret)


def test_the_passphrase_is_asked_twice_and_only_at_a_terminal(cli, refused, site, monkeypatch):
    file, typed = site.parent / "a.backup", [WORDS, WORDS + "x", WORDS, WORDS, WORDS]
    monkeypatch.setattr(sys.stdin, "isatty", lambda: False, raising=False)
    assert "no terminal" in refused("backup", site, "--out", file)
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(getpass, "getpass", lambda prompt: typed.pop(0))
    assert "not the same" in refused("backup", site, "--out", file)
    assert cli("backup", site, "--out", file)[0] == 0
    assert cli("restore", file, "--to", site.parent / "new")[0] == 0 and typed == []


def test_prune_says_what_goes_and_what_stays(cli, refused, site, tmp_path):
    state, server = site / "fedsteph-state", tmp_path / "server"
    work = state / f"{'a' * 12}-{'b' * 12}"
    for path in (work, server / "runs"):
        path.mkdir(parents=True)
    then = time.time() - 100 * 86400
    os.utime(work, (then, then))
    code, out, _ = cli("prune", site, "--older-than", "90d", "--dry-run")
    assert code == 0 and f"{work}: work of a recipe, 0 bytes" in out and "would free 0 bytes" in out and work.exists()
    shown = json.loads(cli("prune", site / "site.yaml", "--older-than", "90d", "--json")[1])
    assert shown["freed_bytes"] == 0 and shown["gone"][0]["path"] == str(work) and not work.exists()
    (server / "server.yaml").write_text("superlink: 127.0.0.1:1\naddress: 127.0.0.1:2\n")
    (server / "superlink.db").write_text("no database" * 100)
    code, out, _ = cli("prune", server, "--older-than", "12w")
    assert code == 0 and "stays, not compacted" in out and out.endswith("freed 0 bytes\n")
    assert "is neither" in refused("prune", tmp_path, "--older-than", "90d")
    assert "is no age" in refused("prune", server, "--older-than", "soon")
