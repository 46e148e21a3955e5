"""The ledger: what adds up, what is refused, and what a crash or somebody with an older copy can do to it."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pytest
from damage import flipped
from opacus.accountants import RDPAccountant

from fedsteph.client.privacy import ledger as ledger_module
from fedsteph.client.privacy.accounting import Mechanism, epsilon
from fedsteph.client.privacy.ledger import FILE, Entry, Ledger, coarse, total
from fedsteph.common.errors import BudgetPolicyError, LedgerError
from fedsteph.common.trust.audit_log import AuditLog, Event, read_lines, verify

pytestmark = pytest.mark.usefixtures("epsilon_once")
PRIVATE = Mechanism(8.0, 1.0, 20)


def entry(training: str, mechanism: Mechanism | None = PRIVATE, run: str = "run1", delta: float = 1e-3) -> Entry:
    return Entry.now(run, training, mechanism, None if mechanism is None else delta)


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(AuditLog(tmp_path))


def test_an_empty_ledger_costs_nothing(ledger: Ledger) -> None:
    assert ledger.entries() == [] and total([]).epsilon == 0.0 and str(total([])) == "nothing was shared yet"


def test_trainings_add_up_by_the_accountant(ledger: Ledger, tmp_path: Path) -> None:
    for name, noise in (("a", 8.0), ("b", 4.0), ("c", 16.0)):
        ledger.spend(entry(name, Mechanism(noise, 1.0, 20)), budget=None)
    found, opacus = total(ledger.entries()), RDPAccountant()
    opacus.history = [(8.0, 1.0, 20), (4.0, 1.0, 20), (16.0, 1.0, 20)]
    assert found.trainings == 3 and found.epsilon <= opacus.get_epsilon(1e-3)
    assert found.epsilon == pytest.approx(opacus.get_epsilon(1e-3), rel=0.25)  # a looser bound
    assert found.epsilon > epsilon([Mechanism(4.0, 1.0, 20)], 1e-3)
    lines = [line.event for line in read_lines(tmp_path)]
    assert [line.event for line in lines] == ["privacy.spend"] * 3
    verify(tmp_path)


def test_the_same_training_costs_once(ledger: Ledger) -> None:
    for run in ("run1", "run2", "run3"):
        ledger.spend(entry("a", run=run), budget=None)
    (only,) = ledger.entries()
    assert only.run == "run1"


def test_beyond_the_budget_nothing_is_written(ledger: Ledger, tmp_path: Path) -> None:
    one = epsilon([PRIVATE], 1e-3)
    ledger.spend(entry("a"), budget=1.2 * one)
    before = (tmp_path / FILE).read_bytes()
    with pytest.raises(BudgetPolicyError, match="the budget is epsilon"):
        ledger.spend(entry("b"), budget=1.2 * one)
    assert (tmp_path / FILE).read_bytes() == before
    ledger.spend(entry("a"), budget=1.2 * one)  # what is spent may be sent again
    with pytest.raises(BudgetPolicyError):
        ledger.spend(entry("a"), budget=0.9 * one)  # unless the budget has shrunk since
    ledger.spend(entry("b"), budget=2 * one)


def test_without_privacy_there_is_no_bound(ledger: Ledger) -> None:
    with pytest.raises(BudgetPolicyError, match="no bound"):
        ledger.spend(entry("a", None), budget=1e6)
    ledger.spend(entry("a", None), budget=None)
    ledger.spend(entry("b"), budget=None)
    found = total(ledger.entries())
    assert math.isinf(found.epsilon) and "no bound" in str(found)
    with pytest.raises(BudgetPolicyError, match="no bound"):
        ledger.spend(entry("b"), budget=1e6)


def test_the_smallest_delta_holds_for_all(ledger: Ledger) -> None:
    ledger.spend(entry("a", delta=1e-2), budget=None)
    ledger.spend(entry("b", delta=1e-4), budget=None)
    assert total(ledger.entries()).delta == 1e-4
    assert total(ledger.entries()).epsilon == pytest.approx(epsilon([PRIVATE, PRIVATE], 1e-4))


def test_a_crash_between_ledger_and_audit_has_spent(ledger, tmp_path, monkeypatch) -> None:
    def crash(*_: object) -> None:
        raise KeyboardInterrupt

    for name in ("a", "b", "c"):  # three in a row: never one too few, and never a ledger that is refused
        with monkeypatch.context() as context:
            context.setattr(AuditLog, "append", crash)
            with pytest.raises(KeyboardInterrupt):
                ledger.spend(entry(name), budget=None)
        assert [one.training for one in ledger.entries()][-1] == name
        ledger.spend(entry(name), budget=None)
    assert [one.training for one in ledger.entries()] == ["a", "b", "c"]
    assert [line.event.event for line in read_lines(tmp_path)] == ["privacy.spend"] * 3


def test_a_crash_before_the_ledger_is_written_has_not(ledger, tmp_path, monkeypatch) -> None:
    def crash(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as context:
        context.setattr(ledger_module.atomic, "write_bytes", crash)
        with pytest.raises(KeyboardInterrupt):
            ledger.spend(entry("a"), budget=None)
    assert ledger.entries() == []


def test_an_older_copy_is_found(ledger: Ledger, tmp_path: Path) -> None:
    ledger.spend(entry("a"), budget=None)
    older = (tmp_path / FILE).read_bytes()
    ledger.spend(entry("b"), budget=None)
    (tmp_path / FILE).write_bytes(older)
    for act in (ledger.entries, lambda: ledger.spend(entry("c"), budget=None)):
        with pytest.raises(LedgerError, match="is not the one in the audit log"):
            act()
    (tmp_path / FILE).unlink()
    with pytest.raises(LedgerError, match="is missing"):
        ledger.entries()


@pytest.mark.parametrize("sent", ["vector.seal", "update.send"])
def test_what_left_before_there_was_a_ledger_has_no_bound(ledger: Ledger, tmp_path: Path, sent: str) -> None:
    AuditLog(tmp_path).append(Event("vector.seal", "refused", "run0", "b"))
    assert ledger.entries() == []
    AuditLog(tmp_path).append(Event(sent, "allowed", "run0", "b"))
    assert math.isinf(total(ledger.entries()).epsilon)
    with pytest.raises(BudgetPolicyError, match="no bound"):
        ledger.spend(entry("a"), budget=100.0)
    ledger.spend(entry("a"), budget=None)
    assert [one.run for one in ledger.entries()] == ["run0", "run1"] and math.isinf(total(ledger.entries()).epsilon)


def test_a_reader_beside_a_spending_sees_one_ledger_or_the_other(ledger, monkeypatch) -> None:
    ledger.spend(entry("a"), budget=None)
    real, reader = Ledger._audited, Ledger(ledger._audit)

    def spent_meanwhile(self: Ledger) -> str | None:
        found = real(self)
        if self is reader:
            ledger.spend(entry("b"), budget=None)
        return found

    monkeypatch.setattr(Ledger, "_audited", spent_meanwhile)
    assert [one.training for one in reader.entries()] == ["a", "b"]


@pytest.mark.parametrize("change", ["noise", "drop", "swap", "text", "unknown"])
def test_an_edited_ledger_is_found(ledger: Ledger, tmp_path: Path, change: str) -> None:
    for name in ("a", "b", "c"):
        ledger.spend(entry(name), budget=None)
    path = tmp_path / FILE
    content = json.loads(path.read_text())
    entries = content["entries"]
    if change == "noise":
        entries[0]["mechanism"]["noise"] = 800.0
    elif change == "drop":
        del entries[0]
    elif change == "swap":
        entries[0], entries[1] = entries[1], entries[0]
    elif change == "unknown":
        entries[0]["more"] = 1
    path.write_text("{" if change == "text" else json.dumps(content, indent=1) + "\n")
    with pytest.raises(LedgerError):
        ledger.entries()


def test_a_flipped_bit_is_found_even_before_the_audit_log_knows_the_entry(ledger, tmp_path, monkeypatch) -> None:
    with monkeypatch.context() as crash:
        crash.setattr(AuditLog, "append", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            ledger.spend(entry("a"), budget=None)
    content = (tmp_path / FILE).read_bytes()
    assert [one.training for one in ledger.entries()] == ["a"]
    for bit in range(8 * len(content)):
        (tmp_path / FILE).write_bytes(flipped(content, bit))
        with pytest.raises(LedgerError):
            ledger.entries()


def test_a_ledger_of_an_earlier_version_is_gone_on_with(ledger: Ledger, tmp_path: Path) -> None:
    """It held no digest; also where a crash left it one entry ahead of the audit log."""
    ledger.spend(entry("a"), budget=None)
    plain = json.loads((tmp_path / FILE).read_text())
    del plain["sha256"]
    old = json.dumps(plain, indent=1).encode() + b"\n"
    AuditLog(tmp_path / "old").append(Event("privacy.spend", "allowed", "run1", artefact=sha256(old).hexdigest()))
    other = Ledger(AuditLog(tmp_path / "old"))
    (tmp_path / "old" / FILE).write_bytes(old)
    assert other.entries() == ledger.entries()
    ledger.spend(entry("b"), budget=None)
    (tmp_path / "old" / FILE).write_bytes((tmp_path / FILE).read_bytes())
    assert len(other.entries()) == 2
    other.spend(entry("c"), budget=None)
    assert [one.training for one in other.entries()] == ["a", "b", "c"]


def test_a_delta_is_shown_coarsely_and_never_smaller_than_it_is() -> None:
    assert [coarse(x) for x in (1.88e-3, 1e-3, 0.05, 9.1e-4)] == ["2e-3", "1e-3", "5e-2", "10e-4"]
    assert [float(coarse(x, 2)) for x in (0.8432, 3.0, 7.9999, 84.32, 0.01)] == [0.85, 3.0, 8.0, 85.0, 0.01]
    for n in range(20, 2000, 7):
        assert float(coarse(n**-1.1)) >= n**-1.1 * (1 - 1e-9)
    found = total([replace(entry("a"), delta=300**-1.1)])
    assert str(found) == f"epsilon {found.epsilon:.2f} at delta 2e-3"
