"""What pages say in words: who is better and how sure that is, what travelled, what it cost and was made of."""

from __future__ import annotations

import hashlib
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from each_case import each

from fedsteph.common.model.method_scores import MinusLocal
from fedsteph.common.report.conclusion import against_local, over_targets, rounded
from fedsteph.common.report.page import Code, Points, Table, Text
from fedsteph.common.report.provenance import LIMITS, cost_section, limits_section, provenance_section
from fedsteph.common.report.transfer import decided, relayed, transfer_section
from fedsteph.common.trust.audit_log import AuditLog, Event, Line, read_lines


def gap(mean: float | None, low: float = 0.0, high: float = 0.0, won: int = 2, *, interval: bool = True) -> MinusLocal:
    return MinusLocal(mean, (low, high) if interval else None, won)


@each(
    ("found", "sentence"),
    [
        (
            gap(0.031, 0.01, 0.052, 4),
            "STEPH is better than the local model by 0.031 of C-index in the mean (95% interval of the difference "
            "+0.010 to +0.052), and wins 4 of 5 folds",
        ),
        (
            gap(-0.031, -0.052, -0.01, 1),
            "STEPH is worse than the local model by 0.031 of C-index in the mean (95% interval of the difference "
            "-0.052 to -0.010), and wins 1 of 5 folds",
        ),
        (
            gap(0.02, -0.01, 0.05, 3),
            "STEPH is better than the local model by 0.020 of C-index in the mean (95% interval of the difference "
            "-0.010 to +0.050; it includes 0, so no difference is established), and wins 3 of 5 folds",
        ),
        (
            gap(-0.02, -0.05, 0.01, 0),
            "STEPH is worse than the local model by 0.020 of C-index in the mean (95% interval of the difference "
            "-0.050 to +0.010; it includes 0, so no difference is established), and wins 0 of 5 folds",
        ),
        (
            gap(0.0, -0.01, 0.01, 2),
            "STEPH is as good as the local model in the mean (95% interval of the difference -0.010 to +0.010; it "
            "includes 0, so no difference is established), and wins 2 of 5 folds",
        ),
        (
            gap(0.5, interval=False),
            "STEPH is better than the local model by 0.500 of C-index in the mean, and wins 2 of 5 folds",
        ),
    ],
)
def test_a_method_against_the_local_model(found, sentence):
    assert against_local("STEPH", found, 5) == sentence


def test_a_method_that_cannot_be_compared_is_not_judged():
    assert against_local("STEPH", gap(None), 5) is None and over_targets("STEPH", [gap(None), gap(None)]) is None
    assert over_targets("STEPH", []) is None


@each(("low", "high"), [(0.0, 0.02), (-0.02, 0.0), (0.0, 0.0), (-1.0, 1.0)])
def test_an_interval_that_ends_at_0_includes_it(low, high):
    for text in (against_local("A", gap(0.01, low, high), 3), over_targets("A", [gap(0.01, low, high)])):
        assert "includes 0, so no difference is established" in text


@each(("low", "high"), [(1e-9, 0.02), (-0.02, -1e-9)])
def test_an_interval_that_leaves_0_out_says_nothing_of_it(low, high):
    for text in (against_local("A", gap(0.01, low, high), 3), over_targets("A", [gap(0.01, low, high)])):
        assert "includes 0" not in text


@each("mean", [0.0004, -0.0004, 0.0])
def test_what_is_not_seen_in_three_decimals_is_no_difference(mean):
    for text in (against_local("A", gap(mean), 3), over_targets("A", [gap(mean)])):
        assert "A is as good as the local model" in text


@each(("mean", "words"), [(0.0006, "better"), (-0.0006, "worse")])
def test_what_is_seen_in_three_decimals_is_one(mean, words):
    assert f"A is {words} than the local model by 0.001 of C-index" in against_local("A", gap(mean), 3)


def test_the_mean_over_targets_and_its_interval_against_drawn_samples():
    """Targets' differences drawn independently from the normal laws that their intervals are of."""
    found = [gap(0.03, 0.01, 0.05), gap(-0.01, -0.06, 0.04), gap(0.05, 0.02, 0.08), gap(None)]
    rng = np.random.default_rng(0)
    drawn = sum(
        rng.normal((low + high) / 2, (high - low) / 2 / 1.959964, 2_000_000)
        for low, high in (one.interval_95 for one in found if one.mean is not None)
    )
    low, high = np.percentile(drawn / 3, [2.5, 97.5])
    text = over_targets("STEPH", found)
    assert text.startswith("STEPH is better than the local model by 0.023 of C-index in the mean over 3 targets (95%")
    assert text.endswith(", and better on 2 of them")
    words = text.partition("95% interval ")[2].split(")")[0].split(" to ")
    assert [float(word) for word in words] == pytest.approx([low, high], abs=1e-3)


