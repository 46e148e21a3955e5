"""What the system knows of a kind of base model without torch: names, shapes, limits, and where its module is.

A base model is an encoder, which makes one vector ``z (embed,)`` of a bag, and a linear head on ``z``. All but the
module is known without torch, so that a coordinator can check a federation of any kind.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any, NamedTuple

from fedsteph.common.errors import ConfigError

Shape = tuple[int, ...]
Shapes = dict[str, Shape]


class Sizes(NamedTuple):
    """The layer sizes of an encoder."""

    width: int  # d, features per instance
    embed: int  # of z
    attention: int  # of hidden layers of the attention


@dataclass(frozen=True)
class Kind:
    """A kind of base model."""

    name: str  # as in ``model.kind``
    title: str  # as tables and cards show it
    source: str
    shapes: Callable[[Sizes], Shapes]  # of the encoder's tensors, in their fixed order
    module: str  # "module:class" of the encoder; "" for ABMIL's, which is a function of its weights
    # what ``sharing.layers`` and ``dp_sgd.trains`` name: layer -> beginnings of the names of its tensors
    layers: Mapping[str, tuple[str, ...]]
    direction: str | None = None  # the matrix (embed, d) whose rows are on the scale of z, if there is one
    multiple_of: tuple[int, int] = (1, 1)  # of embed and of attention
    most_instances: int | None = None  # of a bag; a larger one is sampled; None: as many as there are
    neighbours: int = 0  # in space, of every instance; above 0, slides need coords
    scores: bool = True  # whether it says how much each instance counts
    stacks: bool = False  # whether bags of one size are faster side by side than one after the other
    extra: str | None = None  # of fedsteph, that its module needs

    def require(self, sizes: Sizes) -> None:
        """Raise ValueError, which names the key, if the kind cannot have these sizes."""
        for key, size, multiple in zip(("embed", "attention"), sizes[1:], self.multiple_of, strict=True):
            if size % multiple:
                raise ValueError(f"{key} must be a multiple of {multiple} for kind {self.name}")

    def is_of(self, layer: str, tensor: str) -> bool:
        """Whether a tensor belongs to a layer; all belong to ``encoder``."""
        return layer == "encoder" or tensor.startswith(self.layers[layer])

    def encoder(self, sizes: Sizes, dropout: float) -> Any:
        """The encoder, an untrained ``torch.nn.Module`` whose parameters are the :attr:`shapes`.

        Its forward pass takes one bag ``(n_instances, d + neighbours)`` and gives ``z (embed,)`` and the instances'
        scores, ``(n_instances,)`` that sum to 1, or ``(0,)`` without :attr:`scores`.

        Raises:
            ConfigError: the extra that holds it is not installed, or it has buffers, which no task vector carries.
        """
        place, _, name = self.module.partition(":")
        try:
            made = getattr(import_module(place), name)(*sizes, dropout)
        except ImportError as error:
            what, remedy = f"kind {self.name} needs {error.name}", f"pip install 'fedsteph[{self.extra}]'"
            raise ConfigError(what, where="model.kind", remedy=remedy) from error
        if buffers := [name for name, _ in made.named_buffers()]:
            what = f"kind {self.name} has buffers ({', '.join(buffers)}), which no task vector carries"
            raise ConfigError(what, where="model.kind", remedy="Use layers without them, such as LayerNorm")
        return made


def linear(name: str, n_out: int, n_in: int, *, bias: bool = True) -> Shapes:
    """Names and shapes of a ``torch.nn.Linear``."""
    return {f"{name}.weight": (n_out, n_in)} | ({f"{name}.bias": (n_out,)} if bias else {})


def norm(name: str, n: int) -> Shapes:
    """Names and shapes of a ``torch.nn.LayerNorm``."""
    return {f"{name}.weight": (n,), f"{name}.bias": (n,)}
