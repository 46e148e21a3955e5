"""The comparison with torchmil and PEFT: both sides compute the same, and what is printed, refused and needed."""

from __future__ import annotations

import importlib.util
import json

import pytest
import torch

from fedsteph.common.config.recipe import ModelConfig
from fedsteph.common.errors import StorageError
from fedsteph.common.model.architecture import Architecture
from fedsteph.simulations.bench import models, peers
from fedsteph.simulations.bench.data_path import write_site
from fedsteph.simulations.bench.gpu_checks import apart
from fedsteph.simulations.bench.peer_sides import peer_memory
from fedsteph.simulations.bench.peer_sides.peer_epoch import OwnSide, TorchmilSide, torchmil_model, write_labels
from fedsteph.simulations.bench.peer_sides.peer_merging import difference, own_merges, peft_merges

needs_peers = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("torchmil", "peft")),
    reason="torchmil and PEFT are not installed: pip install 'fedsteph[bench]'",
)


@pytest.fixture(autouse=True)
def small(monkeypatch) -> None:
    monkeypatch.setattr(models, "SIZES", Architecture.of(ModelConfig(width=16, embed=8, attention=6)))


@needs_peers
def test_both_models_compute_the_same_from_the_same_weights() -> None:
    own, bags = models.abmil().eval(), models.cohort_of(1, 30).bag(0).unsqueeze(0)
    with torch.no_grad():
        assert apart(own(bags), torch.sigmoid(torchmil_model(own).eval()(bags))) < 1e-5


@needs_peers
def test_both_sides_train_alike(tmp_path) -> None:
    """17 slides are a whole step and a rest; without dropout, the losses of two epochs are the same."""
    site = tmp_path / "site"
    write_site(site, 17, 5, models.SIZES.width)
    write_labels(site)
    own, torchmil = OwnSide(site, tmp_path / "state"), TorchmilSide(site)
    own.model.dropout = 0.0
    torchmil.without_dropout()
    losses = [(own.epoch(), torchmil.epoch()) for _ in range(2)]
    assert losses[1][0] < losses[0][0]
    for ours, theirs in losses:
        assert ours == pytest.approx(theirs, rel=1e-4)


@needs_peers
def test_merges_agree_but_where_values_cancel() -> None:
    rows = models.vectors(3)
    rows[:, 0] = torch.tensor([1.0, -1.0, 0.0])
    own, peft = own_merges(rows), peft_merges(rows)
    found = {name: difference(own[name]().flat(), peft[name]()) for name in own}
    assert all(apart < 1e-5 for apart, _ in found.values())
    assert [cancelled for _, cancelled in found.values()] == [0, 0, 1]


@needs_peers
def test_merges_that_differ_are_no_comparison(monkeypatch, capsys) -> None:
    monkeypatch.setattr(peers, "_epochs", lambda *of: {})
    monkeypatch.setattr(peers, "peft_merges", lambda rows: peft_merges(2 * rows))
    assert peers.main(["--slides", "1"]) == 2
    assert "averaging: fedsteph's and PEFT's results are" in capsys.readouterr().err


@needs_peers
def test_a_quick_comparison_prints_a_table_and_one_object(monkeypatch, capsys) -> None:
    monkeypatch.setattr(peers, "peak", lambda side, what, site=None: {"before": 1, "peak": 2})  # seconds each
    threads = torch.get_num_threads()
    assert peers.main(["--slides", "2", "--instances", "9", "--rounds", "1", "--threads", "1"]) == 0
    out = capsys.readouterr().out
    found = json.loads(out.strip().splitlines()[-1])
    assert found["epoch"]["ratio"]["first"] > 0 < found["epoch"]["ratio"]["later"] and found["threads"] == 1
    assert found["merging"].keys() == {"averaging", "task arithmetic", "TIES"} and "merging, TIES" in out
    assert torch.get_num_threads() == threads


@needs_peers
def test_the_memory_of_one_side_is_measured(capsys) -> None:
    threads = torch.get_num_threads()
    peer_memory.main(str(threads), "peft", "averaging")
    found = json.loads(capsys.readouterr().out)
    assert 50e6 < found["before"] <= found["peak"]


def test_without_the_extra_it_says_what_to_install(monkeypatch, capsys) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert peers.main([]) == 1
    assert "torchmil, which is not installed. pip install 'fedsteph[bench]'" in capsys.readouterr().err


@needs_peers
def test_a_full_disk_is_told_before_a_slide_is_written() -> None:
    with pytest.raises(StorageError, match="GiB are needed"):
        peers.measure(10**9, 10**6, 1)


@pytest.mark.parametrize("words", [["--slides", "0"], ["--rounds", "-1"], ["--instances", "many"]])
def test_a_size_that_is_none_is_refused(words, capsys) -> None:
    with pytest.raises(SystemExit):
        peers.main(words)
    assert "must be a whole number above 0" in capsys.readouterr().err