def test_the_interval_over_targets_by_hand():
    """Half widths 0.03 and 0.04 of independent errors: together 0.05, of which the mean of two has half."""
    text = over_targets("A", [gap(0.1, 0.07, 0.13), gap(0.2, 0.16, 0.24)])
    assert math.hypot(0.03, 0.04) == pytest.approx(0.05)
    assert "by 0.150 of C-index in the mean over 2 targets (95% interval +0.125 to +0.175), and better on 2 of" in text


def test_over_targets_no_difference_is_said_as_plainly():
    text = over_targets("A", [gap(-0.1, -0.2, 0.0), gap(0.05, -0.05, 0.15)])
    assert text.startswith(
        "A is worse than the local model by 0.025 of C-index in the mean over 2 targets (95% interval"
    )
    assert "it includes 0, so no difference is established)" in text and text.endswith("and better on 1 of them")


def test_without_every_target_s_interval_there_is_none_of_the_mean():
    text = over_targets("A", [gap(0.1, 0.05, 0.15), gap(0.2, interval=False)])
    assert text == (
        "A is better than the local model by 0.150 of C-index in the mean over 2 targets, and better on 2 of them"
    )


def test_one_target_alone_keeps_its_own_interval():
    assert "(95% interval +0.010 to +0.050)" in over_targets("A", [gap(0.03, 0.01, 0.05)])


@each(
    ("scores", "sentence"),
    [
        (
            {"local": 0.61, "STEPH": 0.64, "deployed": 0.64},
            "At kirp, the enhanced model has a C-index of 0.64, 0.03 better than the local one's 0.61. What is "
            "deployed there has 0.64.",
        ),
        (
            {"local": 0.61, "STEPH": 0.58, "deployed": 0.61},
            "At kirp, the enhanced model has a C-index of 0.58, 0.03 worse than the local one's 0.61. What is deployed "
            "there has 0.61.",
        ),
        (
            {"local": 0.6, "STEPH": 0.6, "deployed": None},
            "At kirp, the enhanced model has a C-index of 0.60, the same as the local one's 0.60.",
        ),
        (
            {"local": 0.6, "STEPH": 0.5, "panel": 0.62},
            "At kirp, the enhanced model has a C-index of 0.62, 0.02 better than the local one's 0.60.",
        ),
        (
            {"local": 0.0, "STEPH": 0.0},
            "At kirp, the enhanced model has a C-index of 0.00, the same as the local one's 0.00.",
        ),
    ],
)
def test_rounded_scores_in_words(scores, sentence):
    first, second = rounded("kirp", scores)
    assert first == sentence and "without intervals, which establish nothing" in second


def test_rounded_scores_never_gain_digits():
    """0.64 - 0.61 is 0.030000000000000027 in binary; what differs by 0.01 is said to differ by 0.01."""
    for local in range(101):
        for better in (-1, 0, 1):
            if 0 <= local + better <= 100:
                text = rounded("a", {"local": local / 100, "STEPH": (local + better) / 100})[0]
                assert {-1: "0.01 worse than", 0: "the same as", 1: "0.01 better than"}[better] in text


UNKNOWN = [{}, {"local": 0.6}, {"STEPH": 0.6}, {"local": None, "STEPH": 0.6}, {"local": 0.6, "STEPH": None}]


@each("scores", [*UNKNOWN, {"local": 0.6, "STEPH": 0.6, "panel": None}])
def test_scores_that_are_kept_are_not_guessed(scores):
    (text,) = rounded("kirp", {**scores, "deployed": 0.7})
    assert text.startswith("At kirp, scores are undefined or kept by the site's policy") and "0." not in text


SHA = hashlib.sha256(b"envelope").hexdigest()
EVENTS = [
    Event("run.start", run="run-1"),
    Event("envelope.relay", "allowed", "run-1", "south -> north", SHA, 4_718_592),
    Event("envelope.relay", "allowed", "run-2", "south -> north", "f" * 64, 17),
    Event("vector.seal", "allowed", "run-1", "north", SHA, 1234),
    Event("vector.seal", "refused", "run-1", "west", reason="TargetPolicyError"),
    Event("vector.open", "allowed", "run-1", "east", "a" * 64, 5678),
    Event("vector.open", "failed", "run-2", "mallory", "b" * 64, 9, "ForgedEnvelopeError"),
    Event("update.send", "allowed", "run-1", artefact="c" * 64, size=1_000_000),
    Event("train.merge.fail", "failed", "run-1", "west", reason="it never answered"),
    Event("audit.mended", reason="a line that a crash cut off was removed"),
]


