"""The public file of a site's keys: it comes back as it was written, and only the keys before prove a rotation."""

from __future__ import annotations

import stat
from dataclasses import replace

import pytest
from each_case import each
from hypothesis import given, settings
from hypothesis import strategies as st
from keys_and_rosters import identity_of, roster_of

from fedsteph.common.errors import ConfigError, KeyFormatError, RosterError
from fedsteph.common.trust.announcement import Announcement, read_announcement, write_announcement
from fedsteph.common.trust.keys import Identity
from fedsteph.common.trust.roster import Roster

TODAY = "2026-01-31"
OLD, NEW, NEWER, STRANGER = map(identity_of, ("kirp", "kirp-2027", "kirp-2028", "stranger"))


def enter(announcement: Announcement, roster: Roster, **given: str | None) -> Roster:
    return announcement.enter(roster, **{"cancer": None, "contact": None, "today": TODAY, **given})


@pytest.mark.parametrize("before", [None, OLD])
def test_it_comes_back_from_its_file(tmp_path, before):
    path = tmp_path / "kirp.public.yaml"
    made = Announcement.of("kirp", NEW, before)
    write_announcement(path, made)
    assert read_announcement(path) == made and made.keys == NEW.public


def test_the_file_is_for_everyone_and_says_so(tmp_path):
    path = tmp_path / "kirp.public.yaml"
    write_announcement(path, Announcement.of("kirp", OLD))
    assert stat.S_IMODE(path.stat().st_mode) == 0o644 and path.read_text().startswith("# fedsteph PUBLIC keys")


def test_no_secret_stands_in_it(tmp_path):
    path = tmp_path / "kirp.public.yaml"
    write_announcement(path, Announcement.of("kirp", NEW, OLD))
    content = path.read_bytes()
    assert b"secret" not in content
    for identity in (NEW, OLD):
        for seed in (identity.sign_seed, identity.seal_seed):
            assert seed not in content and seed.hex().encode() not in content


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"site": "kirc/../kirp"}, "site must be a name like"),
        ({"site": ""}, "site must be a name like"),
        ({"fingerprint": "0" * 64}, "fingerprint is not that of the keys"),
        ({"sign": STRANGER.public.sign_text}, "fingerprint is not that of the keys"),
        ({"seal": STRANGER.public.seal_text}, "fingerprint is not that of the keys"),
        ({"replaces": "0" * 64}, "replaces and proof come together"),
        ({"proof": "00" * 64}, "replaces and proof come together"),
        ({"format": "fedsteph/public-keys/v2"}, "'format' must be one of"),
        ({"trusted": True}, "unknown key 'trusted'"),
        ({"sign": None}, "'sign' must be text"),
        ({"fingerprint": 7}, "'fingerprint' must be text"),
    ],
)
def test_a_changed_file_is_refused(tmp_path, change, told):
    """Each line by itself: whoever changes one has to change all, and then the fingerprint on the telephone differs."""
    path = tmp_path / "kirp.public.yaml"
    plain = Announcement.of("kirp", OLD)
    fields = {"format": plain.format, "site": "kirp", "sign": plain.sign, "seal": plain.seal}
    fields |= {"fingerprint": plain.fingerprint, **change}
    path.write_text("".join(f"{key}: {'null' if v is None else repr(v)}\n" for key, v in fields.items()))
    with pytest.raises(ConfigError) as caught:
        read_announcement(path)
    assert caught.value.where == str(path) and told in caught.value.what


@each("half", ["sign", "seal"])
def test_keys_of_the_wrong_type_are_refused(half):
    plain = Announcement.of("kirp", OLD)
    other = {"sign": plain.seal, "seal": plain.sign}[half]
    with pytest.raises(KeyFormatError, match=f"must be a fedsteph-{half}-public-v1"):
        replace(plain, **{half: other})


@pytest.mark.parametrize("content", ["", "[]", "site: kirp\n", "\x00", "site: kirp\nsite: kirc\n"])
def test_what_is_no_public_file(tmp_path, content):
    path = tmp_path / "kirp.public.yaml"
    path.write_text(content)
    with pytest.raises(ConfigError):
        read_announcement(path)


