"""Sequence numbers that only grow, one remembered per sender's keys, and the run; none of them lost in a crash."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsteph.client.sharing.replay import RECEIVED_FILE, RUNS_FILE, SENT_FILE, accept_once, enter_run, next_sequence
from fedsteph.common.errors import ReplayedEnvelopeError, RunFolderError, StorageError, WrongRunError
from fedsteph.common.host.checked_file import read_json

B, C = "b" * 64, "c" * 64  # fingerprints


def accepted(state: Path, sequence: int, envelope: bytes | None = None, sender: str = B) -> bool:
    try:
        accept_once(state, sender, sequence, envelope if envelope is not None else f"envelope {sequence}".encode())
    except ReplayedEnvelopeError:
        return False
    return True


@pytest.fixture
def full_disk(monkeypatch):
    """No file can be put in place any more, until the fixture's value is called."""

    def fail(source, target):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(target))

    monkeypatch.setattr(os, "replace", fail)
    return monkeypatch.undo


@pytest.fixture
def clock(monkeypatch):
    """The time in milliseconds, which only a test moves."""
    now = SimpleNamespace(ms=1000)
    monkeypatch.setattr("fedsteph.client.sharing.replay.time", SimpleNamespace(time_ns=lambda: now.ms * 1_000_000))
    return now


def test_the_number_grows_and_lies_on_the_disk(tmp_path, clock):
    for ms, expected in ((1000, 1000), (1000, 1001), (1000, 1002), (5000, 5000), (10, 5001), (0, 5002), (5003, 5003)):
        clock.ms = ms  # also a clock that stands still or is put back
        assert next_sequence(tmp_path) == expected and read_json(tmp_path / SENT_FILE) == {"sequence": expected}


def test_a_site_that_lost_its_state_goes_on_above_its_old_numbers(tmp_path, clock):
    old = [next_sequence(tmp_path) for _ in range(3)]
    (tmp_path / SENT_FILE).unlink()
    clock.ms += 1000
    assert next_sequence(tmp_path) > max(old)


def test_a_number_is_on_the_disk_before_it_is_used(tmp_path, clock, full_disk):
    with pytest.raises(StorageError, match="No space"):
        next_sequence(tmp_path)
    assert list(tmp_path.iterdir()) == []
    full_disk()
    assert next_sequence(tmp_path) > 0


def test_a_crash_after_a_number_was_taken_skips_it(tmp_path, clock, monkeypatch):
    """The process dies once the number is on the disk: the next one is another."""
    replace = os.replace

    def then_die(source, target):
        replace(source, target)
        raise KeyboardInterrupt

    first = next_sequence(tmp_path)
    with monkeypatch.context() as dying:
        dying.setattr(os, "replace", then_die)
        with pytest.raises(KeyboardInterrupt):
            next_sequence(tmp_path)
    assert next_sequence(tmp_path) == first + 2


DAMAGED = ["", "{", "[]", "null", "3", '"x"', "\x00"]


@pytest.mark.parametrize("text", [*DAMAGED, "{}", '{"sequence": "2"}', '{"sequence": 2.5}', '{"sequence": true}'])
def test_a_damaged_counter_is_refused_and_not_begun_anew(tmp_path, text):
    (tmp_path / SENT_FILE).write_text(text)
    with pytest.raises(RunFolderError, match="is damaged"):
        next_sequence(tmp_path)
    assert (tmp_path / SENT_FILE).read_text() == text


@pytest.mark.parametrize("kept", [2**63 - 1, 2**63, 2**64, 10**30])
def test_a_counter_that_has_run_out_of_range_gives_no_number(tmp_path, kept):
    text = json.dumps({"sequence": kept})
    (tmp_path / SENT_FILE).write_text(text)
    with pytest.raises(RunFolderError, match="out of range"):
        next_sequence(tmp_path)
    assert (tmp_path / SENT_FILE).read_text() == text


def test_the_last_number_in_range_is_given(tmp_path):
    (tmp_path / SENT_FILE).write_text(json.dumps({"sequence": 2**63 - 2}))
    assert next_sequence(tmp_path) == 2**63 - 1


@pytest.mark.parametrize(
    "text",
    [
        *DAMAGED,
        f'{{"{B}": 3}}',
        f'{{"{B}": {{"sequence": 3}}}}',
        f'{{"{B}": {{"sequence": "3", "sha256": ""}}}}',
        f'{{"{C}": null}}',
    ],
)
def test_a_damaged_memory_is_refused_and_forgets_nothing(tmp_path, text):
    (tmp_path / RECEIVED_FILE).write_text(text)
    with pytest.raises(RunFolderError, match="is damaged"):
        accept_once(tmp_path, B, 99, b"envelope")
    assert (tmp_path / RECEIVED_FILE).read_text() == text


