"""``fedsteph audit``: verify finds every change to a log and names the line; show shows it."""

from __future__ import annotations

import json

import pytest

from fedsteph.common.trust.audit_log import FILE, HEAD_FILE, AuditLog, Event


@pytest.fixture
def log(tmp_path):
    """A folder with a log of five lines, of a site."""
    folder = tmp_path / "audit"
    audit = AuditLog(folder)
    audit.append(Event("site.join", "allowed", run="r1"))
    audit.append(Event("train.local", "allowed", run="r1"))
    audit.append(Event("vector.seal", "allowed", run="r1", peer="kirp", artefact="ab" * 32, size=4711))
    audit.append(Event("vector.seal", "refused", run="r1", peer="stranger", reason="TargetPolicyError"))
    audit.append(Event("run.end", run="r1"))
    return folder


def hashes(folder):
    return [json.loads(line)["hash"] for line in (folder / FILE).read_text().splitlines()]


def test_a_log_that_holds_together(cli, log):
    last = hashes(log)[-1]
    assert cli("audit", "verify", log) == (0, f"5 lines hold together; the last hash is {last}\n", "")
    assert json.loads(cli("audit", "verify", log, "--json")[1]) == {"lines": 5, "head": last, "torn_bytes": 0}


def test_a_hash_that_the_server_noted(cli, refused, log):
    for noted in hashes(log):
        assert cli("audit", "verify", log, "--expect", noted)[0] == 0
    assert f"no line has the hash {'0f' * 32}" in refused("audit", "verify", log, "--expect", "0f" * 32)


def test_a_log_that_was_made_anew_lacks_the_noted_hash(cli, refused, log):
    """Whoever rewrites both files makes a chain that holds; the hash noted elsewhere is not in it."""
    noted = hashes(log)[2]
    for name in (FILE, HEAD_FILE):
        (log / name).unlink()
    for _ in range(5):
        AuditLog(log).append(Event("train.local", "allowed"))
    assert cli("audit", "verify", log)[0] == 0
    assert "was rewritten or cut" in refused("audit", "verify", log, "--expect", noted)


def test_a_changed_log_is_found_and_one_of_other_lines_not_shown(refused, log):
    path = log / FILE
    text = path.read_text()
    path.write_text(text.replace("refused", "allowed"))
    assert "line 4: was edited" in refused("audit", "verify", log)
    path.write_text("".join(text.splitlines(keepends=True)[:-2]))
    assert "its last lines were dropped or changed" in refused("audit", "verify", log)
    path.write_text(text.replace('{"number":3', "junk", 1))
    for command in ("verify", "show"):
        assert "line 3: is not a line of an audit log" in refused("audit", command, log)


def test_a_line_that_a_crash_cut_off_is_told_and_no_fault(cli, log):
    path = log / FILE
    path.write_bytes(path.read_bytes() + b'{"number":6,"ti')
    code, out, _ = cli("audit", "verify", log)
    assert code == 0 and "5 lines hold together" in out and "15 bytes of a line that a crash cut off" in out
    assert len(cli("audit", "show", log)[1].splitlines()) == 5


def test_show(cli, log):
    code, out, err = cli("audit", "show", log)
    assert (code, err) == (0, "")
    words = [line.split() for line in out.splitlines()]
    assert [(w[0], w[2], w[3]) for w in words] == [
        ("1", "site.join", "allowed"),
        ("2", "train.local", "allowed"),
        ("3", "vector.seal", "allowed"),
        ("4", "vector.seal", "refused"),
        ("5", "run.end", "noted"),
    ]
    assert words[2][4:] == ["kirp", "4711", "B", f"{'ab' * 8}..."] and words[3][4:] == ["stranger", "TargetPolicyError"]


def test_the_last_lines(cli, log):
    for last in (1, 3, 99):
        shown = cli("audit", "show", log, "--last", last)[1].splitlines()
        assert [line.split()[0] for line in shown] == [str(n) for n in range(max(1, 6 - last), 6)]


def test_show_as_json_is_one_object_per_line(cli, log):
    shown = [json.loads(line) for line in cli("audit", "show", log, "--json")[1].splitlines()]
    assert shown == [json.loads(line) for line in (log / FILE).read_text().splitlines()]


@pytest.mark.parametrize("command", ["verify", "show"])
def test_a_folder_without_a_log(refused, tmp_path, command):
    for folder in (tmp_path, tmp_path / "absent"):
        told = refused("audit", command, folder)
        assert told == f"{folder}: holds no audit log. Give the folder that has {FILE}"
    assert not (tmp_path / "absent").exists()


def test_a_log_without_its_head_file(refused, log):
    (log / HEAD_FILE).unlink()
    assert f"{log / HEAD_FILE}: is missing" in refused("audit", "verify", log)


def test_at_least_one_line_is_shown(refused, log):
    assert "--last" in refused("audit", "show", log, "--last", 0)
