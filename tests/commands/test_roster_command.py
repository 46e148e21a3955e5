"""``fedsteph roster`` as the one who keeps it types it: from the first site to a lost laptop."""

from __future__ import annotations

import json

import pytest
import yaml
from keys_and_rosters import identity_of

from fedsteph.common.errors import RosterError
from fedsteph.common.trust.announcement import Announcement, write_announcement
from fedsteph.common.trust.key_file import write_identity
from fedsteph.common.trust.roster import read_roster
from fedsteph.common.trust.signed_roster import read_signed

ADDED = ("--cancer", "kirp", "--contact", "pathology IT")


@pytest.fixture
def public(tmp_path):
    """Writes a site's public file; gives its path."""

    def write(site, keys=None, before=None):
        path = tmp_path / f"{keys or site}.public.yaml"
        write_announcement(path, Announcement.of(site, identity_of(keys or site), before and identity_of(before)))
        return path

    return write


@pytest.fixture
def roster(cli, public, tmp_path):
    """A roster of kirp and kirc."""
    file = tmp_path / "roster.yaml"
    assert cli("roster", "add", file, public("kirp"), *ADDED, "--federation", "kidney")[0] == 0
    assert cli("roster", "add", file, public("kirc"), "--cancer", "kirc", "--contact", "data office")[0] == 0
    return file


def fingerprint(name):
    return identity_of(name).public.fingerprint


def test_from_new_keys_to_a_pinned_roster(cli, refused, tmp_path):
    """keys new, roster add, digest, verify --pin; rotate, add again, and the old pin holds no more."""
    file, keys, next_keys = tmp_path / "roster.yaml", tmp_path / "keys", tmp_path / "keys-2027"
    cli("keys", "new", "kirp", "--out", keys)
    code, out, err = cli("roster", "add", file, keys / "kirp.public.yaml", *ADDED, "--federation", "kidney")
    shown = json.loads(cli("keys", "show", keys, "--json")[1])
    assert code == 0 and err.strip() == f"compare with kirp by telephone: {shown['fingerprint']}"
    pin = out.strip()
    assert cli("roster", "digest", file) == (0, f"{pin}\n", "")
    code, out, _ = cli("roster", "verify", file, "--pin", pin)
    assert (code, out) == (0, f"{file}: holds together; 1 sites, 0 revoked keys; digest {pin}\n")

    cli("keys", "rotate", keys, "--out", next_keys)
    code, out, _ = cli("roster", "add", file, next_keys / "kirp.public.yaml")
    assert (code, out.strip() != pin) == (0, True)
    listed = json.loads(cli("roster", "list", file, "--json")[1])
    assert [site["fingerprint"] for site in listed["sites"]] != [shown["fingerprint"]]
    assert [(gone["site"], gone["fingerprint"]) for gone in listed["revoked"]] == [("kirp", shown["fingerprint"])]
    assert f"not the pinned {pin}" in refused("roster", "verify", file, "--pin", pin)
    assert "Ask the other sites by telephone" in refused("roster", "verify", file, "--pin", pin)
    assert "stands in the roster already" in refused("roster", "add", file, keys / "kirp.public.yaml", *ADDED)


def test_a_lost_laptop(cli, refused, roster, public):
    before = cli("roster", "digest", roster)[1]
    code, out, _ = cli("roster", "revoke", roster, "kirp", "--reason", "laptop lost")
    assert (code, out != before) == (0, True)
    listed = cli("roster", "list", roster)[1]
    assert f"kirp, {fingerprint('kirp')} (laptop lost)" in listed
    assert "there is no site kirp" in refused("roster", "revoke", roster, "kirp")
    assert "revoked" in refused("roster", "add", roster, public("kirp"), *ADDED)
    assert cli("roster", "add", roster, public("kirp", "kirp-2027"), *ADDED)[0] == 0


def test_a_strangers_rotation_is_refused_and_changes_nothing(refused, roster, public):
    before = roster.read_bytes()
    told = refused("roster", "add", roster, public("kirp", "stranger", before="stranger-before"))
    assert "did not sign this rotation" in told and "Ask the site by telephone" in told
    assert "stands in the roster already" in refused("roster", "add", roster, public("kirp", "stranger"), *ADDED)
    assert roster.read_bytes() == before


def test_a_forged_proof_is_refused(refused, roster, public):
    file = public("kirp", "kirp-2027", before="kirp")
    content = yaml.safe_load(file.read_text())
    content["proof"] = "0" * len(content["proof"])
    file.write_text(yaml.safe_dump(content))
    assert "did not sign this rotation" in refused("roster", "add", roster, file)


def test_the_list_as_json_is_the_roster(cli, roster):
    code, out, err = cli("roster", "list", roster, "--json")
    found = json.loads(out)
    assert (code, err) == (0, "") and set(found) == {"federation", "digest", "sites", "revoked"}
    assert (found["federation"], found["digest"]) == ("kidney", read_roster(roster).digest)
    assert found["sites"] == [
        {"site": "kirp", "cancer": "kirp", "contact": "pathology IT", "fingerprint": fingerprint("kirp")},
        {"site": "kirc", "cancer": "kirc", "contact": "data office", "fingerprint": fingerprint("kirc")},
    ]


def test_the_table_shows_whole_fingerprints(cli, roster):
    """Whatever the table's width breaks, every group of eight can be read out on the telephone."""
    out = cli("roster", "list", roster)[1]
    for name in ("kirp", "kirc"):
        groups = [fingerprint(name)[i : i + 8] for i in range(0, 64, 8)]
        assert all(group in out for group in groups)


