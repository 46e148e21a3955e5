"""The audit log: every edit, cut and reordering is found, and a crash at any moment loses and breaks nothing."""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import json
import random
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from each_case import each

from fedsteph.common.errors import AuditError
from fedsteph.common.host import atomic
from fedsteph.common.trust import audit_log
from fedsteph.common.trust.audit_log import FILE, HEAD_FILE, AuditLog, Event, Line, read_lines, verify

ROOT = Path(__file__).resolve().parents[3]
START = "0" * 64
EVENTS = [
    Event("run.started", run="run-1"),
    Event("vector.sealed", "allowed", "run-1", "site-b", "a" * 64, 4_701_400),
    Event("vector.refused", "refused", "run-1", "site-c", reason="TargetPolicyError"),
    Event("envelope.opened", "allowed", "run-1", "site-b", "b" * 64, 4_701_400),
    Event("run.ended", "failed", "run-1", reason="é\u2028\U0001f600 \\ \" '"),
]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    log = AuditLog(found := tmp_path_factory.mktemp("written"))
    for event in EVENTS:
        log.append(event)
    return found


@pytest.fixture
def folder(written: Path, tmp_path: Path) -> Path:
    """A log of five lines, to be changed."""
    return Path(shutil.copytree(written, tmp_path / "audit"))


def raw(folder: Path) -> list[bytes]:
    return (folder / FILE).read_bytes().splitlines(keepends=True)


def store(folder: Path, lines: list[bytes]) -> None:
    (folder / FILE).write_bytes(b"".join(lines))


def forged(number: int, event: Event, previous: str, time: str = "2026-01-31T12:00:00.000+00:00") -> tuple[bytes, str]:
    """A line that holds together by itself, written without the log's code, and its hash."""
    fields = {"number": number, "time": time, "event": dataclasses.asdict(event)}
    content = json.dumps(fields | {"previous": previous}, sort_keys=True, separators=(",", ":"))
    digest = hashlib.sha256(b"fedsteph/v1/audit\n" + content.encode()).hexdigest()
    line = json.dumps(fields | {"previous": previous, "hash": digest}, separators=(",", ":"))
    return line.encode() + b"\n", digest


def chain(events: list[Event]) -> list[bytes]:
    """A whole forged log."""
    lines, previous = [], START
    for number, event in enumerate(events, start=1):
        line, previous = forged(number, event, previous)
        lines.append(line)
    return lines


def test_a_log_holds_together(folder: Path) -> None:
    found = list(read_lines(folder))
    assert [line.event for line in found] == EVENTS and [line.number for line in found] == [1, 2, 3, 4, 5]
    assert [line.previous for line in found] == [START, *(line.hash for line in found[:-1])]
    verdict = verify(folder)
    assert (verdict.lines, verdict.head, verdict.torn_bytes) == (5, found[-1].hash, 0)
    assert AuditLog(folder).head == found[-1].hash and (folder / HEAD_FILE).read_text() == f"5 {found[-1].hash}\n"
    times = [line.time for line in found]
    assert times == sorted(times)
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00", time) for time in times)


def test_append_returns_the_hash(tmp_path: Path) -> None:
    log = AuditLog(tmp_path)
    assert log.head == START
    hashes = [log.append(event) for event in EVENTS]
    assert hashes == [line.hash for line in read_lines(tmp_path)] and len(set(hashes)) == len(EVENTS)


def test_the_hashes_are_as_documented(folder: Path) -> None:
    """The same lines, built without the log's code, are the same bytes."""
    for line, content in zip(read_lines(folder), raw(folder), strict=True):
        assert forged(line.number, line.event, line.previous, line.time) == (content, line.hash)


def test_no_log_is_an_empty_one(tmp_path: Path) -> None:
    verdict = verify(tmp_path / "none")
    assert (verdict.lines, verdict.head, verdict.torn_bytes) == (0, START, 0)
    assert list(read_lines(tmp_path / "none")) == [] and not (tmp_path / "none").exists()


