"""Federated, private survival models from whole-slide images by sparse task vector mixup (STEPH).

The public names, for notebooks and scripts. docs/api.md shows them in use. The commands call the same functions.

=================  =====================================================================================
``Site``           a site's folder: ``Site.open("sites/kirp")``
``load_config``    a federation's configuration, with ``key=value`` overrides
``initial_model``  M0, the untrained model that every site's training starts from
``train_site``     train a site's own models: one per fold, and one on all of its patients
``TaskVector``     ``tau = M - M0``, with ``+``, ``-``, ``*`` and a norm
``save_vector``    write a task vector to a file; ``load_vector`` reads and checks one
``enhance``        merge received task vectors with a site's own into enhanced models (STEPH)
``load_model``     read a model file, local or enhanced
``predict``        each patient's risk and yearly survival, as a DataFrame
``evaluate``       measure models on patients that they were not trained on
``simulate``       run a whole federation on this machine
``read_results``   read the results of a simulation or a benchmark
``FedstephError``  base class of all errors that fedsteph raises on purpose
=================  =====================================================================================

Each name is loaded when it is first used: ``import fedsteph`` alone loads neither torch nor Flower.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fedsteph.client.evaluation.external import evaluate
    from fedsteph.client.models.model_file import load_model
    from fedsteph.client.site.prediction import predict
    from fedsteph.client.site.site import Site
    from fedsteph.client.target.enhance import enhance
    from fedsteph.client.target.train_alone import train_site
    from fedsteph.common.config.run_config import load_config
    from fedsteph.common.errors import FedstephError
    from fedsteph.common.model.initial_model import initial_model
    from fedsteph.common.vector.task_vector import TaskVector
    from fedsteph.common.vector.vector_file import load_vector, save_vector
    from fedsteph.simulations.run.simulate import read_results, simulate

__all__ = [
    "FedstephError",
    "Site",
    "TaskVector",
    "enhance",
    "evaluate",
    "initial_model",
    "load_config",
    "load_model",
    "load_vector",
    "predict",
    "read_results",
    "save_vector",
    "simulate",
    "train_site",
]

_HOMES = {
    "FedstephError": "common.errors",
    "Site": "client.site.site",
    "TaskVector": "common.vector.task_vector",
    "enhance": "client.target.enhance",
    "evaluate": "client.evaluation.external",
    "initial_model": "common.model.initial_model",
    "load_config": "common.config.run_config",
    "load_model": "client.models.model_file",
    "load_vector": "common.vector.vector_file",
    "predict": "client.site.prediction",
    "read_results": "simulations.run.simulate",
    "save_vector": "common.vector.vector_file",
    "simulate": "simulations.run.simulate",
    "train_site": "client.target.train_alone",
}

_HERE = Path(__file__).resolve().parent
if not all((_HERE / folder).is_dir() for folder in ("client", "common", "configs", "server", "simulations")):
    # In a bundle made by 'flwr build', and in a checkout without symbolic links, the packages are beside this folder.
    __path__.append(str(_HERE.parent))


def __getattr__(name: str) -> Any:
    """Import a name of :data:`__all__` from its module on first use (PEP 562)."""
    if name == "__version__":
        from importlib.metadata import version

        return version(__name__)
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = globals()[name] = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    return found


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
