"""Encoders trained together with the other sites (FedAvg, FedProx, pooled data), fine-tuned at the target."""

from __future__ import annotations

from fedsteph.client.methods.task import Method, Task, Trained, learnable_parameters
from fedsteph.client.training.local import train_local
from fedsteph.common.host.progress import Progress


def fine_tuned(name: str) -> Method:
    """Local training that starts from the common encoder instead of M0."""

    def method(task: Task, progress: Progress) -> Trained:
        label, run = f"{name} fold {task.fold}", task.run(name, progress)
        model = train_local(task.train, task.recipe, label=label, run=run, start=task.globals[name])
        return Trained(model, learnable_parameters(model))

    return method


METHODS: dict[str, Method] = {name: fine_tuned(name) for name in ("fedavg", "fedprox", "pooled")}
