"""The roster: its digest is of the content alone, and no inconsistent or unpinned one is believed."""

from __future__ import annotations

import json
import os
import random
import stat
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from each_case import each
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsteph.common.errors import FedstephError, KeyFormatError, RosterError
from fedsteph.common.trust.keys import SEAL_SECRET, SIGN_SECRET, Identity, encode
from fedsteph.common.trust.roster import Entry, Revocation, Roster, read_roster, write_roster

IDENTITIES = [Identity.generate() for _ in range(4)]
A, B, C = (
    Entry.of(f"site-{name}", identity.public, cancer=f"tcga-{name}", contact="head of pathology")
    for name, identity in zip("abc", IDENTITIES, strict=False)
)
SPARE = IDENTITIES[3]
GONE = Revocation("site-b", "0" * 64, "2026-01-31", "lost laptop")
ROSTER = Roster("lung", (A, B, C), (GONE, Revocation("site-z", "1" * 64, "2025-12-01", "left")))


def content(roster: Roster = ROSTER) -> dict[str, Any]:
    return json.loads(json.dumps(asdict(roster)))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "roster.yaml"


def write(path: Path, fields: Any) -> Path:
    path.write_text(fields if isinstance(fields, str) else yaml.safe_dump(fields), encoding="utf-8")
    return path


def test_round_trip(path: Path) -> None:
    write_roster(path, ROSTER)
    assert read_roster(path) == ROSTER and read_roster(path, ROSTER.digest) == ROSTER
    assert path.read_text().startswith("# fedsteph roster: public keys only")


