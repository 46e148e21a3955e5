"""A site in a sealed file and back: what is in it, which attacks on it fail, and that nothing is turned back."""

from __future__ import annotations

import io
import json
import math
import shutil
import stat
import tarfile
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from damage import flipped
from keys_and_rosters import identity_of, roster_of, write_membership

from fedsteph.client.privacy.accounting import Mechanism
from fedsteph.client.privacy.ledger import Entry, Ledger, total
from fedsteph.client.sharing.replay import JUMP, Numbers, accept_once, enter_run, next_sequence
from fedsteph.client.site.site import Site
from fedsteph.client.upkeep.backup import backup
from fedsteph.client.upkeep.restore import Spent, restore
from fedsteph.client.upkeep.site_archive import is_inside, pack, unpack
from fedsteph.common.errors import (
    BackupError,
    BudgetPolicyError,
    LedgerError,
    ReplayedEnvelopeError,
    RunFolderError,
    TurnedBackError,
    WrongRunError,
)
from fedsteph.common.trust import passphrase_file
from fedsteph.common.trust.audit_log import Event, read_lines, verify

pytestmark = pytest.mark.usefixtures("epsilon_once")
WORDS = "correct horse battery staple"
ROSTER = roster_of("kirp", "luad")
LUAD = identity_of("luad").public.fingerprint
VECTOR = "fedsteph-state/vectors/luad-0123456789abcdef.vector"


@pytest.fixture(autouse=True)
def cheap(monkeypatch) -> None:
    """The least cost that is read: 16 MiB and some milliseconds."""
    seal = passphrase_file.seal_by_passphrase
    monkeypatch.setattr("fedsteph.client.upkeep.backup.seal_by_passphrase", lambda c, p: seal(c, p, 2**14))


@pytest.fixture
def folder(tmp_path) -> Path:
    """A site that has shared once: its keys, ledger, audit log, numbers, a kept vector, a model and a feature file."""
    path = tmp_path / "kirp"
    federation = vars(write_membership(path, "kirp", ROSTER))
    (path / "site.yaml").write_text(yaml.safe_dump({"name": "kirp", "federation": federation, "policy": {}}))
    (path / "keys" / "kirp.public.yaml").write_text("public: halves\n")
    for name in (VECTOR, "features/P1.h5", "fedsteph-state/deployed/model.safetensors", "labels.csv"):
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(name.encode())
    share(path, "a")
    return path


def share(folder: Path, training: str, sequence: int = 5) -> None:
    """What sharing a vector and receiving one leaves behind."""
    site = Site.open(folder)
    enter_run(site.state, f"run-{training}")
    Ledger(site.audit).spend(Entry.now(f"run-{training}", training, Mechanism(8.0, 1.0, 20), 1e-3), None)
    next_sequence(site.state)
    accept_once(site.state, LUAD, sequence, b"envelope")
    site.audit.append(Event("vector.seal", "allowed", f"run-{training}", "luad"))


def content(folder: Path) -> dict[str, bytes]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != ".lock")
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def made(folder: Path) -> Path:
    out = folder.parent / f"{len(list(folder.parent.glob('*.backup')))}.backup"
    backup(folder, out, WORDS)
    return out


def events(folder: Path) -> list[str]:
    verify(folder / "fedsteph-audit")
    return [line.event.event for line in read_lines(folder / "fedsteph-audit")]


def test_what_cannot_be_made_again_is_in_it_and_nothing_of_patients(folder):
    out = folder.parent / "kirp.backup"
    names = backup(folder / "site.yaml", out, WORDS)
    state, audit = "fedsteph-state", "fedsteph-audit"
    assert names == sorted(
        [
            "site.yaml",
            "roster.yaml",
            *(f"keys/kirp.{end}" for end in ("sign.key", "seal.key", "public.yaml")),
            *(f"{audit}/{name}" for name in ("audit.jsonl", "audit.head", "privacy-ledger.json")),
            *(f"{state}/{name}" for name in ("sent.json", "received.json", "runs.json")),
            VECTOR,
        ]
    )
    assert stat.S_IMODE(out.stat().st_mode) == 0o600 and b"kirp" not in out.read_bytes()
    with pytest.raises(BackupError, match="exists already"):
        backup(folder, out, WORDS)
    with pytest.raises(BackupError, match="of 5 characters is too short"):
        backup(folder, folder.parent / "other", "short")