def test_every_edited_byte_is_found_and_its_line_named(folder: Path) -> None:
    """Every third byte of the lines, replaced by another, and each end of a line."""
    rng = random.Random(0)
    whole = (folder / FILE).read_bytes()
    ends = [position for position, byte in enumerate(whole) if byte == 10]
    for position in sorted({*range(0, len(whole), 3), *ends}):
        byte = whole[position]
        number = whole[:position].count(b"\n") + 1
        changed = rng.choice([byte ^ 1 << rng.randrange(8), rng.choice([b for b in b' 09af"{}\n' if b != byte])])
        (folder / FILE).write_bytes(whole[:position] + bytes([changed]) + whole[position + 1 :])
        with pytest.raises(AuditError) as caught:
            verify(folder)
        # The last line's end is taken for a crash's, which the head contradicts.
        named = str(folder / FILE) if position == len(whole) - 1 else f"{folder / FILE}, line {number}"
        assert caught.value.where == named
    (folder / FILE).write_bytes(whole)
    assert verify(folder).lines == 5


@pytest.mark.parametrize("number", [1, 3, 5])
def test_a_deleted_or_inserted_byte_is_found(folder: Path, number: int) -> None:
    lines = raw(folder)
    for position in [*range(0, len(lines[number - 1]), 5), len(lines[number - 1]) - 1]:
        line = lines[number - 1]
        for changed in (line[:position] + line[position + 1 :], line[:position] + b" " + line[position:]):
            store(folder, [*lines[: number - 1], changed, *lines[number:]])
            with pytest.raises(AuditError):
                verify(folder)


@pytest.mark.parametrize("field", ["number", "time", "event", "previous", "hash"])
@pytest.mark.parametrize("number", [1, 3, 5])
def test_an_edited_field_is_found(folder: Path, field: str, number: int) -> None:
    lines = raw(folder)
    fields = json.loads(lines[number - 1])
    fields[field] = {
        "number": number + 1,
        "time": "2026-01-31T12:00:00.000+00:00",
        "event": fields["event"] | {"decision": "noted", "peer": "site-q"},
        "previous": "1" * 64,
        "hash": "2" * 64,
    }[field]
    lines[number - 1] = json.dumps(fields, separators=(",", ":")).encode() + b"\n"
    store(folder, lines)
    with pytest.raises(AuditError, match="was edited") as caught:
        verify(folder)
    assert caught.value.where == f"{folder / FILE}, line {number}"


def _dropped(number: int) -> Callable[[list[bytes]], list[bytes]]:
    return lambda lines: lines[: number - 1] + lines[number:]


def _swapped(number: int) -> Callable[[list[bytes]], list[bytes]]:
    return lambda lines: [*lines[: number - 1], lines[number], lines[number - 1], *lines[number + 1 :]]


def _doubled(number: int) -> Callable[[list[bytes]], list[bytes]]:
    return lambda lines: [*lines[:number], lines[number - 1], *lines[number:]]


def _inserted(number: int) -> Callable[[list[bytes]], list[bytes]]:
    """A line that fits the one before it and holds together: the one after it gives it away."""

    def insert(lines: list[bytes]) -> list[bytes]:
        previous = json.loads(lines[number - 2])["hash"] if number > 1 else START
        return [*lines[: number - 1], forged(number, Event("forged"), previous)[0], *lines[number - 1 :]]

    return insert


def _replaced(number: int) -> Callable[[list[bytes]], list[bytes]]:
    def replace(lines: list[bytes]) -> list[bytes]:
        fields = json.loads(lines[number - 1])
        line, _ = forged(number, Event(**(fields["event"] | {"decision": "noted"})), fields["previous"])
        return [*lines[: number - 1], line, *lines[number:]]

    return replace


def _with(line: bytes, number: int, lines: list[bytes]) -> list[bytes]:
    return [*lines[: number - 1], line, *lines[number - 1 :]]


def _overlong(length: int, number: int) -> Callable[[list[bytes]], list[bytes]]:
    """Rubbish without an end of its own: the line after it is swallowed."""
    return lambda lines: _with(b"x" * length, number, lines)


