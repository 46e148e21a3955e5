"""Resolves the device that a site's configuration names; a missing GPU is an error, never a silent fallback."""

from __future__ import annotations

import re

import torch

from fedsteph.common.errors import ConfigError, DeviceError


def resolve_device(name: str) -> torch.device:
    """The device for ``auto`` (the first GPU, else the CPU), ``cpu`` or ``cuda:N``.

    Raises:
        ConfigError: any other name.
        DeviceError: the named GPU is not available.
    """
    if name in ("auto", "cpu"):
        return torch.device("cuda:0" if name == "auto" and torch.cuda.is_available() else "cpu")
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