def test_a_new_site_is_entered_with_its_keys():
    entered = enter(Announcement.of("kirp", OLD), Roster("fed"), cancer="kirp", contact="pathology IT")
    [entry] = entered.sites
    assert (entry.site, entry.cancer, entry.contact, entry.keys) == ("kirp", "kirp", "pathology IT", OLD.public)


def test_a_new_site_needs_its_contact():
    with pytest.raises(RosterError, match="needs --contact"):
        enter(Announcement.of("kirp", OLD), Roster("fed"), cancer="kirp")


def test_a_site_announces_its_cancer_or_leaves_it_unknown():
    for announced, typed, entered in (("kirp", None, "kirp"), ("kirp", "kirp", "kirp"), (None, None, None)):
        announcement = Announcement.of("kirp-1", OLD, cancer=announced)
        [entry] = enter(announcement, Roster("fed"), cancer=typed, contact="IT").sites
        assert entry.cancer == entered
    with pytest.raises(RosterError, match="announces the cancer kirp, not kirc"):
        enter(Announcement.of("kirp-1", OLD, cancer="kirp"), Roster("fed"), cancer="kirc", contact="IT")
    for name in ("KIRP", "kidney cancer", "", "../x"):
        with pytest.raises(ValueError, match="cancer must be a short name"):
            Announcement.of("kirp-1", OLD, cancer=name)


@each("contact", ["", "two\nlines", "x" * 121])
def test_a_contact_is_one_line(contact):
    with pytest.raises(RosterError, match="printable line"):
        enter(Announcement.of("kirp", OLD), Roster("fed"), cancer="kirp", contact=contact)


def test_two_sites_cannot_have_the_same_keys():
    with pytest.raises(RosterError, match="different names with different keys"):
        enter(Announcement.of("kirc", OLD), roster_of("kirp"), cancer="kirc", contact="IT")


def test_a_rotation_takes_the_place_and_revokes_what_was_there():
    before = roster_of("kirp", "kirc")
    after = enter(Announcement.of("kirp", NEW, OLD), before)
    entry = after.entry("kirp")
    assert entry is not None and (entry.keys, entry.cancer, entry.contact) == (NEW.public, "test", "data office")
    assert after.entry("kirc") == before.entry("kirc")
    [gone] = after.revoked
    assert (gone.site, gone.fingerprint, gone.date, gone.reason) == ("kirp", OLD.public.fingerprint, TODAY, "rotated")
    assert after.digest != before.digest


def test_a_rotation_may_change_cancer_and_contact():
    entry = enter(Announcement.of("kirp", NEW, OLD), roster_of("kirp"), cancer="kirp", contact="night shift").entry(
        "kirp"
    )
    assert entry is not None and (entry.cancer, entry.contact) == ("kirp", "night shift")


def test_rotations_follow_each_other():
    after = enter(Announcement.of("kirp", NEW, OLD), roster_of("kirp"))
    after = enter(Announcement.of("kirp", NEWER, NEW), after)
    assert [gone.fingerprint for gone in after.revoked] == [OLD.public.fingerprint, NEW.public.fingerprint]
    assert after.sites[0].keys == NEWER.public


def attacks() -> dict[str, Announcement]:
    """What somebody without the secret half of kirp's keys could hand in for kirp."""
    genuine, old = Announcement.of("kirp", NEW, OLD), OLD.public.fingerprint
    by_stranger = Announcement.of("kirp", NEW, STRANGER)
    theirs = Announcement.of("kirp", STRANGER)
    return {
        "plain keys of a stranger": theirs,
        "signed by the stranger": by_stranger,
        "signed by the stranger, said to be by kirp": replace(by_stranger, replaces=old),
        "a genuine proof on other keys": replace(theirs, replaces=old, proof=genuine.proof),
        "a proof made for another site": replace(Announcement.of("kirc", NEW, OLD), site="kirp"),
        "a proof by the new keys themselves": replace(Announcement.of("kirp", NEW, NEW), replaces=old),
        "one bit of the proof": replace(genuine, proof=f"{int(str(genuine.proof), 16) ^ 1:0128x}"),
        "an empty proof": replace(genuine, proof=""),
        "a proof that is no hexadecimal": replace(genuine, proof="zz" * 64),
        "a short proof": replace(genuine, proof=str(genuine.proof)[:-2]),
        "a cancer that the old key did not sign": replace(Announcement.of("kirp", NEW, OLD, "kirc"), cancer="kirp"),
        "a cancer added": replace(genuine, cancer="kirp"),
        "a cancer taken out": replace(Announcement.of("kirp", NEW, OLD, "kirp"), cancer=None),
        "a rotation that skips one": Announcement.of("kirp", NEWER, NEW),
    }