def test_a_lost_machine_goes_on_as_if_the_worst_had_happened(folder, monkeypatch):
    file, before = made(folder), Numbers.read(folder / "fedsteph-state")
    new = folder.parent / "new" / "kirp"
    done = restore(file, new, WORDS)
    assert done.repaired and not list(new.parent.glob(".*"))
    for path in new.rglob("*"):
        assert path.is_dir() or stat.S_IMODE(path.stat().st_mode) == 0o600, path
    there, was = content(new), content(folder)
    changed = {name for name in there if there[name] != was[name]}
    assert {Path(name).name for name in changed} == {
        *("audit.jsonl", "audit.head", "privacy-ledger.json", "sent.json", "received.json")
    }
    site = Site.open(new)
    assert site.membership().site == "kirp"
    assert events(new)[-3:] == ["site.backup", "privacy.spend", "site.restore"]
    # No number is used twice, and nothing that was sealed before is accepted, also not in a run that is unknown here.
    assert next_sequence(site.state) > before.sent + JUMP - 1000
    with pytest.raises(ReplayedEnvelopeError):
        accept_once(site.state, LUAD, before.sent, b"received after the backup")
    accept_once(site.state, LUAD, before.sent + 3_600_000, b"sealed later")
    # The ledger has no bound, so a budget lets nothing out.
    entries = Ledger(site.audit).entries()
    assert entries[-1].training == f"unknown spending since {done.about.made}"
    assert math.isinf(total(entries).epsilon)
    with pytest.raises(BudgetPolicyError, match="no bound"):
        Ledger(site.audit).spend(Entry.now("run-b", "b", Mechanism(8.0, 1.0, 20), 1e-3), 1e6)


def test_a_site_that_answers_for_what_left_has_a_bound_again(folder):
    file, alone = made(folder), total(Ledger(Site.open(folder).audit).entries())
    for number, (spent, epsilon, delta) in enumerate([(Spent(0), 0.0, 0.0), (Spent(2, 1e-4), 2.0, 1e-4)]):
        new = folder.parent / f"new{number}"
        restore(file, new, WORDS, spent)
        found = total(Ledger(Site.open(new).audit).entries())
        assert found.epsilon == pytest.approx(alone.epsilon + epsilon) and found.trainings == 2
        assert found.delta == pytest.approx(1e-3 + delta)
        share(new, "b", 10**15)  # goes on, and the ledger still fits the audit log
        assert len(Ledger(Site.open(new).audit).entries()) == 3
    for wrong in ((-1, None), (math.nan, None), (math.inf, 1e-3), (2, None), (0, 1e-3), (2, 1.5)):
        with pytest.raises(BackupError):
            Spent(*wrong)