@pytest.mark.parametrize("umask", [0o077, 0])
def test_others_may_read_a_roster_and_not_write_it(path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        write_roster(path, ROSTER)
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o644


def test_an_empty_roster_round_trips(path: Path) -> None:
    write_roster(path, Roster("lung"))
    assert read_roster(path, Roster("lung").digest) == Roster("lung")


PRINTABLE = st.characters(codec="utf-8", exclude_categories=["C", "Z"], include_characters=" ")
LINE = st.text(PRINTABLE, min_size=1, max_size=120)


@settings(max_examples=60)
@given(LINE, LINE)
def test_any_printable_text_round_trips(tmp_path_factory: Any, contact: str, reason: str) -> None:
    path = tmp_path_factory.getbasetemp() / "printable-roster.yaml"
    gone = Revocation("c", "2" * 64, "2026-01-31", reason)
    roster = Roster("lung", (replace(A, cancer=None, contact=contact), B), (gone,))
    write_roster(path, roster)
    assert read_roster(path, roster.digest) == roster


@each("text", ["no", "null", "1e-4", "007", "2026-01-31", "a: b", "# x", "- x", "'", "&a", "!!python"])
def test_text_that_yaml_could_read_otherwise_stays_text(path: Path, text: str) -> None:
    roster = Roster("lung", (replace(A, contact=text),))
    write_roster(path, roster)
    assert read_roster(path, roster.digest) == roster


def spellings() -> dict[str, str]:
    """The same roster in other words."""
    plain = content()
    shuffled = plain | {
        "sites": [dict(reversed(entry.items())) for entry in reversed(plain["sites"])],
        "revoked": list(reversed(plain["revoked"])),
    }
    block = yaml.safe_dump(plain, sort_keys=False, width=10_000)
    return {
        "comments": "# one\n" + block.replace("\n", " # two\n", 1) + "# three\n",
        "blank lines": block.replace("\nsites:", "\n\n\nsites:"),
        "wrapped": yaml.safe_dump(plain, width=20),
        "flow style": yaml.safe_dump(plain, default_flow_style=True),
        "JSON": json.dumps(plain),
        "indented JSON": json.dumps(plain, indent=7),
        "sorted keys": yaml.safe_dump(plain, sort_keys=True),
        "quoted": yaml.safe_dump(plain, default_style='"'),
        "another order": yaml.safe_dump(dict(reversed(shuffled.items())), sort_keys=False),
        "Windows line ends": block.replace("\n", "\r\n"),
        "document marks": f"---\n{block}...\n",
        "without the format": yaml.safe_dump({key: plain[key] for key in plain if key != "format"}),
    }


@each("name", spellings())
def test_comments_layout_and_order_do_not_change_the_digest(path: Path, name: str) -> None:
    path.write_bytes(spellings()[name].encode())
    assert read_roster(path, ROSTER.digest).digest == ROSTER.digest


def test_order_does_not_change_the_digest() -> None:
    rng = random.Random(0)
    for _ in range(20):
        mixed = replace(ROSTER, sites=tuple(rng.sample(ROSTER.sites, 3)), revoked=tuple(rng.sample(ROSTER.revoked, 2)))
        assert mixed.digest == ROSTER.digest


def changes() -> dict[str, Roster]:
    """Every field of the roster, of an entry and of a revocation, changed by itself."""
    other = SPARE.public
    revoked = ROSTER.revoked[1:]
    return {
        "federation": replace(ROSTER, federation="lung2"),
        "a site less": replace(ROSTER, sites=(A, B)),
        "a site more": replace(ROSTER, sites=(A, B, C, Entry.of("site-d", other, cancer="x", contact="y"))),
        "site": replace(ROSTER, sites=(A, B, replace(C, site="site-d"))),
        "cancer": replace(ROSTER, sites=(A, B, replace(C, cancer="tcga-d"))),
        "contact": replace(ROSTER, sites=(A, B, replace(C, contact="head of oncology"))),
        "keys": replace(ROSTER, sites=(A, B, Entry.of(C.site, other, cancer=C.cancer, contact=C.contact))),
        "sign": replace(
            ROSTER, sites=(A, B, Entry.of(C.site, replace(C.keys, sign=other.sign), cancer=C.cancer, contact=C.contact))
        ),
        "seal": replace(
            ROSTER, sites=(A, B, Entry.of(C.site, replace(C.keys, seal=other.seal), cancer=C.cancer, contact=C.contact))
        ),
        "names exchanged": replace(ROSTER, sites=(replace(A, site="site-b"), replace(B, site="site-a"), C)),
        "cancer taken out": replace(ROSTER, sites=(A, B, replace(C, cancer=None))),
        "a revocation less": replace(ROSTER, revoked=revoked),
        "a revocation more": replace(ROSTER, revoked=(*ROSTER.revoked, replace(GONE, fingerprint="3" * 64))),
        "revoked site": replace(ROSTER, revoked=(replace(GONE, site="site-q"), *revoked)),
        "revoked fingerprint": replace(ROSTER, revoked=(replace(GONE, fingerprint="2" * 64), *revoked)),
        "revocation's date": replace(ROSTER, revoked=(replace(GONE, date="2026-02-01"), *revoked)),
        "revocation's reason": replace(ROSTER, revoked=(replace(GONE, reason="lost laptop "), *revoked)),
        "look-alike letter": replace(ROSTER, sites=(A, B, replace(C, contact=C.contact.replace("o", "\u043e")))),
    }


def test_every_change_changes_the_digest() -> None:
    digests = [ROSTER.digest, *(roster.digest for roster in changes().values())]
    assert len(set(digests)) == len(digests)


@each("name", changes())
def test_another_roster_than_the_pinned_one_is_refused_with_both_digests(path: Path, name: str) -> None:
    changed = changes()[name]
    write_roster(path, changed)
    with pytest.raises(RosterError) as caught:
        read_roster(path, ROSTER.digest)
    assert str(caught.value).startswith(f"{path}: its digest is {changed.digest}, and not the pinned {ROSTER.digest}")
    assert "telephone" in str(caught.value.remedy) and read_roster(path, changed.digest) == changed


@each("pinned", ["", "0" * 64, ROSTER.digest.upper(), ROSTER.digest[:-1], ROSTER.digest + "0"])
def test_a_pinned_digest_is_compared_whole(path: Path, pinned: str) -> None:
    write_roster(path, ROSTER)
    with pytest.raises(RosterError, match="and not the pinned"):
        read_roster(path, pinned)


@each("keys", [("sign",), ("seal",), ("fingerprint",), ("sign", "seal"), ("seal", "fingerprint")])
def test_keys_swapped_between_entries_are_refused(path: Path, keys: tuple[str, ...]) -> None:
    """An attack on a roster that nobody has pinned yet."""
    fields = content()
    first, second = fields["sites"][:2]
    for key in keys:
        first[key], second[key] = second[key], first[key]
    with pytest.raises(RosterError, match="fingerprint of site-a is not that of its keys"):
        read_roster(write(path, fields))


def test_keys_swapped_whole_are_another_digest(path: Path) -> None:
    """With its fingerprint, a key is consistent in a foreign entry; only the pinned digest, or a person, can tell."""
    fields = content()
    first, second = fields["sites"][:2]
    for key in ("sign", "seal", "fingerprint"):
        first[key], second[key] = second[key], first[key]
    assert read_roster(write(path, fields)).digest != ROSTER.digest
    with pytest.raises(RosterError, match="and not the pinned"):
        read_roster(path, ROSTER.digest)


def duplicated(**changed: str) -> dict[str, Any]:
    fields = content()
    return fields | {"sites": [*fields["sites"], fields["sites"][0] | changed]}


@each("fields", [duplicated(), duplicated(site="site-d"), duplicated(cancer="other")])
def test_a_name_or_keys_that_stand_twice_are_refused(path: Path, fields: dict[str, Any]) -> None:
    with pytest.raises(RosterError, match="sites must be different names with different keys"):
        read_roster(write(path, fields))


@each("half", ["sign", "seal"])
def test_half_a_key_that_stands_twice_is_refused(path: Path, half: str) -> None:
    """With the other half its own, the fingerprint differs, and still two sites are told apart by no one."""
    mixed = replace(SPARE.public, **{half: getattr(A.keys, half)})
    twin = Entry.of("site-d", mixed, cancer="x", contact="y")
    assert twin.fingerprint not in {entry.fingerprint for entry in ROSTER.sites}
    with pytest.raises(RosterError, match="sites must be different names with different keys"):
        ROSTER.with_entry(twin)
    fields = content()
    fields["sites"].append(asdict(twin))
    with pytest.raises(RosterError, match="sites must be different names with different keys"):
        read_roster(write(path, fields))
    assert len(ROSTER.without("site-a", "2026-03-01", "left").with_entry(twin).sites) == 3


@each("changed", [{}, {"site": "site-q"}, {"date": "2026-02-01"}, {"reason": "stolen"}])
def test_keys_are_revoked_once_only(path: Path, changed: dict[str, str]) -> None:
    """Two entries for one fingerprint could be put in either order, each with a digest of its own."""
    again = replace(GONE, **changed)
    with pytest.raises(ValueError, match="revoked must list each fingerprint once"):
        replace(ROSTER, revoked=(*ROSTER.revoked, again))
    fields = content()
    fields["revoked"].append(asdict(again))
    with pytest.raises(RosterError, match="revoked must list each fingerprint once"):
        read_roster(write(path, fields))


def test_two_entries_of_one_name_are_refused(path: Path) -> None:
    twin = Entry.of("site-a", SPARE.public, cancer="x", contact="y")
    with pytest.raises(RosterError, match="sites must be different"):
        read_roster(write(path, content() | {"sites": [asdict(A), asdict(twin)]}))
    with pytest.raises(RosterError, match="site-a stands in the roster already") as caught:
        ROSTER.with_entry(twin)
    assert "revoke" in str(caught.value.remedy)


def test_the_same_keys_under_another_name_are_not_added() -> None:
    with pytest.raises(RosterError, match="different names with different keys"):
        ROSTER.with_entry(replace(A, site="site-d"))


def test_a_site_is_added_and_revoked() -> None:
    added = ROSTER.with_entry(Entry.of("site-d", SPARE.public, cancer="x", contact="y"))
    assert [entry.site for entry in added.sites] == ["site-a", "site-b", "site-c", "site-d"]
    gone = added.without("site-d", "2026-03-01", "left")
    assert gone.entry("site-d") is None and gone.sites == ROSTER.sites
    assert gone.revoked[-1] == Revocation("site-d", SPARE.public.fingerprint, "2026-03-01", "left")
    assert ROSTER.entry("site-a") is A


def test_revoked_keys_cannot_come_back(path: Path) -> None:
    """Not under the old name, nor another, nor by hand in the file."""
    gone = ROSTER.without("site-c", "2026-03-01", "stolen")
    for name in ("site-c", "site-d"):
        with pytest.raises(RosterError, match=f"keys that were revoked: {C.fingerprint}"):
            gone.with_entry(replace(C, site=name))
        fields = content(gone)
        fields["sites"].append(asdict(replace(C, site=name)))
        with pytest.raises(RosterError, match=f"keys that were revoked: {C.fingerprint}"):
            read_roster(write(path, fields))
    rotated = gone.with_entry(Entry.of("site-c", SPARE.public, cancer="x", contact="y"))
    assert rotated.entry("site-c") is not None


@each("name", ["site-d", "", "site-A"])
def test_nobody_unknown_is_revoked(name: str) -> None:
    with pytest.raises(RosterError, match="there is no site") as caught:
        ROSTER.without(name, "2026-03-01", "left")
    assert "site-a, site-b, site-c" in str(caught.value.remedy)


@each(
    ("change", "said"),
    [
        ({"date": "1 March"}, "date must be like"),
        ({"date": ""}, "date must be like"),
        ({"date": "2026-03-01\n"}, "date must be like"),
        ({"reason": ""}, "reason must be one printable line"),
        ({"reason": "a\nb"}, "reason must be one printable line"),
        ({"reason": "x" * 121}, "reason must be one printable line"),
    ],
)
def test_a_revocation_needs_a_date_and_a_reason(path: Path, change: dict[str, str], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        replace(GONE, **change)
    with pytest.raises(RosterError, match=said):
        read_roster(write(path, with_revoked(**change)))


def with_site(**changed: Any) -> dict[str, Any]:
    fields = content()
    fields["sites"][0] |= changed
    return fields


def with_revoked(**changed: Any) -> dict[str, Any]:
    fields = content()
    fields["revoked"][0] |= changed
    return fields


WEIRD = [
    *("", "a\nb", "\x1b[2J", "x" * 121, "line\u2028two", "\u202eevil", "nul\0", "bell\a", "a\tb", "\ufeff", "a\u00a0b")
]


@each("text", WEIRD)
@each("key", ["cancer", "contact", "site", "reason", "federation", "fingerprint", "sign", "seal"])
def test_weird_text_is_refused_wherever_it_stands(path: Path, key: str, text: str) -> None:
    fields = {"reason": with_revoked, "federation": lambda **changed: content() | changed}.get(key, with_site)
    with pytest.raises((RosterError, KeyFormatError)) as caught:
        read_roster(write(path, json.dumps(fields(**{key: text}))))
    assert caught.value.sentence.isprintable() and len(caught.value.sentence) < 1000


@each("name", ["KIRP", "kidney cancer", "x" * 33, "-a", "a.b"])
def test_cancers_have_short_names_in_lower_case(path: Path, name: str) -> None:
    with pytest.raises(RosterError, match="cancer must be a short name such as brca"):
        read_roster(write(path, with_site(cancer=name)))


@each("name", ["Site", "../x", "a b", "x" * 33, "-a", "a.b", "ä", "site\u0131"])
@each("fields", [with_site, with_revoked])
def test_sites_have_names_like_names(path: Path, fields: Any, name: str) -> None:
    with pytest.raises(RosterError, match="name"):
        read_roster(write(path, fields(site=name)))


@each(
    ("fields", "said"),
    [
        (content() | {"adress": "x"}, "unknown key 'adress'"),
        (with_site(secret="x"), "unknown key 'sites[0].secret'"),
        (with_revoked(by="x"), "unknown key 'revoked[0].by'"),
        ({key: value for key, value in content().items() if key != "federation"}, "'federation' is missing"),
        (content() | {"format": "fedsteph/roster/v2"}, "'format' must be one of 'fedsteph/roster/v1'"),
        (content() | {"sites": content()["sites"][0]}, "'sites' must be a list"),
        (content() | {"sites": ["site-a"]}, "'sites[0]' must be a mapping"),
        (content() | {"sites": None}, "'sites' must be a list"),
        (with_site(cancer=7), "'sites[0].cancer' must be text"),
        (with_site(contact=None), "'sites[0].contact' must be text"),
        (with_site(sign=[A.sign]), "'sites[0].sign' must be text"),
        (with_revoked(fingerprint="0" * 63), "64 hexadecimal digits"),
        (with_revoked(fingerprint="A" * 64), "64 hexadecimal digits"),
        ("", "'federation' is missing"),
        ("- a\n- b\n", "must be a mapping"),
        ("federation: [", "is not valid YAML"),
        ("federation: lung\nfederation: breast\n", "is given twice"),
        ("federation: !!python/object/apply:os.system ['true']\n", "is not valid YAML"),
        ("a: &a [*a]\n", "is not valid YAML"),
        ("federation: &a lung\nsites: [*a]\n", "aliases (*name) are not accepted"),
        ("\x00", "is not valid YAML"),
    ],
)
def test_a_file_that_is_no_roster_is_refused(path: Path, fields: Any, said: str) -> None:
    with pytest.raises(RosterError) as caught:
        read_roster(write(path, fields))
    assert said in str(caught.value) and caught.value.where == str(path)


def test_an_unquoted_date_is_the_text_that_it_is(path: Path) -> None:
    text = yaml.safe_dump(content())
    unquoted = text.replace("'2026-01-31'", "2026-01-31")
    assert unquoted != text and read_roster(write(path, unquoted)) == read_roster(write(path, text))


def test_what_is_no_text_file_is_refused(path: Path, tmp_path: Path) -> None:
    path.write_bytes(b"\xff\xfe\x00")
    for found in (path, tmp_path):
        with pytest.raises(RosterError, match="cannot be read"):
            read_roster(found)


def test_a_roster_that_is_not_there_is_said_to_come_from_the_coordinator(tmp_path: Path) -> None:
    (tmp_path / "link.yaml").symlink_to("none.yaml")
    for found in (tmp_path / "none.yaml", tmp_path / "link.yaml", tmp_path / "none" / "roster.yaml"):
        with pytest.raises(RosterError, match="there is no such roster") as caught:
            read_roster(found)
        assert caught.value.where == str(found) and "from the coordinator" in str(caught.value.remedy)


@each("half", ["sign", "seal"])
@each("damage", ["cut", "secret", "exchanged", "of zeros"])
def test_damaged_or_secret_keys_are_refused_unseen(path: Path, half: str, damage: str) -> None:
    """A site that sends its secret half by mistake is told so, in words that do not spread it."""
    kind, seed = {"sign": (SIGN_SECRET, SPARE.sign_seed), "seal": (SEAL_SECRET, SPARE.seal_seed)}[half]
    text = {
        "cut": getattr(A, half)[:-1],
        "secret": encode(kind, seed),
        "exchanged": {"sign": A.seal, "seal": A.sign}[half],
        "of zeros": getattr(A, half)[:30] + "A" * (len(getattr(A, half)) - 30),
    }[damage]
    with pytest.raises((RosterError, KeyFormatError)) as caught:
        read_roster(write(path, with_site(**{half: text})))
    assert isinstance(caught.value, FedstephError)
    assert encode(kind, seed).partition(":")[2][:12] not in str(caught.value) and "site-a" in str(caught.value)


def test_an_entry_is_of_its_keys() -> None:
    assert A.keys == IDENTITIES[0].public and A.fingerprint == IDENTITIES[0].public.fingerprint
    with pytest.raises(ValueError, match="fingerprint of site-a"):
        replace(A, fingerprint=B.fingerprint)


def test_a_written_roster_holds_public_halves_only(path: Path) -> None:
    write_roster(path, ROSTER)
    text = path.read_text()
    assert "secret" not in text
    assert text.count("fedsteph-seal-public-v1:") == text.count("fedsteph-sign-public-v1:") == 3
