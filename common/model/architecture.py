"""The architecture of a base model: its kind and layer sizes. Only models of the same one can be merged."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import asdict, dataclass

from fedsteph.common.config.recipe import ModelConfig
from fedsteph.common.encoders.base_kinds import kind_of
from fedsteph.common.encoders.kind import Kind, Shapes, Sizes
from fedsteph.common.errors import ConfigError

_ABMIL = "abmil"


@dataclass(frozen=True)
class Architecture:
    """Kind, layer sizes, and how many instances of a bag the model looks at.

    Raises:
        ConfigError: there is no such kind.
        ValueError: the kind cannot have these sizes.
    """

    width: int  # d, features per instance
    embed: int
    attention: int
    n_bins: int
    kind: str = _ABMIL
    most_instances: int | None = None  # of a bag, from which so many are drawn; None: all are used

    def __post_init__(self) -> None:
        self.encoder_kind.require(self.sizes)

    @classmethod
    def of(cls, config: ModelConfig) -> Architecture:
        """The architecture of a configuration. Raises ConfigError if the configuration has no width."""
        if config.width is None:
            raise ConfigError(
                "the feature width is not set", where="model.width", remedy="Set it to the encoder's width"
            )
        sizes = config.width, config.embed, config.attention, config.n_bins
        return cls(*sizes, config.kind, config.max_instances or kind_of(config.kind).most_instances)

    @property
    def encoder_kind(self) -> Kind:
        """The kind of base model."""
        return kind_of(self.kind)

    @property
    def sizes(self) -> Sizes:
        """The sizes of the encoder's layers."""
        return Sizes(self.width, self.embed, self.attention)

    @property
    def encoder_shapes(self) -> Shapes:
        """Names and shapes of the encoder tensors, which are merged, in their fixed order."""
        return self.encoder_kind.shapes(self.sizes)

    @property
    def n_merged(self) -> int:
        """P, the number of parameters in the encoder tensors, and so in a task vector."""
        return sum(math.prod(shape) for shape in self.encoder_shapes.values())

    @property
    def digest(self) -> str:
        """SHA-256 of the sizes and of the encoder tensors' names and shapes."""
        schema = {"sizes": self.to_dict(), "tensors": list(self.encoder_shapes.items())}
        return hashlib.sha256(json.dumps(schema, sort_keys=True).encode()).hexdigest()

    def to_dict(self) -> dict[str, int | str]:
        """As model files tell it: without kind and instances for an ABMIL of all of them, as before there were others.

        :class:`Architecture` of these keys is the same again.
        """
        found = {key: value for key, value in asdict(self).items() if value is not None}
        return {key: value for key, value in found.items() if (key, value) != ("kind", _ABMIL)}
