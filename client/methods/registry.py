"""All comparators, by their names in :mod:`fedsteph.common.config.method_names`."""

from __future__ import annotations

from fedsteph.client.methods import ablations, ensembles, headed, merged, pulled, together
from fedsteph.client.methods.averaging import half_average, model_average, start_average, task_arithmetic
from fedsteph.client.methods.frozen import best_source, tuned_head
from fedsteph.client.methods.roupkt import roupkt
from fedsteph.client.methods.steph_panel import panel
from fedsteph.client.methods.task import Method

REGISTRY: dict[str, Method] = {
    "tuned_head": tuned_head,
    "best_source": best_source,
    "roupkt": roupkt,
    "model_average": model_average,
    "half_average": half_average,
    "start_average": start_average,
    "task_arithmetic": task_arithmetic,
    "panel": panel,
    **headed.METHODS,
    **ensembles.METHODS,
    **pulled.METHODS,
    **merged.METHODS,
    **ablations.METHODS,
    **together.METHODS,
}