@pytest.fixture
def lines(tmp_path: Path) -> list[Line]:
    log = AuditLog(tmp_path / "audit")
    for event in EVENTS:
        log.append(event)
    return list(read_lines(tmp_path / "audit"))


def test_relayed_envelopes_are_those_of_the_run(lines):
    table = relayed(lines, "run-1")
    assert [(row[0], row[1], row[3]) for row in table.rows] == [("south -> north", "4,718,592", SHA)]
    assert table.rows[0][2] == lines[1].time[:10] + " " + lines[1].time[11:19]
    assert [row[1] for row in relayed(lines, "run-2").rows] == ["17"] and relayed(lines, "run-3").rows == []
    assert relayed([], "run-1").rows == []


ALLOWED = [
    ["site-a", "send vector to north", "allowed", "-", "1,234", SHA],
    ["site-a", "send vector to west", "refused", "TargetPolicyError", "-", "-"],
    ["site-a", "take vector of east", "allowed", "-", "5,678", "a" * 64],
    ["site-a", "send update, unsealed", "allowed", "-", "1,000,000", "c" * 64],
]
FORGED = ["site-a", "take vector of mallory", "failed", "ForgedEnvelopeError", "9", "b" * 64]


def test_a_site_s_decisions_are_those_of_the_run(lines):
    table = decided(lines, "run-1", "site-a")
    assert table.rows == ALLOWED and len(table.header) == 6 and decided(lines, "run-2", "site-a").rows == [FORGED]
    assert decided(lines, "run-3", "site-a").rows == []


def test_a_site_s_decisions_in_all_runs_are_in_their_order(lines):
    assert decided(lines, None, "site-a").rows == [*ALLOWED[:3], FORGED, ALLOWED[3]]


def test_what_was_shared_leaves_empty_tables_out(lines):
    failures = ["west in train.merge: it never answered"]
    full, empty = relayed(lines, "run-1"), relayed(lines, "run-3")
    section = transfer_section([full, empty], failures, "bfloat16, rank 8")
    assert section.blocks == [
        Text(
            "What travelled: task vectors in bfloat16, rank 8, sealed for one recipient each and signed by the sender; "
            "no slide, feature, label or patient's value. A decision is the policy's, on an envelope; a vector that it "
            "allowed may still be left out of a merge by the screening."
        ),
        full,
        Points(failures),
    ]
    nothing = Text("Nothing travelled: no envelope is in the audit logs at hand.")
    assert transfer_section([empty], [], "float32", ["Nobody came."]).blocks == [Points(["Nobody came."]), nothing]


MANIFEST: dict[str, Any] = {
    "run": "0123abcd",
    "created": "2026-01-02T03:04:05+00:00",
    "versions": {"python": "3.11.9", "torch": "2.6.0"},
    "seeds": {"m0": 0, "training": 17},
    "digests": {"recipe": "d" * 64, "m0": None},
}


def test_provenance_has_every_version_seed_and_digest():
    table, code = provenance_section(MANIFEST, "steph:\n  K: 5\n").blocks
    assert isinstance(table, Table)
    assert table.rows == [
        ["run", "0123abcd"],
        ["begun (UTC)", "2026-01-02T03:04:05+00:00"],
        ["python", "3.11.9"],
        ["torch", "2.6.0"],
        ["seed of m0", "0"],
        ["seed of training", "17"],
        ["digest of recipe", "d" * 64],
        ["digest of m0", "None"],
    ]
    assert code == Code("steph:\n  K: 5\n")


def test_cost_has_seconds_bytes_and_sizes():
    section = cost_section({"train.local": 1234.56, "train.merge": 0.04}, 9_876_543, {"local": 1_197_729, "STEPH": 0})
    time, size = section.blocks
    assert time.rows == [
        ["train.local", "1,234.6 s"],
        ["train.merge", "0.0 s"],
        ["sent and received", "9,876,543 bytes"],
    ]
    assert size.rows == [["local", "1,197,729"], ["STEPH", "0"]]
    assert [block.rows for block in cost_section({}, 0).blocks] == [[["sent and received", "0 bytes"]]]


def test_a_result_s_own_limits_come_before_those_of_all():
    (points,) = limits_section(["Of this one."]).blocks
    assert points == Points(["Of this one.", *LIMITS]) and limits_section().blocks == [Points(list(LIMITS))]
    assert any("Task vectors can tell whether a patient was in a training set" in limit for limit in LIMITS)
