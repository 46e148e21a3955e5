"""The estimate of the paper's job: its counts by hand, and what it prints."""

from __future__ import annotations

import json

import pytest
from torch.utils.flop_counter import FlopCounterMode

from fedsteph.common.config.recipe import TrainingConfig
from fedsteph.common.config.run_config import config_of
from fedsteph.simulations.bench import models, paper_job, steps

PAPER = config_of({"preset": "paper"}, "preset").recipe
ROBUST = config_of({"preset": "robust"}, "preset").recipe


def test_the_slides_of_all_epochs_by_hand() -> None:
    """300 patients with two slides each: 240 in a fold's training part, 160 in an inner one's."""
    found = paper_job.slide_epochs(PAPER, slides=600, patients=300)
    assert found["abmil"] == pytest.approx(20 * 2 * (5 * (240 + 3 * 160) + 3 * 300))
    assert found["steph"] == pytest.approx(20 * 2 * (5 * (240 + 3 * 2 * 160) + 3 * 300))


def test_a_small_cohort_has_more_epochs_under_robust() -> None:
    """100 patients: 80 and 53 make 2 and 1 steps of 64, so the least number of 80 steps takes 40 and 80 epochs."""
    found = paper_job.slide_epochs(ROBUST, slides=100, patients=100)
    assert found["abmil"] == pytest.approx(5 * (80 * 40 + 3 * (160 / 3) * 80) + 3 * 100 * 40)


def test_the_calculation_for_a_gpu_counts_the_products_of_a_step() -> None:
    """Against torch's counter, on a machine whose memory and copies take no time."""
    gpu = paper_job.Gpu(1.0, 1e12, 1e12)
    calculated = paper_job.gpu_seconds_per_slide(64, TrainingConfig(), gpu)
    cohort, rows = models.cohort_of(1, 64), models.vectors(3)
    with FlopCounterMode(display=False) as counter:
        steps.plain_step(models.plain_steph(rows), cohort)()
    assert calculated["steph"] * 1e12 == pytest.approx(counter.get_total_flops(), rel=0.06)  # merging is not in it
    two = paper_job.gpu_seconds_per_slide(64, TrainingConfig(loss="cox"), gpu)
    assert two["abmil"] > 1.3 * calculated["abmil"]


def test_it_prints_a_table_and_one_object(monkeypatch, capsys) -> None:
    monkeypatch.setattr(paper_job, "seconds_per_slide", lambda *of: {"abmil": 0.5, "steph": 1.0})
    assert paper_job.main(["--instances", "4000", "--threads", "1"]) == 0
    out = capsys.readouterr().out
    found = json.loads(out.strip().splitlines()[-1])["presets"]
    assert found.keys() == {"paper", "robust"} and "calculated" in out
    assert found["paper"]["bytes"]["features"] == 8481 * 4000 * 1536 * 4
    assert found["paper"]["hours"] > 10 * found["paper"]["gpu_hours_calculated"] > 0


def test_the_measured_seconds_are_of_a_slide() -> None:
    found = paper_job.seconds_per_slide(2, TrainingConfig(), 1)
    assert found.keys() == {"abmil", "steph"} and min(found.values()) > 0


def test_numbers_that_are_none_are_refused(capsys) -> None:
    with pytest.raises(SystemExit):
        paper_job.main(["--gpu-tflops", "nan"])
    assert "above 0" in capsys.readouterr().err
