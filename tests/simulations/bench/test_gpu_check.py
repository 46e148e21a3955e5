"""The check for GPUs, run on the CPU: its own logic, what it would notice, and what it says without a GPU."""

from __future__ import annotations

import json

import pytest
import torch

from fedsteph.simulations.bench import gpu, gpu_checks, models

CPU = torch.device("cpu")


def test_on_the_cpu_everything_is_the_same_and_one_object_is_printed(capsys) -> None:
    assert gpu.main(["--device", "cpu", "--bags", "3", "--instances", "20", "--repeats", "1"]) == 0
    out = capsys.readouterr().out
    found = json.loads(out.strip().splitlines()[-1])
    assert found["passed"] and found["checks"].keys() == gpu_checks.CHECKS.keys() and found["waits"] == "not asked"
    assert all(one["difference"] <= 1e-6 and one["error"] is None for one in found["checks"].values())
    assert found["speed"]["slides_per_second"] > 0 and "STEPH : ABMIL" in out


@pytest.mark.parametrize("fault", ["wrong", "not finite", "raises"])
def test_a_device_that_computes_something_else_is_noticed(fault, monkeypatch) -> None:
    real, calls = gpu_checks.predict_hazards, []

    def faulty(model, cohort, device):
        hazards = real(model, cohort, device)
        calls.append(device)
        if len(calls) == 1:  # the device's own, before the CPU's
            if fault == "raises":
                raise RuntimeError("an illegal memory access was encountered")
            hazards[0, 0] = float("nan") if fault == "not finite" else hazards[0, 0] + 1e-3
        return hazards

    monkeypatch.setattr(gpu_checks, "predict_hazards", faulty)
    cohort = models.cohort_of(2, 9)
    name = "ABMIL, values and gradients"
    found = gpu._checked(name, lambda: gpu_checks.CHECKS[name](cohort, CPU))
    assert not found["passed"]
    assert (found["error"] is not None) == (fault == "raises")


def test_without_a_gpu_it_says_so(monkeypatch, capsys) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert gpu.main([]) == 1
    assert "has no CUDA GPU" in capsys.readouterr().err
