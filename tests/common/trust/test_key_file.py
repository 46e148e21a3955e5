"""Secret key files: readable by their owner only, never overwritten, and refused where others could read them."""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path

import pytest

from fedsteph.common.errors import FedstephError, KeyFileError, KeyFormatError
from fedsteph.common.trust import key_file
from fedsteph.common.trust.key_file import read_identity, require_private, write_identity
from fedsteph.common.trust.keys import SEAL_SECRET, SIGN_SECRET, Identity, encode

IDENTITY = Identity.generate()
OTHER = Identity.generate()
SECRETS = (IDENTITY.sign_seed, IDENTITY.seal_seed)


@pytest.fixture
def paths(tmp_path: Path) -> tuple[Path, Path]:
    return write_identity(tmp_path / "keys", "site-a", IDENTITY)


def assert_no_secret(shown: str) -> None:
    for kind, seed in zip((SIGN_SECRET, SEAL_SECRET), SECRETS, strict=True):
        body = encode(kind, seed).partition(":")[2]
        assert not any(body[start : start + 12] in shown for start in range(0, len(body) - 11, 4))
        assert seed.hex()[:24] not in shown


def test_round_trip(paths: tuple[Path, Path]) -> None:
    assert [path.name for path in paths] == ["site-a.sign.key", "site-a.seal.key"] and read_identity(*paths) == IDENTITY
    assert read_identity(*paths).public == IDENTITY.public


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077, 0o177, 0o777])
def test_files_are_for_their_owner_only_whatever_the_umask(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        written = write_identity(tmp_path, "site-a", IDENTITY)
    finally:
        os.umask(before)
    assert [stat.S_IMODE(path.stat().st_mode) for path in written] == [0o600, 0o600]
    assert read_identity(*written) == IDENTITY


def test_a_new_folder_is_for_its_owner_only(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        write_identity(tmp_path / "keys", "site-a", IDENTITY)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "keys").stat().st_mode) == 0o700


