"""A site's standing: keys, roster and site file, each broken alone, and each with a refusal of its own."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from keys_and_rosters import identity_of, membership_of, roster_of, write_membership

from fedsteph.client.site.membership import Membership, MembershipFile
from fedsteph.client.site.site import Site
from fedsteph.common.config.schema import build, parse_yaml
from fedsteph.common.errors import (
    ConfigError,
    FedstephError,
    KeyFileError,
    KeyFormatError,
    MembershipError,
    RosterError,
    UnknownSenderError,
)
from fedsteph.common.trust.key_file import write_identity
from fedsteph.common.trust.roster import Roster, write_roster
from fedsteph.common.wire.messages import RunId

ROSTER = roster_of("a", "b")
OTHERS = roster_of("b", "c")


def opened(folder: Path, file: MembershipFile) -> Membership:
    return Membership.open("a", folder, file)


def test_keys_and_roster_are_read_together(tmp_path):
    member = opened(tmp_path, write_membership(tmp_path, "a", ROSTER))
    assert member == membership_of("a", ROSTER) and member.keys_of("b") == identity_of("b").public


def test_the_secret_halves_do_not_show(tmp_path):
    member = opened(tmp_path, write_membership(tmp_path, "a", ROSTER))
    shown = repr(member) + str(member)
    for secret in (member.identity.sign_seed, member.identity.seal_seed):
        assert repr(secret) not in shown and secret.hex() not in shown


def others(folder: Path) -> dict[str, str]:
    sign, seal = write_identity(folder / "others", "a", identity_of("mallory"))
    return {"sign_key": str(sign), "seal_key": str(seal)}


def swapped_key() -> Roster:
    """What a coordinator would do who wants to read what is sealed to b: its own keys under b's name."""
    return Roster("fed", (ROSTER.sites[0], replace(roster_of("mallory").sites[0], site="b")))


def with_roster(roster: Roster, **changes: str):
    return lambda folder, file: (write_roster(folder / file.roster, roster), changes)[1]


def with_mode(key: str, mode: int):
    return lambda folder, file: (folder / getattr(file, key)).chmod(mode)


def lost(key: str):
    return lambda folder, file: (folder / getattr(file, key)).unlink()


# What is done in the site's folder, and what is changed in its site file; the error and what it says.
FAULTS = {
    "another pin": (lambda d, f: {"roster_sha256": OTHERS.digest}, RosterError, "not the pinned"),
    "a key swapped in the roster": (with_roster(swapped_key()), RosterError, "not the pinned"),
    "another roster": (with_roster(roster_of("z", "b")), RosterError, "not the pinned"),
    "no roster": (lost("roster"), RosterError, "there is no such roster"),
    "sign key 640": (with_mode("sign_key", 0o640), KeyFileError, "can be reached by other users"),
    "seal key 604": (with_mode("seal_key", 0o604), KeyFileError, "can be reached by other users"),
    "seal key 620": (with_mode("seal_key", 0o620), KeyFileError, "can be reached by other users"),
    "no sign key": (lost("sign_key"), KeyFileError, "cannot be read"),
    "a folder": (lambda d, f: {"seal_key": "keys"}, KeyFileError, "is not a file"),
    "exchanged": (
        lambda d, f: {"sign_key": f.seal_key, "seal_key": f.sign_key},
        KeyFormatError,
        "must be a fedsteph-sign-secret-v1",
    ),
    "other keys": (lambda d, f: others(d), MembershipError, "other keys under the name a"),
    "another sign key": (
        lambda d, f: {"sign_key": others(d)["sign_key"]},
        MembershipError,
        "the roster has other keys under the name a",
    ),
    "another seal key": (
        lambda d, f: {"seal_key": others(d)["seal_key"]},
        MembershipError,
        "the roster has other keys under the name a",
    ),
    "not listed": (
        with_roster(OTHERS, roster_sha256=OTHERS.digest),
        MembershipError,
        "the roster has no entry under the name a",
    ),
}