def test_damage_another_passphrase_and_another_version_are_refused_and_nothing_is_written(folder):
    file = made(folder)
    sealed = file.read_bytes()
    ends = [sealed.index(b"\n") + 1]
    ends.append(sealed.index(b"\n", ends[0]) + 1)
    bad = folder.parent / "bad"

    def fails(match: str = "damaged|no backup|version", words: str = WORDS) -> None:
        before = sorted(folder.parent.iterdir())
        with pytest.raises(BackupError, match=match):
            restore(bad, folder.parent / "new", words)
        assert sorted(folder.parent.iterdir()) == before

    with pytest.raises(BackupError, match="cannot be read"):
        restore(bad, folder.parent / "new", WORDS)
    bad.write_bytes(sealed)
    fails("another one, or the file is damaged", "correct horse battery stapler")
    for size in (0, 3, ends[0], ends[0] + 9, ends[1], ends[1] + 15, len(sealed) // 2, len(sealed) - 1):
        bad.write_bytes(sealed[:size])
        fails()
    for byte in (0, ends[0] - 2, ends[0] + 3, ends[0] + 40, ends[1] - 5, ends[1], len(sealed) // 2, len(sealed) - 1):
        bad.write_bytes(flipped(sealed, 8 * byte))
        fails()
    bad.write_bytes(sealed.replace(b"backup/v1", b"backup/v2", 1))
    fails("another version of fedsteph")
    for line in (b'{"cost": 1099511627776, "salt": "00", "nonce": "00"}', b"[" * 400, b"{}"):
        bad.write_bytes(sealed[: ends[0]] + line + b"\n" + sealed[ends[1] :])
        fails("second line cannot be read")


def test_what_leads_out_of_the_folder_is_refused(folder, monkeypatch):
    file = made(folder)
    about, files = unpack(passphrase_file.open_by_passphrase(file.read_bytes(), WORDS, file), file)
    evil = folder.parent / "evil"

    def fails(archive: bytes, match: str) -> None:
        evil.write_bytes(passphrase_file.seal_by_passphrase(archive, WORDS, 2**14))
        with pytest.raises(BackupError, match=match):
            restore(evil, folder.parent / "new", WORDS)
        assert not (folder.parent / "new").exists() and not (folder.parent / "out").exists()

    for name in ("../out", "/tmp/out", "a/../../out", "..", "a//b", "./a", "C:out", "a\\..\\out", "a\0b"):
        assert not is_inside(name)
    for name in ("../out", str(folder.parent / "out"), "keys/../../out"):
        fails(pack(about, {**files, name: b"x"}), "leads out of its folder")
    fails(pack(about, {**files, "keys": b"x"}), "a file below another file")
    for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE):
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w:") as archive:
            member = tarfile.TarInfo("link")
            member.type, member.linkname = kind, "/etc"
            archive.addfile(member)
        fails(buffer.getvalue(), "a link or no plain file")
    fails(b"no archive at all, of no length in particular", "no backup of a site")
    for change in ({"state": "../out"}, {"audit": "/tmp"}, {"site_file": ".."}, {"format": "fedsteph/site-backup/v2"}):
        about_it = SimpleNamespace(**asdict(about) | change)
        with monkeypatch.context() as unchecked:  # as somebody else's program would write it
            unchecked.setattr("fedsteph.client.upkeep.site_archive.asdict", vars)
            archive = pack(about_it, files)
        fails(archive, "no backup of a site, or of another version")
    (folder.parent / "link").symlink_to(folder.parent)
    with pytest.raises(BackupError, match="is a link"):
        restore(file, folder.parent / "link", WORDS)


def test_an_older_backup_over_a_newer_state_is_refused(folder):
    file = made(folder)
    site = Site.open(folder)
    steps = [
        (lambda: site.audit.append(Event("hello", "allowed", "run-a")), "audit log"),
        (lambda: next_sequence(site.state), "numbers and runs"),
        (lambda: accept_once(site.state, LUAD, 6, b"a later one"), "numbers and runs"),
        (lambda: enter_run(site.state, "run-b"), "numbers and runs"),
        (lambda: share(folder, "b", 7), "audit log"),
    ]
    for number, (step, what) in enumerate(steps):
        copy = folder.parent / f"copy{number}"
        shutil.copytree(folder, copy)
        step()
        before = content(folder)
        with pytest.raises(TurnedBackError, match=what):
            restore(file, folder, WORDS)
        assert content(folder) == before
        shutil.rmtree(folder)
        copy.rename(folder)


def test_what_is_missing_is_put_back_and_nothing_else(folder):
    file = made(folder)
    (folder / "keys" / "kirp.sign.key").unlink()
    (folder / VECTOR).unlink()  # perhaps on purpose
    (folder / "roster.yaml").write_text("newer: one\n")
    before = content(folder)
    done = restore(file, folder, WORDS)
    assert done.files == ("keys/kirp.sign.key",) and not done.repaired
    after = content(folder)
    changed = {name for name in after if after[name] != before.get(name)}
    assert changed == {"keys/kirp.sign.key", "fedsteph-audit/audit.jsonl", "fedsteph-audit/audit.head"}
    assert stat.S_IMODE((folder / "keys" / "kirp.sign.key").stat().st_mode) == 0o600


def test_a_folder_that_lags_behind_moves_forward_with_the_repair(folder):
    older = folder.parent / "older"
    shutil.copytree(folder, older)  # what a snapshot of the disk brings back
    share(folder, "b", 9)
    file = made(folder)
    assert restore(file, older, WORDS, Spent(0)).repaired
    assert [one.training for one in Ledger(Site.open(older).audit).entries()][:2] == ["a", "b"]
    assert events(older)[-1] == "site.restore"
    with pytest.raises(WrongRunError):
        enter_run(older / "fedsteph-state", "run-a")
    with pytest.raises(TurnedBackError):
        restore(file, older, WORDS)
    (folder / "fedsteph-audit" / "privacy-ledger.json").unlink()
    with pytest.raises(LedgerError, match="is missing"):
        Ledger(Site.open(folder).audit).entries()
    assert restore(file, folder, WORDS).repaired  # a lost ledger is a ledger that lags behind
    assert math.isinf(total(Ledger(Site.open(folder).audit).entries()).epsilon)


def test_a_folder_with_other_content_or_of_another_site_is_left_alone(folder):
    file = made(folder)
    other = folder.parent / "other"
    (other / "features").mkdir(parents=True)
    with pytest.raises(BackupError, match="has content, and neither"):
        restore(file, other, WORDS)
    assert content(other) == {}
    text = (folder / "site.yaml").read_text()
    for change in (("name: kirp", "name: luad"), ("name: kirp", "name: kirp\nstate: elsewhere")):
        (folder / "site.yaml").write_text(text.replace(*change))
        with pytest.raises(BackupError, match="is of another site"):
            restore(file, folder, WORDS)
    (folder / "site.yaml").write_text(text)
    (folder / "fedsteph-state" / "sent.json").write_text("{")
    with pytest.raises(RunFolderError, match="is damaged"):
        restore(file, folder, WORDS)


def test_what_a_backup_cannot_hold_is_named(folder):
    file = yaml.safe_load((folder / "site.yaml").read_text())
    out = folder.parent / "x.backup"
    for change, told in (
        ({"state": "/var/lib/kirp"}, "state: '/var/lib/kirp' is not inside"),
        ({"federation": {**file["federation"], "roster": "../roster.yaml"}}, "federation.roster"),
        ({"federation": {**file["federation"], "seal_key": "keys/none.key"}}, "cannot be read"),
        ({"name": None}, "has no 'name'"),
        ({"federation": None}, "has no 'federation' section"),
    ):
        (folder / "site.yaml").write_text(yaml.safe_dump(file | change))
        with pytest.raises(BackupError, match=told):
            backup(folder, out, WORDS)
        assert not out.exists()
    (folder / "site.yaml").write_text(yaml.safe_dump(file))
    ledger = folder / "fedsteph-audit" / "privacy-ledger.json"
    ledger.write_text(json.dumps({"format": "fedsteph/ledger/v1", "entries": []}))
    with pytest.raises(LedgerError):
        backup(folder, out, WORDS)