def test_newer_ones_are_accepted_and_older_ones_are_replays(tmp_path):
    assert accepted(tmp_path, 5) and not accepted(tmp_path, 4) and not accepted(tmp_path, 1)
    assert accepted(tmp_path, 7) and not accepted(tmp_path, 5) and not accepted(tmp_path, 6) and accepted(tmp_path, 8)


def test_the_very_same_envelope_again_is_harmless_until_a_later_one_came(tmp_path):
    assert accepted(tmp_path, 5) and accepted(tmp_path, 5)
    assert not accepted(tmp_path, 5, b"another envelope with the same number") and accepted(tmp_path, 6)
    assert not accepted(tmp_path, 5)


def test_new_keys_count_anew_and_senders_do_not_touch_each_other(tmp_path):
    assert accepted(tmp_path, 9) and accepted(tmp_path, 1, sender=C) and not accepted(tmp_path, 8)
    assert not accepted(tmp_path, 1, b"other", sender=C)


def test_an_envelope_that_could_not_be_remembered_is_not_accepted(tmp_path, full_disk):
    with pytest.raises(StorageError, match="No space"):
        accept_once(tmp_path, B, 5, b"envelope")
    full_disk()
    assert list(tmp_path.iterdir()) == [] and accepted(tmp_path, 5)


@settings(max_examples=40)
@given(st.lists(st.tuples(st.sampled_from([B, C]), st.integers(1, 6)), max_size=12))
def test_what_was_accepted_never_falls(tmp_path_factory, arrivals):
    state = tmp_path_factory.mktemp("state")
    newest: dict[str, int] = {}
    for sender, sequence in arrivals:
        expected = sequence >= newest.get(sender, 0)  # the newest one again is the same envelope
        assert accepted(state, sequence, sender=sender) == expected
        if expected:
            newest[sender] = sequence


def may_enter(state: Path, run: str) -> bool:
    try:
        enter_run(state, run)
    except WrongRunError:
        return False
    return True


def test_a_run_that_was_left_does_not_come_back(tmp_path):
    entered = [may_enter(tmp_path, run) for run in ("one", "one", "two", "two", "one", "two", "three", "two", "one")]
    assert entered == [True, True, True, True, False, True, True, False, False]
    assert read_json(tmp_path / RUNS_FILE) == {"current": "three", "left": ["one", "two"]}


def test_a_refused_run_changes_nothing_on_the_disk(tmp_path):
    for run in ("one", "two"):
        enter_run(tmp_path, run)
    before = (tmp_path / RUNS_FILE).read_bytes()
    assert not may_enter(tmp_path, "one") and (tmp_path / RUNS_FILE).read_bytes() == before


@pytest.mark.parametrize(
    "text",
    [
        *DAMAGED,
        "{}",
        '{"current": "run"}',
        '{"left": []}',
        '{"current": null, "left": []}',
        '{"current": 1, "left": []}',
        '{"current": "run", "left": null}',
        '{"current": "run", "left": "run"}',
        '{"current": "run", "left": {"run": 1}}',
    ],
)
def test_a_damaged_memory_of_runs_lets_none_in(tmp_path, text):
    (tmp_path / RUNS_FILE).write_text(text)
    for run in ("run", "other"):
        with pytest.raises(RunFolderError, match="is damaged"):
            enter_run(tmp_path, run)
    assert (tmp_path / RUNS_FILE).read_text() == text


@pytest.mark.parametrize("first", [True, False])
def test_a_run_that_could_not_be_remembered_is_not_entered(tmp_path, full_disk, first):
    if not first:
        (tmp_path / RUNS_FILE).write_text('{"current": "old", "left": []}')
    before = [path.read_bytes() for path in tmp_path.iterdir()]
    with pytest.raises(StorageError, match="No space"):
        enter_run(tmp_path, "new")
    assert [path.read_bytes() for path in tmp_path.iterdir()] == before
    full_disk()
    enter_run(tmp_path, "new")
    assert may_enter(tmp_path, "old") == first


@settings(max_examples=40)
@given(st.lists(st.sampled_from("abc"), max_size=12))
def test_a_run_can_be_entered_until_another_one_was(tmp_path_factory, asked):
    state = tmp_path_factory.mktemp("state")
    entered: list[str] = []
    for run in asked:
        expected = run not in entered or run == entered[-1]
        assert may_enter(state, run) == expected
        if expected:
            entered.append(run)