@pytest.mark.parametrize(("fault", "error", "said"), FAULTS.values(), ids=FAULTS)
def test_each_fault_has_its_own_refusal(tmp_path, fault, error, said):
    file = write_membership(tmp_path, "a", ROSTER)
    file = replace(file, **(fault(tmp_path, file) or {}))
    with pytest.raises(FedstephError) as caught:
        opened(tmp_path, file)
    assert type(caught.value) is error and said in str(caught.value)


def test_the_cancer_in_the_site_file_is_the_rosters_or_not_stated(tmp_path):
    write_membership(tmp_path, "a", ROSTER)
    rest = FEDERATION.format(ROSTER.digest, "keys/a.seal.key") + "policy: {}\n"
    for stated in ("", "cancer: test\n"):
        (tmp_path / "site.yaml").write_text("name: a\n" + stated + rest)
        assert Site.open(tmp_path).membership().site == "a"
    (tmp_path / "site.yaml").write_text("name: a\ncancer: brca\n" + rest)
    with pytest.raises(MembershipError, match=r"'cancer' in site\.yaml is brca, and the roster has test for a"):
        Site.open(tmp_path).membership()
    (tmp_path / "site.yaml").write_text("name: a\ncancer: BRCA\n" + rest)
    with pytest.raises(ConfigError, match="cancer must be a short name"):
        Site.open(tmp_path)


def test_no_refusal_repeats_a_secret_key(tmp_path):
    file = write_membership(tmp_path, "a", ROSTER)
    path = tmp_path / file.sign_key
    [secret] = [line for line in path.read_text().splitlines() if not line.startswith("#")]
    for text in (secret[:-1], secret + "A", f"{secret}\n{secret}", secret.replace("sign", "seal")):
        path.write_text(text)
        with pytest.raises((KeyFileError, KeyFormatError)) as caught:
            opened(tmp_path, file)
        assert secret.partition(":")[2][:16] not in str(caught.value)


FEDERATION = "federation: {{roster: roster.yaml, roster_sha256: {0}, sign_key: keys/a.sign.key, seal_key: {1}}}\n"


@pytest.mark.parametrize("lacking", ["federation", "policy"])
def test_without_both_sections_the_site_takes_part_in_nothing(tmp_path, lacking):
    write_membership(tmp_path, "a", ROSTER)
    sections = {"federation": FEDERATION.format(ROSTER.digest, "keys/a.seal.key"), "policy": "policy: {}\n"}
    whole = tmp_path / "site.yaml"
    whole.write_text("name: a\n" + "".join(sections.values()))
    assert Site.open(tmp_path).membership().site == "a"
    whole.write_text("name: a\n" + "".join(text for name, text in sections.items() if name != lacking))
    with pytest.raises(MembershipError, match=f"has no '{lacking}' section"):
        Site.open(tmp_path).membership()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (FEDERATION.format("abc", "k"), "roster_sha256 must be the 64 hexadecimal digits"),
        (FEDERATION.format("A" * 64, "k"), "roster_sha256 must be the 64 hexadecimal digits"),
        (FEDERATION.format(ROSTER.digest, "k, server: nowhere"), "server must be like"),
        (FEDERATION.format(ROSTER.digest, "k, audti: k"), "Did you mean 'federation.audit'"),
        ("federation: {roster: roster.yaml}\n", "'federation.roster_sha256' is missing"),
    ],
)
def test_a_fault_in_the_section_is_named(tmp_path, text, said):
    (tmp_path / "site.yaml").write_text("name: a\n" + text)
    with pytest.raises(ConfigError, match=r"site\.yaml: .*federation"):
        Site.open(tmp_path)
    with pytest.raises(ConfigError, match=said):
        build(MembershipFile, parse_yaml(text, "site.yaml")["federation"], "site.yaml", "federation.")


def test_a_run_of_this_federation_with_this_roster_only():
    member = membership_of("a", ROSTER)
    member.require_run(RunId("fed", "run1", ROSTER.digest))
    with pytest.raises(MembershipError):
        member.require_run(RunId("other", "run1", ROSTER.digest))
    with pytest.raises(RosterError, match="this site pins"):
        member.require_run(RunId("fed", "run1", OTHERS.digest))


def test_keys_come_from_the_pinned_roster_only():
    member = membership_of("a", ROSTER)
    with pytest.raises(UnknownSenderError):
        member.keys_of("c")