@each(
    ("change", "line"),
    [
        (_dropped(1), ", line 1"),
        (_dropped(2), ", line 2"),
        (_dropped(3), ", line 3"),
        (_dropped(4), ", line 4"),
        (_dropped(5), ""),
        (lambda lines: lines[:3], ""),
        (lambda lines: lines[:1], ""),
        (lambda lines: [], ""),
        (lambda lines: lines[::-1], ", line 1"),
        (_swapped(1), ", line 1"),
        (_swapped(2), ", line 2"),
        (_swapped(4), ", line 4"),
        (_doubled(1), ", line 2"),
        (_doubled(3), ", line 4"),
        (_doubled(5), ", line 6"),
        (_inserted(1), ", line 2"),
        (_inserted(3), ", line 4"),
        (_inserted(5), ", line 6"),
        (_replaced(1), ", line 2"),
        (_replaced(4), ", line 5"),
        (_replaced(5), ""),
        (lambda lines: lines + chain([Event("x")] * 2), ", line 6"),
        (lambda lines: [*lines, forged(7, Event("x"), json.loads(lines[-1])["hash"])[0]], ", line 6"),
        (lambda lines: [*lines[:2], b"\n", *lines[2:]], ", line 3"),
        (lambda lines: [b"\n", *lines], ", line 1"),
        (lambda lines: [*lines[:2], b"{}\n", *lines[2:]], ", line 3"),
        (lambda lines: [*lines[:2], b"[" * 5000 + b"\n", *lines[2:]], ", line 3"),
        (lambda lines: [*lines[:2], b"9" * 5000 + b"\n", *lines[2:]], ", line 3"),
        (lambda lines: [*lines[:2], b"\xff\xfe\n", *lines[2:]], ", line 3"),
        (lambda lines: [*lines[:2], b"x" * 20_000 + b"\n", *lines[2:]], ", line 3"),
        *((_overlong(length, at), f", line {at}") for length in (8191, 8192, 8193, 9000, 16_384) for at in (1, 3, 5)),
        (_overlong(9000, 6), ", line 6"),
        (lambda lines: [b"".join(lines)[:-1].replace(b"\n", b" ") * 8], ", line 1"),
        (lambda lines: chain(EVENTS), ""),
        (lambda lines: chain([Event("all is well")] * 5), ""),
        (lambda lines: chain([Event("all is well")] * 4), ""),
        (lambda lines: chain([Event("all is well")] * 6), ""),
    ],
)
def test_dropped_added_reordered_and_rewritten_lines_are_found(written, folder, change, line) -> None:
    store(folder, change(raw(written)))
    with pytest.raises(AuditError) as caught:
        verify(folder)
    assert caught.value.where == f"{folder / FILE}{line}" and "compare with a backup" in str(caught.value.remedy)


@each("length", [8191, 8192, 8193, 9000, 16_384, 20_000])
@each("number", [1, 3, 4, 5])
@each("end", [b"", b"\n"])
def test_an_append_does_not_hide_an_overlong_line(written, tmp_path, length, number, end) -> None:
    """It refuses, or, as it reads the log's end alone, adds its line behind all that is there."""
    folder = Path(shutil.copytree(written, tmp_path / "audit", dirs_exist_ok=True))
    store(folder, _with(b"x" * length + end, number, raw(folder)))
    before = (folder / FILE).read_bytes()
    try:
        AuditLog(folder).append(EVENTS[0])
    except AuditError:
        assert (folder / FILE).read_bytes() == before
    assert (folder / FILE).read_bytes().startswith(before)
    with pytest.raises(AuditError) as caught:
        verify(folder)
    assert caught.value.where == f"{folder / FILE}, line {number}"


@pytest.mark.parametrize("length", [8193, 9000, 16_382, 16_383, 16_384, 20_000])
def test_an_overlong_end_is_named_and_nothing_is_added_to_it(folder: Path, length: int) -> None:
    """No crash leaves it, so it is evidence and stays."""
    lines = raw(folder)
    store(folder, [*lines, b"x" * length])
    before = (folder / FILE).read_bytes()
    with pytest.raises(AuditError, match="is not a line of an audit log") as caught:
        verify(folder)
    assert caught.value.where == f"{folder / FILE}, line 6"
    with pytest.raises(AuditError, match="line 6"):
        list(read_lines(folder))
    with pytest.raises(AuditError, match="is too long for a line"):
        AuditLog(folder).append(EVENTS[0])
    assert (folder / FILE).read_bytes() == before


def test_a_log_that_is_gone_is_found(folder: Path) -> None:
    (folder / FILE).unlink()
    with pytest.raises(AuditError, match="dropped or changed"):
        verify(folder)
    with pytest.raises(AuditError, match="dropped or changed"):
        AuditLog(folder).append(EVENTS[0])


def test_a_head_that_is_gone_is_found(folder: Path) -> None:
    (folder / HEAD_FILE).unlink()
    with pytest.raises(AuditError, match="is missing") as caught:
        verify(folder)
    assert caught.value.where == str(folder / HEAD_FILE)
    with pytest.raises(AuditError, match="is missing"):
        AuditLog(folder).append(EVENTS[0])