def test_the_file_is_never_open_to_others_while_it_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An attack that watches: the mode at the moment of each write and sync."""
    modes = []
    real = os.fsync

    def fsync(handle: int) -> None:
        modes.append(stat.S_IMODE(os.fstat(handle).st_mode))
        real(handle)

    opened = []
    real_open = os.open

    def watched_open(path: str | Path, flags: int, mode: int = 0o777, **more: int | None) -> int:
        handle = real_open(path, flags, mode, **more)
        opened.append((stat.S_IMODE(os.fstat(handle).st_mode), os.fstat(handle).st_size, flags & os.O_EXCL))
        return handle

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(key_file.os, "open", watched_open)
    before = os.umask(0)
    try:
        write_identity(tmp_path, "site-a", IDENTITY)
    finally:
        os.umask(before)
    assert modes == [0o600, 0o600] and opened == [(0o600, 0, os.O_EXCL)] * 2


@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644, 0o660, 0o602, 0o620, 0o601, 0o610, 0o666, 0o777, 0o440])
def test_a_file_that_others_can_reach_is_refused(paths: tuple[Path, Path], which: int, mode: int) -> None:
    paths[which].chmod(mode)
    with pytest.raises(KeyFileError, match=rf"can be reached by other users \(mode {mode:04o}\)") as caught:
        read_identity(*paths)
    assert caught.value.where == str(paths[which]) and f"chmod 600 {paths[which]}" in str(caught.value.remedy)
    assert "rotate" in str(caught.value.remedy)
    assert_no_secret(str(caught.value))


@pytest.mark.parametrize("mode", [0o600, 0o400, 0o700])
def test_a_file_that_only_its_owner_can_reach_is_read(paths: tuple[Path, Path], mode: int) -> None:
    for path in paths:
        path.chmod(mode)
    assert read_identity(*paths) == IDENTITY


def test_another_users_file_is_refused(paths: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    if os.geteuid() == 0:
        for path in paths:
            os.chown(path, 54_321, -1)
    owner = paths[0].stat().st_uid
    monkeypatch.setattr(os, "geteuid", lambda: owner + 1)
    with pytest.raises(KeyFileError, match="belongs to another user") as caught:
        read_identity(*paths)
    assert caught.value.where == str(paths[0])
    monkeypatch.setattr(os, "geteuid", lambda: owner)
    require_private(paths[0])


@pytest.mark.parametrize("existing", ["site-a.sign.key", "site-a.seal.key"])
@pytest.mark.parametrize("content", [b"", b"the only copy of somebody's key"])
def test_an_existing_file_is_never_overwritten(tmp_path: Path, existing: str, content: bytes) -> None:
    (tmp_path / existing).write_bytes(content)
    with pytest.raises(KeyFileError, match="exists already") as caught:
        write_identity(tmp_path, "site-a", IDENTITY)
    assert caught.value.where == str(tmp_path / existing)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {existing: content}


def test_the_same_keys_are_not_written_twice_either(paths: tuple[Path, Path]) -> None:
    before = [path.read_bytes() for path in paths]
    with pytest.raises(KeyFileError, match="exists already"):
        write_identity(paths[0].parent, "site-a", OTHER)
    assert [path.read_bytes() for path in paths] == before


@pytest.mark.parametrize("name", ["site-a.sign.key", "site-a.seal.key"])
def test_a_planted_symbolic_link_does_not_lead_the_secret_elsewhere(tmp_path: Path, name: str) -> None:
    """An attack: a link to a file that does not exist yet, in a folder that the attacker reads."""
    elsewhere = tmp_path / "public" / "stolen"
    elsewhere.parent.mkdir()
    folder = tmp_path / "keys"
    folder.mkdir()
    (folder / name).symlink_to(elsewhere)
    with pytest.raises((KeyFileError, FileExistsError)):
        write_identity(folder, "site-a", IDENTITY)
    assert not elsewhere.exists()


def test_a_symbolic_link_is_judged_by_what_it_leads_to(paths: tuple[Path, Path], tmp_path: Path) -> None:
    link = tmp_path / "link.key"
    link.symlink_to(paths[0])
    assert read_identity(link, paths[1]) == IDENTITY
    paths[0].chmod(0o644)
    with pytest.raises(KeyFileError, match="can be reached by other users"):
        read_identity(link, paths[1])


def test_missing_folder_or_dangling_link_is_refused(paths: tuple[Path, Path], tmp_path: Path) -> None:
    dangling = tmp_path / "dangling.key"
    dangling.symlink_to(tmp_path / "nowhere")
    for path in (tmp_path / "no.key", tmp_path / "no" / "no.key", dangling, paths[0] / "below-a-file"):
        with pytest.raises(KeyFileError, match="cannot be read") as caught:
            read_identity(path, paths[1])
        assert caught.value.where == str(path)


def test_what_is_no_regular_file_is_refused(paths: tuple[Path, Path], tmp_path: Path) -> None:
    folder = tmp_path / "folder.key"
    folder.mkdir(mode=0o700)
    pipe = tmp_path / "pipe.key"
    os.mkfifo(pipe, 0o600)
    for path in (folder, pipe, Path(os.devnull)):
        with pytest.raises(KeyFileError, match="is not a file"):
            require_private(path)
    with pytest.raises(KeyFileError, match="is not a file"):
        read_identity(folder, paths[1])


def test_the_halves_cannot_be_exchanged(paths: tuple[Path, Path]) -> None:
    with pytest.raises(KeyFormatError, match=f"must be a {SIGN_SECRET}, and is {SEAL_SECRET}") as caught:
        read_identity(paths[1], paths[0])
    assert caught.value.where == str(paths[1])
    with pytest.raises(KeyFormatError, match=f"must be a {SEAL_SECRET}, and is {SIGN_SECRET}"):
        read_identity(paths[0], paths[0])


SIGN_LINE = encode(SIGN_SECRET, IDENTITY.sign_seed)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "must hold one key"),
        (b"# only a comment\n", "must hold one key"),
        (f"{SIGN_LINE}\n{SIGN_LINE}\n".encode(), "must hold one key"),
        (f"{SIGN_LINE}\n{encode(SIGN_SECRET, OTHER.sign_seed)}\n".encode(), "must hold one key"),
        (f"{SIGN_LINE}\n{encode(SEAL_SECRET, IDENTITY.seal_seed)}\n".encode(), "must hold one key"),
        (f"{SIGN_LINE}\n  # indented\n".encode(), "must hold one key"),
        (f"{SIGN_LINE[:40]}\n{SIGN_LINE[40:]}\n".encode(), "must hold one key"),
        (f"#{SIGN_LINE}\n".encode(), "must hold one key"),
        (f" {SIGN_LINE}\n".encode(), "must be a"),
        (f"{SIGN_LINE} \n".encode(), "is damaged"),
        (IDENTITY.public.sign_text.encode(), "must be a"),
        (b"-----BEGIN PRIVATE KEY-----\n", "must be a"),
        (f"# é\n{SIGN_LINE}\n".encode(), "cannot be read as a key file"),
        (b"\xff\xfe\x00", "cannot be read as a key file"),
        (IDENTITY.sign_seed + b"\x80", "cannot be read as a key file"),
    ],
    ids=[
        "empty",
        "comment alone",
        "twice",
        "two keys",
        "two kinds",
        "indented comment",
        "broken line",
        "commented out",
        "space before",
        "space after",
        "public",
        "PEM",
        "not ASCII",
        "not UTF-8",
        "bytes",
    ],
)
def test_a_file_that_is_not_one_key_is_refused_and_not_repeated(paths, content, said) -> None:
    paths[0].write_bytes(content)
    with pytest.raises((KeyFileError, KeyFormatError), match=re.escape(said)) as caught:
        read_identity(*paths)
    assert isinstance(caught.value, FedstephError) and caught.value.where == str(paths[0])
    assert_no_secret(str(caught.value))


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_comments_and_empty_lines_are_allowed_around_the_key(paths: tuple[Path, Path], newline: str) -> None:
    paths[0].write_bytes(newline.join(["", "# mine", "", SIGN_LINE, "# end", ""]).encode())
    assert read_identity(*paths) == IDENTITY


def test_the_header_says_what_the_file_is_and_holds_no_secret(paths: tuple[Path, Path]) -> None:
    for path, purpose in zip(paths, ("sign as site-a", "open what is sealed to site-a"), strict=True):
        lines = path.read_text().splitlines()
        header, keys = "\n".join(lines[:-1]), [line for line in lines if not line.startswith("#")]
        assert keys == lines[-1:] and header.startswith(f"# fedsteph SECRET key to {purpose}. It stays at this site")
        assert re.search(r"^# made \d{4}-\d{2}-\d{2}; ", header, re.MULTILINE)
        assert f"fingerprint of the public halves {IDENTITY.public.fingerprint}" in header
        assert_no_secret(header)
        with pytest.raises(AssertionError):
            assert_no_secret(lines[-1])


def test_each_file_holds_one_purpose_only(paths: tuple[Path, Path]) -> None:
    sign, seal = (path.read_text() for path in paths)
    assert SEAL_SECRET not in sign and SIGN_SECRET not in seal and encode(SEAL_SECRET, IDENTITY.seal_seed) not in sign
    assert SIGN_LINE not in seal
