"""Vectors that a site keeps: how long, for whom to read, what they may be used for, and what damage does."""

from __future__ import annotations

import json
import stat
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
import torch
from client_builders import make_vectors, trained_workspace
from keys_and_rosters import identity_of, roster_of, under, write_membership

from fedsteph.client.sharing.kept_record import KeptVector
from fedsteph.client.sharing.kept_vectors import FOLDER, keep, kept, note_verdicts, remove, usable
from fedsteph.client.sharing.statement import Statement, read_content, vector_content
from fedsteph.client.site.policy import Policy
from fedsteph.client.site.workspace import Workspace
from fedsteph.common.config.recipe import SharingConfig
from fedsteph.common.errors import MembershipError, VectorFileError
from fedsteph.common.model.architecture import Architecture
from fedsteph.common.trust.audit_log import read_lines
from fedsteph.common.trust.roster import Entry, Roster
from fedsteph.common.vector.vector_file import write_vector

ROSTER = roster_of("site", "luad", "blca")
NOW = datetime.now(UTC)
PRIVATE = Statement(0.85, 0.002, "test-encoder", None, None)


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Workspace:
    return trained_workspace(tmp_path_factory.mktemp("kept"), "training.epochs=3", patients=12)


@pytest.fixture
def target(trained, tmp_path) -> Workspace:
    """A site with keys and a pinned roster."""
    found = under(replace(trained, site=replace(trained.site, state=tmp_path / "state", folder=tmp_path)), Policy())
    file = replace(found.site.file, federation=write_membership(tmp_path, "site", ROSTER))
    return replace(found, site=replace(found.site, file=file))


def record_of(target: Workspace, sender: str = "luad", **changes: object) -> KeptVector:
    model = target.recipe.model
    found = KeptVector(
        sender=sender,
        fingerprint=identity_of(sender).public.fingerprint,
        received=NOW.isoformat(timespec="seconds"),
        run="run1",
        sequence=int(NOW.timestamp() * 1000),
        kept_days=365,
        recipe_sha256="a" * 64,
        m0_sha256=str(model.m0_sha256),
        architecture=Architecture.of(model).digest,
        sharing=target.recipe.sharing,
        statement=PRIVATE,
        norm=1.0,
        head=False,
        cancer=None,
    )
    return replace(found, **changes)


def kept_now(target: Workspace, sender: str = "luad", scale: float = 0.1, **changes: object) -> KeptVector:
    record = record_of(target, sender, **changes)
    vector = make_vectors(target.recipe, 1, scale)["s000"]
    keep(target.site, record, write_vector(vector, record.sharing))
    return record


def names(target: Workspace, roster: Roster = ROSTER, now: datetime = NOW) -> list[str]:
    return [one.sender for one in kept(target.site, roster, now)[0]]


def removed(target: Workspace) -> list[tuple[str | None, str | None]]:
    lines = [line.event for line in read_lines(target.site.audit.folder)]
    return [(event.peer, event.reason) for event in lines if event.event == "vector.remove"]


def test_what_is_kept_is_read_as_it_was_and_by_nobody_else(target):
    record = kept_now(target)
    assert kept(target.site, ROSTER, NOW) == ([record], [])
    folder = target.site.state / FOLDER
    (path,) = folder.glob("*.vector")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600 and stat.S_IMODE(folder.stat().st_mode) == 0o700
    (vector,) = usable(target, NOW).values()
    assert torch.equal(vector.flat(), make_vectors(target.recipe, 1)["s000"].flat())


def test_a_newer_one_replaces_the_older_and_one_of_another_kind_stands_beside_it(target):
    for changes in ({}, {"norm": 2.0}, {"m0_sha256": "b" * 64}, {"sharing": SharingConfig(dtype="float16")}):
        kept_now(target, **changes)
    assert sorted(one.norm for one in kept(target.site, ROSTER, NOW)[0]) == [1.0, 1.0, 2.0]
    kept_now(target, kept_days=0)
    left = kept(target.site, ROSTER, NOW)[0]
    assert len(left) == 2 and not [one for one in left if one.file_name == record_of(target).file_name]
    assert removed(target) == [("luad", "its sender does not let the next one be kept")]


def test_what_may_not_be_kept_leaves_no_trace(target):
    kept_now(target, kept_days=0)
    assert not (target.site.state / FOLDER).exists() and names(target) == [] and usable(target, NOW) == {}
    note_verdicts(target.site, target.recipe, {"luad": "in no fold"})
    assert remove(target.site, "luad", "removed by this site") == 0


def test_it_goes_when_its_days_are_over_from_its_sealing_on(target):
    kept_now(target, kept_days=30, sequence=int((NOW - timedelta(days=20)).timestamp() * 1000))
    kept_now(target, "blca", kept_days=-1, sequence=2**62)
    assert names(target, now=NOW + timedelta(days=9)) == ["blca", "luad"]
    assert list(usable(target, NOW + timedelta(days=11))) == ["blca"]
    assert removed(target) == [("luad", "the days that its sender allows are over")]
    assert names(target, now=NOW + timedelta(days=99_000)) == ["blca"]


def test_a_sender_whose_clock_is_ahead_keeps_nothing_alive(target):
    record = record_of(target, sequence=2**62)
    assert record.until is not None and record.until <= NOW + timedelta(days=365)


