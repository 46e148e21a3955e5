"""A site gets the device that it asked for, or an error."""

import pytest
import torch

from fedsteph.client.training.device import resolve_device
from fedsteph.common.errors import ConfigError, DeviceError


@pytest.fixture
def gpus(monkeypatch):
    def pretend(n: int) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: n > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: n)

    return pretend


@pytest.mark.parametrize(
    ("n", "name", "device"), [(0, "auto", "cpu"), (2, "auto", "cuda:0"), (2, "cpu", "cpu"), (2, "cuda:1", "cuda:1")]
)
def test_the_device_asked_for(gpus, n, name, device):
    gpus(n)
    assert resolve_device(name) == torch.device(device)


@pytest.mark.parametrize(("n", "name"), [(0, "cuda:0"), (2, "cuda:2"), (2, "cuda:9")])
def test_an_absent_device_is_never_replaced(gpus, n, name):
    gpus(n)
    with pytest.raises(DeviceError, match=f"{name} .* {n} CUDA"):
        resolve_device(name)


@pytest.mark.parametrize(
    "name", ["", "gpu", "cuda", "cuda:", "cuda:-1", "cuda:1x", "cuda:9999", "CPU", "MPS", "mps:0", " cpu"]
)
def test_unknown_names(gpus, name):
    gpus(4)
    with pytest.raises(ConfigError) as caught:
        resolve_device(name)
    assert caught.value.where == "device"


def test_an_apple_gpu_is_used_by_name_alone_and_where_it_is(gpus, monkeypatch):
    gpus(0)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert (resolve_device("mps"), resolve_device("auto")) == (torch.device("mps"), torch.device("cpu"))
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(DeviceError, match="no Apple GPU") as caught:
        resolve_device("mps")
    assert caught.value.where == "device" and "cpu" in caught.value.remedy