@pytest.mark.parametrize("kept", [0, 1, 2, 4])
@pytest.mark.parametrize("torn", [b"", b'{"number":'])
def test_nor_is_a_short_log_without_its_head_the_trace_of_a_crash(tmp_path: Path, kept: int, torn: bytes) -> None:
    """The head is on the disk before the first line, so nobody can make a log begin anew and look whole."""
    store(tmp_path, [*chain(EVENTS[:kept]), torn])
    for use in (verify, lambda folder: AuditLog(folder).append(EVENTS[0]), lambda folder: AuditLog(folder).head):
        with pytest.raises(AuditError, match="is missing") as caught:
            use(tmp_path)
        assert caught.value.where == str(tmp_path / HEAD_FILE)
    assert (tmp_path / FILE).read_bytes() == b"".join([*chain(EVENTS[:kept]), torn])
    assert not (tmp_path / HEAD_FILE).exists()


@pytest.mark.parametrize(
    "head", ["", "5", "rubbish", "\ufffd", "4 {4}", "6 {5}", "5 {4}", "3 {3}", "0 " + START, "5 {5} 5"]
)
def test_a_head_that_does_not_fit_is_found(folder: Path, head: str) -> None:
    """But for one line behind, at which a crash may leave it: that one is accepted."""
    hashes = [START, *(line.hash for line in read_lines(folder))]
    (folder / HEAD_FILE).write_text(head.format(*hashes), encoding="utf-8")
    if head == "4 {4}":
        assert verify(folder).lines == 5
    else:
        with pytest.raises(AuditError, match="dropped or changed"):
            verify(folder)


@pytest.mark.parametrize(
    "change", [_dropped(5), _replaced(5), lambda lines: [*lines[:-1], b"rubbish\n"], lambda lines: []]
)
def test_nothing_is_added_to_an_end_that_does_not_hold(folder, change) -> None:
    store(folder, change(raw(folder)))
    before = (folder / FILE).read_bytes()
    with pytest.raises(AuditError):
        AuditLog(folder).append(EVENTS[0])
    assert (folder / FILE).read_bytes() == before


# Crashes


class Crash(BaseException):
    """The machine loses its power."""


def crash_before_head(folder: Path, event: Event, monkeypatch: pytest.MonkeyPatch) -> bytes:
    """Append with the line on the disk and the head not; returns the line."""

    before = raw(folder) if (folder / FILE).exists() else None
    write_text = atomic.write_text

    def crash(path: Path, text: str) -> None:
        if (folder / FILE).exists() and raw(folder) != before:
            raise Crash
        write_text(path, text)  # the head that is written before the very first line

    with monkeypatch.context() as patch:
        patch.setattr(atomic, "write_text", crash)
        with pytest.raises(Crash):
            AuditLog(folder).append(event)
    return raw(folder)[-1]


@pytest.mark.parametrize("lines_before", [0, 2])
def test_a_crash_in_the_middle_of_a_line_is_mended(tmp_path, monkeypatch, lines_before) -> None:
    """At every third byte of the line; the head was not written yet. Every whole line stays."""
    log = AuditLog(tmp_path)
    for event in EVENTS[:lines_before]:
        log.append(event)
    before, head = raw(tmp_path) if lines_before else [], log.head
    monkeypatch.setattr(audit_log.os, "fsync", lambda handle: None)  # some 100 crashes; the disk is not what is tested
    torn = crash_before_head(tmp_path, EVENTS[1], monkeypatch)[:-1]
    head_file = (tmp_path / HEAD_FILE).read_text()
    assert head_file == f"{lines_before} {head}\n"
    for length in (*range(1, len(torn), 3), len(torn)):
        store(tmp_path, [*before, torn[:length]])
        (tmp_path / HEAD_FILE).write_text(head_file)
        verdict = verify(tmp_path)
        assert (verdict.lines, verdict.head, verdict.torn_bytes) == (lines_before, head, length)
        log.append(EVENTS[2])
        assert verify(tmp_path).lines == lines_before + 2 and raw(tmp_path)[:lines_before] == before
        mended, last = (json.loads(line) for line in raw(tmp_path)[-2:])
        assert (mended["event"]["event"], mended["previous"]) == ("audit.mended", head)
        assert last["event"] == dataclasses.asdict(EVENTS[2])


@pytest.mark.parametrize("lines_before", [0, 1, 5])
def test_a_crash_between_line_and_head_loses_nothing(tmp_path, monkeypatch, lines_before) -> None:
    log = AuditLog(tmp_path)
    for event in EVENTS[:lines_before]:
        log.append(event)
    line = crash_before_head(tmp_path, EVENTS[1], monkeypatch)
    assert verify(tmp_path).lines == lines_before + 1
    log.append(EVENTS[2])
    assert verify(tmp_path).lines == lines_before + 2 and raw(tmp_path)[lines_before] == line
    assert [found.event for found in read_lines(tmp_path)] == [*EVENTS[:lines_before], EVENTS[1], EVENTS[2]]