@each("attack", attacks())
def test_a_strangers_rotation_is_refused(attack):
    with pytest.raises(RosterError, match=r"did not sign this rotation|stands in the roster already") as caught:
        enter(attacks()[attack], roster_of("kirp"), cancer="kirp", contact="IT")
    assert "fedsteph roster revoke ROSTER kirp" in str(caught.value.remedy)


@each("keys", [OLD, NEW, STRANGER])
def test_a_listed_site_without_a_rotation_is_told_that_it_is_listed(keys):
    """Not that a proof failed, of which there was none; not even with the very same keys."""
    with pytest.raises(RosterError) as caught:
        enter(Announcement.of("kirp", keys), roster_of("kirp", "kirc"), cancer="kirp", contact="IT")
    assert caught.value.what == "kirp stands in the roster already"
    assert "After a loss: 'fedsteph roster revoke ROSTER kirp', then add it again" in str(caught.value.remedy)
    assert "to change keys: 'fedsteph keys rotate'" in str(caught.value.remedy)


@settings(max_examples=25)
@given(st.binary(max_size=70))
def test_no_bytes_stand_in_for_a_proof(signature):
    with pytest.raises(RosterError, match="did not sign"):
        enter(replace(Announcement.of("kirp", NEW, OLD), proof=signature.hex()), roster_of("kirp"))


def test_an_old_rotation_cannot_be_played_again():
    """Back from the third keys to the second, with the genuine announcement of the second."""
    second = Announcement.of("kirp", NEW, OLD)
    after = enter(Announcement.of("kirp", NEWER, NEW), enter(second, roster_of("kirp")))
    with pytest.raises(RosterError, match="did not sign this rotation"):
        enter(second, after)


def test_a_rotation_of_other_keys_is_refused_though_the_same_key_signed_it():
    """The site kept its signing key and changed only the one that it receives with: a proof is for one pair."""
    mixed = Identity(OLD.sign_seed, NEWER.seal_seed)
    roster = enter(Announcement.of("kirp", mixed), Roster("fed"), cancer="kirp", contact="IT")
    with pytest.raises(RosterError, match="did not sign this rotation"):
        enter(Announcement.of("kirp", NEW, OLD), roster)


def test_a_rotation_back_to_revoked_keys_is_refused_though_its_proof_holds():
    after = enter(Announcement.of("kirp", NEW, OLD), roster_of("kirp"))
    with pytest.raises(RosterError, match="revoked"):
        enter(Announcement.of("kirp", OLD, NEW), after)


def test_a_rotation_onto_another_sites_keys_is_refused():
    """The proof is by kirp's keys, and the new ones are those that kirc has."""
    onto = Announcement.of("kirp", identity_of("kirc"), OLD)
    with pytest.raises(RosterError, match="different names with different keys"):
        enter(onto, roster_of("kirp", "kirc"))


@each("revoked_as", ["kirp", "kirc"])
def test_revoked_keys_never_come_back_under_any_name(revoked_as):
    roster = roster_of("kirp").without("kirp", TODAY, "laptop lost")
    with pytest.raises(RosterError, match="revoked"):
        enter(Announcement.of(revoked_as, OLD), roster, cancer="kirp", contact="IT")


def test_after_a_revocation_new_keys_come_in_like_a_new_site():
    roster = roster_of("kirp").without("kirp", TODAY, "laptop lost")
    for announcement in (Announcement.of("kirp", NEW), Announcement.of("kirp", NEW, OLD)):
        assert enter(announcement, roster, cancer="kirp", contact="IT").sites[0].keys == NEW.public
        with pytest.raises(RosterError, match="needs --contact"):
            enter(announcement, roster)