def test_a_contact_is_shown_as_it_is(cli, roster, public):
    """Rosters come from others; a bracket in one is neither markup nor an error."""
    contact = "[/] IT [night] [bold]IT[/bold]"
    assert cli("roster", "add", roster, public("kich"), "--cancer", "kich", "--contact", contact)[0] == 0
    code, out, _ = cli("roster", "list", roster)
    assert code == 0 and all(word in out for word in contact.split())


def test_a_path_with_brackets_is_printed_as_it_is(cli, roster, tmp_path):
    moved = tmp_path / "[red]rosters" / "roster.yaml"
    moved.parent.mkdir()
    roster.rename(moved)
    code, out, _ = cli("roster", "verify", moved)
    assert (code, str(moved) in out) == (0, True)


def test_a_new_site_needs_a_contact(refused, roster, public):
    for given in ((), ADDED[:2]):
        assert "a new site needs --contact" in refused("roster", "add", roster, public("kich"), *given)


def test_the_announced_cancer_is_entered_and_another_is_refused(cli, refused, roster, tmp_path):
    assert cli("keys", "new", "kich", "--out", tmp_path / "own", "--cancer", "kich")[0] == 0
    told = refused("keys", "new", "kirc-2", "--out", tmp_path / "more", "--cancer", "KIRC")
    assert "cancer must be a short name" in told and not (tmp_path / "more").exists()
    public = tmp_path / "own" / "kich.public.yaml"
    assert "announces the cancer kich, not kirp" in refused("roster", "add", roster, public, *ADDED)
    assert cli("roster", "add", roster, public, *ADDED[2:])[0] == 0
    listed = json.loads(cli("roster", "list", roster, "--json")[1])["sites"]
    assert {one["site"]: one["cancer"] for one in listed}["kich"] == "kich"


def test_a_new_roster_needs_a_federation(refused, public, tmp_path):
    file = tmp_path / "new.yaml"
    assert "Give --federation NAME" in refused("roster", "add", file, public("kirp"), *ADDED)
    told = refused("roster", "add", file, public("kirp"), *ADDED, "--federation", "Kidney Cancer")
    assert told.startswith("--federation: federation must be like") and not file.exists()


def test_another_federations_roster_is_left_alone(refused, roster, public):
    before = roster.read_bytes()
    told = refused("roster", "add", roster, public("kich"), *ADDED, "--federation", "lung")
    assert "is of the federation kidney, not lung" in told and roster.read_bytes() == before


def test_a_secret_key_is_no_public_file_and_is_not_repeated(cli, roster, tmp_path):
    sign, seal = write_identity(tmp_path / "keys", "kich", identity_of("kich"))
    for path in (sign, seal):
        code, out, err = cli("roster", "add", roster, path, *ADDED)
        secret = path.read_text().splitlines()[-1].partition(":")[2]
        assert (code, out) == (1, "") and secret not in err


@pytest.mark.parametrize("command", [["list"], ["digest"], ["verify"], ["revoke", "kirp"]])
def test_a_roster_that_is_not_there(refused, tmp_path, command):
    file = tmp_path / "absent.yaml"
    name, *rest = command
    assert refused("roster", name, file, *rest).startswith(f"{file}: there is no such roster. ")


def test_an_edited_roster_is_refused(refused, roster):
    roster.write_text(roster.read_text().replace("fingerprint: ", "fingerprint: 0", 1))
    for command in (["list"], ["digest"], ["verify"]):
        assert "fingerprint of kirp is not that of its keys" in refused("roster", *command, roster)


def test_a_roster_is_signed_again_when_it_grew_and_by_the_key_of_before(cli, refused, roster, public, tmp_path):
    """roster key, sign, add, sign; what a site's file pins is what both calls print."""
    key, signature = tmp_path / "roster.key", tmp_path / "roster.signature.yaml"
    code, out, _ = cli("roster", "key", key)
    pin = out.strip()
    assert code == 0 and pin.startswith("fedsteph-roster-public-v1:") and key.stat().st_mode & 0o777 == 0o600
    assert "exists already" in refused("roster", "key", key)
    first = cli("roster", "digest", roster)[1]
    for _ in range(2):  # the same roster again is no further step
        code, out, err = cli("roster", "sign", roster, "--key", key)
        assert (code, out) == (0, first) and "number 1 of its history" in err and pin in err
    before = roster.read_bytes()
    assert cli("roster", "add", roster, public("kich"), "--cancer", "kich", "--contact", "data office")[0] == 0
    with pytest.raises(RosterError, match="was changed after it was signed"):
        read_signed(roster, read_roster(roster))
    assert "number 2 of its history" in cli("roster", "sign", roster, "--key", key)[2]
    signed = read_signed(roster, read_roster(roster))
    assert signed.verified(pin, "test").digest == read_roster(roster).digest and signed.chain[0] == first.strip()
    roster.write_bytes(before)
    assert "is an older roster" in refused("roster", "sign", roster, "--key", key)
    assert cli("roster", "key", tmp_path / "new.key")[0] == 0
    assert "was not signed by this key" in refused("roster", "sign", roster, "--key", tmp_path / "new.key")
    assert "must be a fedsteph-roster-secret-v1" in refused(
        "roster", "sign", roster, "--key", write_identity(tmp_path / "keys", "kirp", identity_of("kirp"))[0]
    )
    signature.write_text("chain: []\n")
    assert "Restore it from the coordinator's backup" in refused("roster", "sign", roster, "--key", key)
