"""Resolves the device that a site's configuration names; a missing GPU is an error, never a silent fallback."""

from __future__ import annotations

import re

import torch

from fedsteph.common.errors import ConfigError, DeviceError
from fedsteph.common.host.crew import n_cores


def resolve_device(name: str) -> torch.device:
    """The device for ``auto`` (the first CUDA GPU, else the CPU), ``cpu``, ``cuda:N`` or ``mps`` (Apple's GPU).

    ``mps`` is used only by name: its sums are not those of a CPU to the last digit.

    Raises:
        ConfigError: any other name.
        DeviceError: the named GPU is not available.
    """
    if name in ("auto", "cpu"):
        return torch.device("cuda:0" if name == "auto" and torch.cuda.is_available() else "cpu")
    if name == "mps":
        if torch.backends.mps.is_available():
            return torch.device(name)
        what = "mps was asked for, but torch can use no Apple GPU on this machine"
        raise DeviceError(what, where="device", remedy="Use auto or cpu; mps needs a Mac with Apple silicon")
    if re.fullmatch(r"cuda:\d{1,3}", name) is None:
        raise ConfigError(f"unknown device {name!r}", where="device", remedy="Use auto, cpu, cuda:N or mps")
    index, n_devices = int(name.removeprefix("cuda:")), torch.cuda.device_count()
    if index >= n_devices:
        raise DeviceError(
            f"{name} was asked for, but this machine has {n_devices} CUDA device(s) that torch can use",
            where="device",
            remedy="Use auto or cpu, or install a torch build with CUDA",
        )
    return torch.device(name)


def usual_workers(device: torch.device) -> int:
    """The default number of worker processes: one per available core; one on a GPU, whose memory they would share."""
    return n_cores() if device.type == "cpu" else 1
