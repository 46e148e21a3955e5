"""The device a site computes on: what its configuration asks for, or an error; never another one in silence."""

from __future__ import annotations

import re

import torch

from fedsteph.common.errors import ConfigError, DeviceError


def resolve_device(name: str) -> torch.device:
    """``auto`` (the first GPU, else the CPU), ``cpu`` or ``cuda:N``.

    Raises:
        ConfigError: another name.
        DeviceError: the GPU asked for is not there.
    """
    if name == "auto":
        return torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    if name == "cpu":
        return torch.device("cpu")
    if re.fullmatch(r"cuda:\d{1,3}", name) is None:
        raise ConfigError(f"unknown device {name!r}", where="device", remedy="Use auto, cpu or cuda:N")
    index, n_devices = int(name.removeprefix("cuda:")), torch.cuda.device_count()
    if index >= n_devices:
        raise DeviceError(
            f"{name} was asked for, but this machine has {n_devices} CUDA device(s) that torch can use",
            where="device",
            remedy="Use auto or cpu, or install a torch build with CUDA",
        )
    return torch.device(name)