def test_it_goes_with_the_keys_that_signed_it(target):
    kept_now(target)
    kept_now(target, "blca")
    assert names(target, ROSTER.without("luad", "2026-01-31", "left")) == ["blca"]
    rotated = ROSTER.without("blca", "2026-01-31", "rotated")
    rotated = rotated.with_entry(Entry.of("blca", identity_of("blca's next").public, cancer="x", contact="x"))
    assert names(target, rotated) == []
    assert removed(target) == [(name, "its sender's keys are not in the pinned roster") for name in ("luad", "blca")]


def test_only_what_one_recipe_could_merge_is_usable(target):
    kept_now(target)
    kept_now(target, "blca", statement=replace(PRIVATE, encoder="another"))
    assert list(usable(target, NOW)) == ["luad"]
    less = replace(target.recipe, sharing=SharingConfig(layers="attention"))
    other = replace(target.recipe, model=replace(target.recipe.model, m0_sha256="b" * 64))
    assert usable(replace(target, recipe=less), NOW) == usable(replace(target, recipe=other), NOW) == {}
    kept_now(target, scale=1e3)
    with pytest.raises(VectorFileError, match="above the cap"):
        usable(target, NOW)
    alone = replace(target, site=replace(target.site, file=replace(target.site.file, federation=None)))
    with pytest.raises(MembershipError):
        usable(alone, NOW)


def test_a_kept_head_is_used_only_where_it_could_travel_today(target):
    head = torch.linspace(0, 1, Architecture.of(target.recipe.model).embed)
    for sender, cancer in (("luad", "test"), ("blca", "brca"), ("kirp", None)):
        record = record_of(target, sender, head=True, cancer=cancer)
        vector = replace(make_vectors(target.recipe, 1, 0.1)["s000"], head=head)
        keep(target.site, record, write_vector(vector, record.sharing))
    found = usable(target, NOW)
    assert list(found) == ["luad"] and torch.equal(found["luad"].head, head)
    [shown] = [one for one in kept(target.site, ROSTER, NOW)[0] if one.sender == "blca"]
    assert (shown.head, shown.cancer) == (True, "brca")


def test_a_damaged_file_is_never_used_and_hides_no_other(target):
    kept_now(target)
    kept_now(target, "blca")
    path = next((target.site.state / FOLDER).glob("luad-*"))
    whole = path.read_bytes()
    middle = len(whole) // 2
    for content in (whole[:-1], whole[:middle], b"", whole[:middle] + b"\0" + whole[middle + 1 :]):
        path.write_bytes(content)
        found, damaged = kept(target.site, ROSTER, NOW)
        assert [one.sender for one in found] == ["blca"]
        assert [type(error) for error in damaged] == [VectorFileError] and "vectors remove SITE luad" in str(damaged[0])
        with pytest.raises(VectorFileError):
            usable(target, NOW)
    path.write_bytes(whole)
    path.rename(path.with_name(path.name.replace("luad", "lusc")))
    assert len(kept(target.site, ROSTER, NOW)[1]) == 1
    assert remove(target.site, "lusc", "removed by this site") == 1 and kept(target.site, ROSTER, NOW)[1] == []


def test_the_last_verdict_stands_beside_the_vector_that_it_is_about(target):
    kept_now(target)
    kept_now(target, m0_sha256="b" * 64)
    kept_now(target, "blca")
    note_verdicts(target.site, target.recipe, {"luad": "suspicious in 1 of 2 folds: too long"})
    found = {(one.sender, one.m0_sha256[:1] == "b"): one.verdict for one in kept(target.site, ROSTER, NOW)[0]}
    assert found.pop(("luad", False)) == "suspicious in 1 of 2 folds: too long"
    assert len(found) == 2 and {*found.values()} == {None}
    assert len(usable(target, NOW)) == 2


def test_a_statement_is_read_as_written_and_no_length_tells_what_it_says():
    long = Statement(1e-7, 0.05, "e" * 64, 65_536.0, 0.1234567890123456, "a" * 32)
    for said in (PRIVATE, Statement(None, None, None, None, None), long):
        content = vector_content(said, b"vector")
        assert len(content) == 256 + 6 and read_content(content, "x") == (said, b"vector")


def test_a_statement_of_another_form_is_refused():
    whole = vector_content(PRIVATE, b"vector")
    label = len(b"fedsteph/v1/vector\n")
    plain = json.loads(whole[label + 2 : label + 2 + int.from_bytes(whole[label : label + 2], "big")])

    def saying(text: str) -> bytes:
        return (whole[:label] + len(text).to_bytes(2, "big") + text.encode()).ljust(256, b"\0") + b"vector"

    def changed(**changes: object) -> bytes:
        return saying(json.dumps(plain | changes, sort_keys=True, separators=(",", ":")))

    assert read_content(changed(), "x")[0] == PRIVATE
    bad = [b"", whole[:255], b"x" + whole[1:], whole[:250] + b"1" + whole[251:], saying(""), saying("[" * 230)]
    bad += [saying(json.dumps(plain)), saying('{"epsilon":NaN}'), whole[:label] + b"\xff\xff" + whole[label + 2 :]]
    bad += [changed(patients=37), changed(epsilon=-1.0), changed(epsilon=None), changed(delta=0.0), changed(delta=True)]
    bad += [
        changed(encoder="two words"),
        changed(encoder="x" * 65),
        changed(magnification=0.0),
        changed(patch_size="1"),
    ]
    for content in bad:
        with pytest.raises(VectorFileError):
            read_content(content, "vector of luad")
