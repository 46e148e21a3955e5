"""``fedsteph keys``: what it makes, what it shows, and that no secret half ever reaches the terminal."""

from __future__ import annotations

import json
import stat

import pytest

from fedsteph.common.trust.announcement import read_announcement
from fedsteph.common.trust.key_file import read_identity


@pytest.fixture
def keys(cli, tmp_path):
    """The folder of kirp's new keys."""
    assert cli("keys", "new", "kirp", "--out", tmp_path / "keys")[0] == 0
    return tmp_path / "keys"


def secrets_of(folder):
    """The secret halves' text, as it stands in the files."""
    return [path.read_text().splitlines()[-1].partition(":")[2] for path in folder.glob("*.key")]


def test_new_keys(cli, tmp_path):
    folder = tmp_path / "new" / "keys"
    code, out, err = cli("keys", "new", "kirp", "--out", folder)
    assert (code, err) == (0, "")
    assert sorted(path.name for path in folder.iterdir()) == ["kirp.public.yaml", "kirp.seal.key", "kirp.sign.key"]
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()}
    assert modes == {"kirp.public.yaml": 0o644, "kirp.seal.key": 0o600, "kirp.sign.key": 0o600}
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    identity = read_identity(folder / "kirp.sign.key", folder / "kirp.seal.key")
    announced = read_announcement(folder / "kirp.public.yaml")
    assert (announced.site, announced.keys, announced.replaces) == ("kirp", identity.public, None)
    assert out.splitlines() == [
        f"secret, stay here:  {folder / 'kirp.sign.key'}, {folder / 'kirp.seal.key'}",
        f"public, give away:  {folder / 'kirp.public.yaml'}",
        f"fingerprint:        {identity.public.fingerprint}",
    ]


def test_show(cli, keys):
    code, out, err = cli("keys", "show", keys)
    public = read_announcement(keys / "kirp.public.yaml")
    assert (code, err) == (0, "")
    assert [line.split() for line in out.splitlines()] == [
        ["site", "kirp"],
        ["fingerprint", public.fingerprint],
        ["sign", public.sign],
        ["seal", public.seal],
    ]
    shown = json.loads(cli("keys", "show", keys, "--json")[1])
    assert shown == {"site": "kirp", "sign": public.sign, "seal": public.seal, "fingerprint": public.fingerprint}


def test_what_is_shown_comes_from_the_secret_halves_and_not_from_the_public_file(cli, keys, tmp_path):
    """Whoever swaps the public file does not change what the site reads out on the telephone."""
    genuine = cli("keys", "show", keys)
    cli("keys", "new", "kirp", "--out", tmp_path / "stranger")
    (keys / "kirp.public.yaml").write_bytes((tmp_path / "stranger" / "kirp.public.yaml").read_bytes())
    assert cli("keys", "show", keys) == genuine


def test_rotate(cli, keys, tmp_path):
    before = read_announcement(keys / "kirp.public.yaml")
    kept = {path.name: path.read_bytes() for path in keys.iterdir()}
    code, out, _ = cli("keys", "rotate", keys, "--out", tmp_path / "next")
    after = read_announcement(tmp_path / "next" / "kirp.public.yaml")
    assert code == 0 and after.fingerprint in out and (after.site, after.replaces) == ("kirp", before.fingerprint)
    assert after.sign != before.sign and after.seal != before.seal
    assert {path.name: path.read_bytes() for path in keys.iterdir()} == kept


def test_no_secret_is_ever_printed(cli, keys, tmp_path):
    printed = []
    printed += cli("keys", "new", "kirc", "--out", tmp_path / "more")[1:]
    printed += cli("keys", "show", keys)[1:]
    printed += cli("keys", "show", keys, "--json")[1:]
    printed += cli("keys", "rotate", keys, "--out", tmp_path / "next")[1:]
    printed += cli("keys", "new", "kirp", "--out", keys)[1:]
    (keys / "kirp.sign.key").chmod(0o644)
    printed += cli("keys", "show", keys)[1:]
    secrets = [s for folder in (keys, tmp_path / "next", tmp_path / "more") for s in secrets_of(folder)]
    assert len(set(secrets)) == 6 and not [secret for secret in secrets if secret in "".join(printed)]
    assert "secret-v1" not in "".join(printed)


def test_keys_are_never_overwritten(refused, keys):
    before = {path.name: path.read_bytes() for path in keys.iterdir()}
    for words in (("new", "kirp"), ("rotate", keys)):
        assert "kirp.sign.key: exists already" in refused("keys", *words, "--out", keys)
    assert {path.name: path.read_bytes() for path in keys.iterdir()} == before


@pytest.mark.parametrize("site", ["KIRP", "", "../kirp", "kirp hospital", "x" * 33, "-kirp", "kirp\n"])
def test_a_name_that_is_none(cli, tmp_path, site):
    code, out, err = cli("keys", "new", "--out", tmp_path / "keys", "--", site)
    assert (code, out) == (1, "") and "cannot be a site's name" in err and not (tmp_path / "keys").exists()


@pytest.mark.parametrize(("half", "mode"), [("sign", 0o640), ("seal", 0o604)])
def test_keys_that_others_can_reach_are_refused(refused, keys, tmp_path, mode, half):
    path = keys / f"kirp.{half}.key"
    path.chmod(mode)
    for words in (("show", keys), ("rotate", keys, "--out", tmp_path / "next")):
        told = refused("keys", *words)
        assert told.startswith(f"{path}: can be reached by other users (mode {mode:04o})")
        assert f"chmod 600 {path}" in told
    assert not (tmp_path / "next").exists()


def test_a_folder_without_keys(refused, tmp_path):
    assert "holds no .sign.key" in refused("keys", "show", tmp_path)
    assert "holds no .sign.key" in refused("keys", "show", tmp_path / "absent")


def test_a_folder_with_the_keys_of_two(cli, refused, keys):
    cli("keys", "new", "kirc", "--out", keys)
    assert "holds the keys of 2 sites" in refused("keys", "show", keys)


def test_an_output_that_is_a_file(refused, tmp_path):
    (tmp_path / "keys").write_text("")
    assert refused("keys", "new", "kirp", "--out", tmp_path / "keys").startswith(str(tmp_path / "keys"))


def test_there_is_no_default_place(refused):
    assert "--out" in refused("keys", "new", "kirp")
