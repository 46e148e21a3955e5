"""torch's optimizers without its compiler, whose import takes a second of every process that trains.

Nothing here is compiled, so they do the same without it. Methods that torch wraps for its compiler are taken unwrapped;
where it wraps none, they are taken as they are.
"""

from __future__ import annotations

from typing import Any, TypeVar

import torch

Optimizer = TypeVar("Optimizer", bound=torch.optim.Optimizer)


def uncompiled(kind: type[Optimizer]) -> type[Optimizer]:
    """The same optimizer, for parameters that need no gradient of a step itself (``differentiable``)."""
    names = ("add_param_group", "zero_grad", "state_dict", "load_state_dict")
    methods: dict[str, Any] = {name: _plain(kind, name) for name in names}
    methods["step"] = torch.no_grad()(_plain(kind, "step"))
    return type(kind.__name__, (kind,), methods)


def _plain(kind: type[torch.optim.Optimizer], name: str) -> Any:
    method = getattr(kind, name)
    return getattr(method, "__wrapped__", method)


AdamW = uncompiled(torch.optim.AdamW)
LBFGS = uncompiled(torch.optim.LBFGS)
