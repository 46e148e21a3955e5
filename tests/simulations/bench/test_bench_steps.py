"""The benchmark of one site's work, at sizes that take seconds: its arithmetic, its fairness, its output."""

from __future__ import annotations

import json
import time

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from fedsteph.common.config.recipe import ModelConfig
from fedsteph.common.model.architecture import Architecture
from fedsteph.simulations.bench import data_path, models, site_work, sources, step_memory, steps
from fedsteph.simulations.bench.pairs import in_turn, ratio
from fedsteph.simulations.memory import memory_of

TINY = site_work.Extent({1: 1, 30: 1}, {20: 1}, (20,), ((2, 4), 2, 1), (1, 20, 1), (3, 20))


def test_things_are_run_in_turn_after_one_untimed_run_of_each():
    ran: list[str] = []
    spreads, seconds = in_turn({"a": lambda: ran.append("a"), "b": lambda: ran.append("b")}, 3)
    assert ran == ["a", "b"] * 4
    assert all(spreads[name].repeats == len(seconds[name]) == 3 for name in "ab")


def test_a_ratio_is_the_median_over_rounds():
    assert ratio({"a": [2.0, 30.0, 8.0], "b": [1.0, 10.0, 2.0]}, "a", "b") == 3.0


def test_the_plain_implementation_and_ours_compute_the_same_hazards_from_the_same_weights():
    """Otherwise their times would not be of the same thing."""
    rows = models.vectors(4)
    ours, plain = models.steph(rows).eval(), models.plain_steph(rows).eval()
    heads = ("head_agg", "head_mix")
    state = {
        "encoder.weight": ours.hypernetwork.encoder.embed.weight,
        "encoder.bias": ours.hypernetwork.encoder.embed.bias,
    }
    state |= {f"{head}.{name}": p for head in heads for name, p in getattr(ours.hypernetwork, head).named_parameters()}
    state |= {f"head.{name}": p for name, p in ours.head.named_parameters()}
    plain.load_state_dict(state)
    bag = models.cohort_of(1, 50).bag(0)
    with torch.no_grad():
        torch.testing.assert_close(ours(bag.unsqueeze(0))[0], plain(bag)[0], atol=1e-5, rtol=1e-5)


def test_a_step_changes_the_weights_of_both():
    rows, cohort = models.vectors(3), models.cohort_of(2, 5)
    for model, make in ((models.steph(rows), steps.step), (models.plain_steph(rows), steps.plain_step)):
        before = model.head.weight.detach().clone()
        make(model, cohort)()
        assert not torch.equal(model.head.weight, before)


def test_what_an_abmil_step_multiplies():
    """Against torch's counter on the plain implementation, bags of which need no gradient."""
    n, cohort = 64, models.cohort_of(1, 64)
    model = models.plain_module().PlainAbmil(1536, 512, 384, 32, 0.25)
    with FlopCounterMode(display=False) as counter:
        models.plain_module().step_loss(model, [cohort.bag(0)], [1], [1]).backward()
    assert steps._abmil_gflop(n) / steps.BAGS == pytest.approx(counter.get_total_flops() / 1e9, rel=5e-3)


def test_memory_is_measured_in_a_process_of_its_own():
    found = step_memory.measure("abmil", 2, 200)
    assert 50e6 < found["before"] <= found["peak"] < 2e9


def test_mapped_rows_are_not_in_this_process_s_own_memory(tmp_path):
    before = memory_of("RssAnon")
    rows = sources._mapped_rows(tmp_path / "vectors", 40)  # 190 MB
    assert rows.shape[0] == 40 and torch.equal(rows[17], rows[1])
    assert memory_of("RssAnon") - before < 100e6 + 16 * 4 * rows.shape[1]
    assert sources._added_by(lambda: (torch.ones(25 * 2**20), time.sleep(0.2))) > 90e6


def test_the_whole_prints_what_scripts_read_and_what_people_read(monkeypatch, cli):
    monkeypatch.setattr(step_memory, "measure", lambda *of: {"before": 1, "peak": len(of[0])})  # seconds each
    monkeypatch.setattr(sources, "_added_by", lambda thing: 1)
    monkeypatch.setattr(models, "SIZES", Architecture.of(ModelConfig(width=16, embed=8, attention=6)))
    found = json.loads(json.dumps(site_work.measure(TINY, lambda what: None), allow_nan=False))
    assert found["schema"] == "fedsteph/bench/v1"
    assert found["step_vs_plain"].keys() == {"1", "30"}
    assert found["step_memory_vs_plain"].keys() == {"20"} == found["inference_vs_abmil"].keys()
    assert found["abmil_vs_gemm"].keys() == {"30"}
    for key in ("io_cached_vs_h5py", "step_1000_sources_vs_12"):
        assert found[key] > 0
    assert 0 <= found["epoch_waiting_share"] <= 1 and found["parts"]["epoch"]["second"]["seconds"] > 0
    layouts = found["parts"]["reading"]["layouts"]
    assert layouts.keys() == data_path.LAYOUTS.keys()
    for row in layouts.values():
        assert all(row[kind]["repeats"] == 1 and row[kind]["median"] > 0 for kind in ("h5py", "stored", "float16"))
    quick = site_work.QUICK
    monkeypatch.setattr(site_work, "measure", lambda extent, say: found if extent is quick else pytest.fail("extent"))
    code, out, _ = cli("measure", "site", "--quick", "--json")
    assert json.loads(out) == found and code == 0
    code, out, _ = cli("measure", "site", "--quick")
    assert code == 0 and "an ABMIL step" in out


def test_what_is_promised_to_scripts_is_measured_quickly():
    assert {1, 1000, 10_000} <= site_work.QUICK.steps.keys()
    assert 10_000 in site_work.QUICK.inference and site_work.QUICK.memory[0] == 10_000
    assert (site_work.QUICK.sources[0][0], site_work.QUICK.sources[0][-1]) == (12, 1000)
