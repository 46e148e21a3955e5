"""What version 0.1.0 wrote is read by this version, or refused with the version and the remedy (see CHANGELOG)."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

import fedsteph
from fedsteph.client.models.model_file import load_base, load_model
from fedsteph.client.privacy.ledger import Ledger, total
from fedsteph.client.sharing.replay import accept_once, enter_run, next_sequence
from fedsteph.common.config.recipe import ModelConfig
from fedsteph.common.errors import MalformedEnvelopeError, ReplayedEnvelopeError, WrongRunError
from fedsteph.common.trust.audit_log import AuditLog, Event, verify
from fedsteph.common.trust.key_file import read_identity
from fedsteph.common.trust.roster import read_roster
from fedsteph.common.wire.envelope import Context, open_sealed

M0 = "568f023acfcf17fe7eb1caa66a4770931a0c15f1e64b31255f40d4803adba29b"
ROSTER = "26fdec61ef588d5dee7dcb2a7aa0c1381aee733747cbceb0d8f0ea04d0df22f0"
HEAD = "533ef1a09906c3a6885facb234f767f55916508370b0795089b5fb3fb8de64aa"  # of the audit log


@pytest.fixture
def old(tmp_path) -> Path:
    """A copy of the files; a checkout does not keep the keys' mode."""
    folder = Path(shutil.copytree(Path(__file__).with_name("data_of_0_1_0"), tmp_path / "old"))
    for path in (folder / "keys").iterdir():
        path.chmod(0o600)
    return folder


def test_models_and_the_vector_that_one_merged(old):
    m0 = fedsteph.initial_model(ModelConfig(width=6, embed=8, attention=6))
    local, steph = load_base(old / "local.safetensors"), load_model(old / "steph.safetensors")
    vector = fedsteph.load_vector(old / "vector.safetensors", m0)
    assert (vector.m0_sha256, load_model(old / "local.safetensors").reference is not None) == (M0, True)
    assert steph.sources == ("b",) and steph.local is not None
    assert torch.equal(steph.model.mixture.stack[1], vector.flat())
    for name, tensor in local.state_dict().items():
        assert torch.equal(steph.local.model.state_dict()[name], tensor)


def test_the_audit_log_and_the_ledger_go_on(old):
    assert verify(old / "audit").head == HEAD
    log = AuditLog(old / "audit")
    assert str(total(Ledger(log).entries())) == "epsilon 7.99 at delta 7e-2"
    log.append(Event("run.start"))
    assert verify(old / "audit", HEAD).lines == 6


def test_keys_and_roster_are_the_same_and_sequences_do_not_begin_anew(old):
    roster, identity = read_roster(old / "roster.yaml", ROSTER), read_identity(*sorted((old / "keys").iterdir())[::-1])
    assert roster.entry("a").keys == identity.public
    sent = json.loads((old / "state" / "sent.json").read_text())["sequence"]
    assert next_sequence(old / "state") > sent
    with pytest.raises(ReplayedEnvelopeError):
        accept_once(old / "state", roster.entry("b").fingerprint, sent - 1, b"replayed")
    [run] = [json.loads((old / "state" / "runs.json").read_text())["current"]]
    enter_run(old / "state", "next")
    with pytest.raises(WrongRunError):
        enter_run(old / "state", run)


def test_a_sealed_vector_of_then_is_refused_by_its_version(old):
    """Version 3 of the envelope says whether a head is inside; the file has to be asked for again."""
    roster, identity = read_roster(old / "roster.yaml"), read_identity(*sorted((old / "keys").iterdir())[::-1])
    context = Context("fedsteph", "run1", "b", "a", M0, "0" * 64, "0" * 64)
    with pytest.raises(
        MalformedEnvelopeError, match="is an envelope of version 1, and this fedsteph reads 3"
    ) as caught:
        open_sealed((old / "vector.sealed").read_bytes(), context, identity, roster.entry("b").keys)
    assert "ask its sender to seal the vector anew" in str(caught.value.remedy)
