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


def pin_another(folder: Path, file: MembershipFile) -> MembershipFile:
    return replace(file, roster_sha256=OTHERS.digest)


def swap_a_key_in_the_roster(folder: Path, file: MembershipFile) -> MembershipFile:
    """What a coordinator would do who wants to read what is sealed to b: its own keys under b's name."""
    entry = replace(roster_of("mallory").sites[0], site="b")
    write_roster(folder / file.roster, Roster("fed", (ROSTER.sites[0], entry)))
    return file


def spoil_the_roster(folder: Path, file: MembershipFile) -> MembershipFile:
    path = folder / file.roster
    path.write_text(path.read_text().replace("site: a", "site: z"))
    return file


def lose_the_roster(folder: Path, file: MembershipFile) -> MembershipFile:
    (folder / file.roster).unlink()
    return file


def open_a_key(which: str, mode: int):
    def fault(folder: Path, file: MembershipFile) -> MembershipFile:
        (folder / getattr(file, which)).chmod(mode)
        return file

    fault.__name__ = f"{which}-{mode:o}"
    return fault


def lose_a_key(folder: Path, file: MembershipFile) -> MembershipFile:
    (folder / file.sign_key).unlink()
    return file


def name_a_folder(folder: Path, file: MembershipFile) -> MembershipFile:
    return replace(file, seal_key="keys")


def exchange_the_purposes(folder: Path, file: MembershipFile) -> MembershipFile:
    return replace(file, sign_key=file.seal_key, seal_key=file.sign_key)


def other_keys(folder: Path, file: MembershipFile) -> MembershipFile:
    sign, seal = write_identity(folder / "others", "a", identity_of("mallory"))
    return replace(file, sign_key=str(sign), seal_key=str(seal))


def other_sign_key(folder: Path, file: MembershipFile) -> MembershipFile:
    return replace(file, sign_key=other_keys(folder, file).sign_key)


def other_seal_key(folder: Path, file: MembershipFile) -> MembershipFile:
    return replace(file, seal_key=other_keys(folder, file).seal_key)


def not_listed(folder: Path, file: MembershipFile) -> MembershipFile:
    write_roster(folder / file.roster, OTHERS)
    return pin_another(folder, file)


@pytest.mark.parametrize(
    ("fault", "error", "said"),
    [
        (pin_another, RosterError, "not the pinned"),
        (swap_a_key_in_the_roster, RosterError, "not the pinned"),
        (spoil_the_roster, RosterError, "not the pinned"),
        (lose_the_roster, RosterError, "there is no such roster"),
        (open_a_key("sign_key", 0o640), KeyFileError, "can be reached by other users"),
        (open_a_key("seal_key", 0o604), KeyFileError, "can be reached by other users"),
        (open_a_key("seal_key", 0o620), KeyFileError, "can be reached by other users"),
        (lose_a_key, KeyFileError, "cannot be read"),
        (name_a_folder, KeyFileError, "is not a file"),
        (exchange_the_purposes, KeyFormatError, "must be a fedsteph-sign-secret-v1"),
        (other_keys, MembershipError, "the roster has other keys under the name a"),
        (other_sign_key, MembershipError, "the roster has other keys under the name a"),
        (other_seal_key, MembershipError, "the roster has other keys under the name a"),
        (not_listed, MembershipError, "the roster has no entry under the name a"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_each_fault_has_its_own_refusal(tmp_path, fault, error, said):
    file = fault(tmp_path, write_membership(tmp_path, "a", ROSTER))
    with pytest.raises(FedstephError) as caught:
        opened(tmp_path, file)
    assert type(caught.value) is error and said in str(caught.value)


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