def test_a_crash_before_the_very_first_line_leaves_an_empty_log(tmp_path, monkeypatch) -> None:
    """Without a file, with the head alone, and with the log opened and not yet written."""

    def crash(*_: object) -> None:
        raise Crash

    log = AuditLog(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(atomic, "write_text", crash)
        with pytest.raises(Crash):
            log.append(EVENTS[0])
    assert verify(tmp_path).lines == 0 and not (tmp_path / FILE).exists()
    with monkeypatch.context() as patch:
        patch.setattr(AuditLog, "_write", crash)
        with pytest.raises(Crash):
            log.append(EVENTS[0])
    assert (tmp_path / HEAD_FILE).read_text() == f"0 {START}\n" and not (tmp_path / FILE).exists()
    assert (verify(tmp_path).lines, log.head) == (0, START)
    (tmp_path / FILE).touch()
    assert (verify(tmp_path).lines, log.head) == (0, START)
    log.append(EVENTS[0])
    assert [line.event for line in read_lines(tmp_path)] == EVENTS[:1] and verify(tmp_path).lines == 1


@pytest.mark.parametrize(("lines_before", "heads_left"), [(0, 0), (0, 1), (1, 0), (5, 0)])
def test_a_disk_that_stays_full_under_the_head_breaks_nothing(tmp_path, monkeypatch, lines_before, heads_left) -> None:
    """The head falls one line behind and never two: while it cannot be written, nothing more is added.

    Before the very first line a head is written as well: without room for it, there is no line at all.
    """
    log = AuditLog(tmp_path)
    for event in EVENTS[:lines_before]:
        log.append(event)
    kept = EVENTS[:lines_before] + (EVENTS[1:2] if lines_before or heads_left else [])
    room, write_text = [None] * heads_left, atomic.write_text

    def full(path: Path, text: str) -> None:
        if not room:
            raise OSError(errno.ENOSPC, "No space left on device")
        room.pop()
        write_text(path, text)

    with monkeypatch.context() as patch:
        patch.setattr(audit_log.atomic, "write_text", full)
        for event in EVENTS[1:4]:
            with pytest.raises(OSError, match="No space left"):
                log.append(event)
            assert verify(tmp_path).lines == len(kept)
    log.append(EVENTS[4])
    assert verify(tmp_path).lines == len(kept) + 1
    assert [line.event for line in read_lines(tmp_path)] == [*kept, EVENTS[4]]
    assert (tmp_path / HEAD_FILE).read_text() == f"{len(kept) + 1} {log.head}\n"


def test_a_crash_while_mending_is_mended(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with (folder / FILE).open("ab") as file:
        file.write(b'{"number":6,"ti')
    crash_before_head(folder, EVENTS[0], monkeypatch)
    assert [line.event.event for line in read_lines(folder)][5:] == ["audit.mended"]
    AuditLog(folder).append(EVENTS[0])
    assert [line.event.event for line in read_lines(folder)][5:] == ["audit.mended", "run.started"]
    assert verify(folder).lines == 7


def test_a_torn_line_that_the_head_knows_is_no_crash(folder: Path) -> None:
    """The head is written after the whole line, so somebody else has cut it."""
    lines = raw(folder)
    for length in [*range(0, len(lines[-1]), 7), len(lines[-1]) - 2, len(lines[-1]) - 1]:
        store(folder, [*lines[:-1], lines[-1][:length]])
        with pytest.raises(AuditError, match="dropped or changed"):
            verify(folder)
        with pytest.raises(AuditError, match="dropped or changed"):
            AuditLog(folder).append(EVENTS[0])


def test_rubbish_behind_the_last_line_is_reported_and_mended(folder: Path) -> None:
    with (folder / FILE).open("ab") as file:
        file.write(b"\xff{[rubbish")
    assert verify(folder).torn_bytes == 10
    AuditLog(folder).append(EVENTS[0])
    assert verify(folder).torn_bytes == 0
    assert next(line.event.reason for line in list(read_lines(folder))[5:]) == "a line that a crash cut off was removed"


# Events of any size


@pytest.mark.parametrize("letter", ["x", "é", "\0", '"'])
def test_an_event_that_no_line_can_hold_is_refused(folder: Path, letter: str) -> None:
    before = (folder / FILE).read_bytes(), (folder / HEAD_FILE).read_bytes()
    with pytest.raises(AuditError, match="takes more than 8192 bytes"):
        AuditLog(folder).append(Event("run.ended", reason=letter * 8192))
    assert ((folder / FILE).read_bytes(), (folder / HEAD_FILE).read_bytes()) == before
    AuditLog(folder).append(EVENTS[0])
    assert verify(folder).lines == 6


def test_the_longest_event_is_kept_whole(folder: Path) -> None:
    AuditLog(folder).append(Event("run.ended", reason=""))
    longest = Event("run.ended", reason="x" * (8192 - len(raw(folder)[-1])))
    AuditLog(folder).append(longest)
    assert len(raw(folder)[-1]) == 8192
    with pytest.raises(AuditError, match="takes more than 8192 bytes"):
        AuditLog(folder).append(dataclasses.replace(longest, reason=f"{longest.reason}x"))
    AuditLog(folder).append(EVENTS[0])
    assert verify(folder).lines == 8 and [line.event for line in read_lines(folder)][6:] == [longest, EVENTS[0]]


# A hash that is known elsewhere


def test_a_hash_that_is_known_elsewhere_is_found(folder: Path) -> None:
    for line in read_lines(folder):
        assert verify(folder, line.hash).lines == 5
    assert verify(folder, START).lines == 5


@pytest.mark.parametrize("expected", ["1" * 64, "", "rubbish"])
def test_a_hash_that_no_line_has_is_reported(folder: Path, expected: str) -> None:
    with pytest.raises(AuditError, match="no line has the hash"):
        verify(folder, expected)


@pytest.mark.parametrize("kept", [0, 3, 5])
def test_a_history_forged_whole_fails_against_a_hash_known_elsewhere(folder: Path, kept: int) -> None:
    """The attack that the chain alone cannot see: log and head rewritten together, from some line on."""
    known = verify(folder).head
    events = [*EVENTS[:kept], *([Event("all is well")] * (5 - kept))]
    lines = chain(events)
    store(folder, lines)
    (folder / HEAD_FILE).write_text(f"5 {json.loads(lines[-1])['hash']}\n")
    assert verify(folder).lines == 5
    with pytest.raises(AuditError, match=f"no line has the hash {known}: the log was rewritten or cut"):
        verify(folder, known)


# Several at a time

WRITER = """
import sys
from pathlib import Path
from fedsteph.common.trust.audit_log import AuditLog, Event
log = AuditLog(Path(sys.argv[1]))
for i in range(25):
    log.append(Event(f"event.{i}", peer=sys.argv[2]))
"""


def test_processes_that_append_at_the_same_time_leave_one_chain(tmp_path: Path) -> None:
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path), f"site-{i}"], cwd=ROOT, stderr=subprocess.PIPE)
        for i in range(3)
    ]
    errors = [writer.communicate(timeout=60)[1] for writer in writers]
    assert [writer.returncode for writer in writers] == [0, 0, 0], errors
    assert verify(tmp_path).lines == 75
    found = list(read_lines(tmp_path))
    for i in range(3):
        own = [line.event.event for line in found if line.event.peer == f"site-{i}"]
        assert own == [f"event.{k}" for k in range(25)]


def test_two_logs_of_one_folder_take_turns(tmp_path: Path) -> None:
    first, second = AuditLog(tmp_path), AuditLog(tmp_path)
    for event in EVENTS:
        first.append(event)
        second.append(event)
    assert verify(tmp_path).lines == 10 and first.head == second.head


def test_a_long_log_is_appended_to_by_its_end_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Long enough for the end to begin in the middle of a line."""
    monkeypatch.setattr(audit_log.os, "fsync", lambda handle: None)
    log = AuditLog(tmp_path)
    for i in range(120):
        log.append(Event(f"event.{i}", reason="x" * (i % 60)))
    assert (tmp_path / FILE).stat().st_size > 4 * 8192 and verify(tmp_path).lines == 120


def test_a_line_is_chosen_field_by_field() -> None:
    """So that one more is a decision: no path, no patient, no count, no score."""
    assert [field.name for field in dataclasses.fields(Line)] == ["number", "time", "event", "previous", "hash"]
    names = ["event", "decision", "run", "peer", "artefact", "size", "reason"]
    assert [field.name for field in dataclasses.fields(Event)] == names
