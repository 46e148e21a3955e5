"""``fedsteph vectors``: a vector from one site's folder into another's by mail, and what each command says of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from keys_and_rosters import roster_of, write_membership
from sites import TINY, make_site

SETTINGS = [part for setting in TINY for part in ("--set", setting)]
ROSTER = roster_of("kirp", "luad")


@pytest.fixture
def sites(tmp_path) -> Path:
    for seed, name in enumerate(("kirp", "luad")):
        folder = make_site(tmp_path / name, seed=seed, patients=12)
        federation = vars(write_membership(folder, name, ROSTER))
        policy = {"targets": ["kirp"], "min_patients": 1, "min_events": 1, "recipes": "any"}
        file = {"device": "cpu", "federation": federation, "policy": policy}
        (folder / "site.yaml").write_text(yaml.safe_dump(file))
    return tmp_path


def test_a_vector_by_mail_from_export_to_recall(cli, refused, sites):
    source, target = sites / "luad", sites / "kirp"
    file, called = sites / "luad.sealed", sites / "recall.sealed"
    assert cli("vectors", "list", target) == (0, "", "no vector is kept\n")
    assert cli("vectors", "list", target, "--json")[:2] == (0, "[]\n")
    code, out, _ = cli("vectors", "export", source, "--to", "kirp", "--out", file, *SETTINGS)
    assert code == 0 and out.startswith(f"sealed for kirp: {file} ") and file.stat().st_mode & 0o077 == 0
    assert "give that configuration with --config" in refused("vectors", "import", target, file)  # of another M0
    code, out, err = cli("vectors", "import", target, sites / "missing", file, *SETTINGS)
    assert code == 1 and f"{file}: kept, the vector of luad until 20" in out and "missing: there is no such" in err
    assert "is kept already" in refused("vectors", "import", target, file, *SETTINGS)

    [shown] = json.loads(cli("vectors", "list", target, "--json")[1])
    assert (shown["sender"], shown["run"], shown["kept_days"], shown["verdict"]) == ("luad", "(file)", 365, None)
    code, out, _ = cli("vectors", "list", target)
    assert code == 0 and all(word in out for word in ("luad", shown["until"], "test-encoder", "no bound", "none yet"))
    code, out, _ = cli("vectors", "show", target, "luad")
    assert code == 0 and f"m0_sha256                 {shown['m0_sha256']}" in out and "statement.epsilon" in out
    assert "no vector of nobody is kept" in refused("vectors", "show", target, "nobody")

    code, out, _ = cli("vectors", "recall", source, "--to", "kirp", "--out", called)
    assert (code, out) == (0, f"recall for kirp: {called}\n")
    code, out, err = cli("vectors", "import", target, called, *SETTINGS)
    assert code == 0 and "a recall by luad; vectors removed: 1" in out and "its sender has recalled it" in err
    assert "removed the kept vector of luad" in (target / "fedsteph-state" / "site.log").read_text()
    assert "not newer" in refused("vectors", "import", target, file, *SETTINGS)


def test_files_in_any_order_are_imported_as_they_were_sent_and_removed_by_name(cli, refused, sites):
    files = [sites / name for name in ("z.sealed", "a.sealed")]  # made in this order
    for file in files:
        assert cli("vectors", "export", sites / "luad", "--to", "kirp", "--out", file, *SETTINGS)[0] == 0
    assert cli("vectors", "import", sites / "kirp", *reversed(files), *SETTINGS)[0] == 0
    (path,) = (sites / "kirp" / "fedsteph-state" / "vectors").glob("*.vector")
    path.write_bytes(path.read_bytes()[:-1])
    code, out, err = cli("vectors", "list", sites / "kirp", "--json")
    assert (code, out) == (1, "[]\n") and "is damaged" in err
    assert cli("vectors", "remove", sites / "kirp", "luad")[0] == 0 and not path.exists()
    assert "no vector of luad is kept" in refused("vectors", "remove", sites / "kirp", "luad")


def test_who_may_not_send_is_told_why(cli, refused, sites):
    out = sites / "out.sealed"
    for to, told in (
        ("luad", "policy.targets: luad is not among"),
        ("kirp", "is this site itself"),
        ("KIRP", "neither a site's name nor a file"),
        ("blca", "blca is not in the pinned roster"),
    ):
        assert told in refused("vectors", "export", sites / "kirp", "--to", to, "--out", out, *SETTINGS)
    (sites / "luad" / "site.yaml").write_text("device: cpu\n")
    for command in (["export", "--to", "kirp", "--out", out], ["recall", "--to", "kirp", "--out", out], ["list"]):
        assert "has no 'federation' section" in refused("vectors", command[0], sites / "luad", *command[1:])
    assert not out.exists()
