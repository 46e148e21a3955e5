"""How much each kind of model counts in a target's panel, and when the panel is deployed."""

from __future__ import annotations

from dataclasses import dataclass

from fedsteph.common.config.require import require

GROUPS = ("steph", "local", "same_cancer", "other_cancers")


@dataclass(frozen=True)
class PanelConfig:
    """The panel: the target's models and the received ones that have a head predict a patient's risk together.

    The weights are log hazard ratios per standard deviation of a group's risk. A site's own patients move them, the
    less the fewer events there are. Groups without a model have none.
    """

    steph: float = 0.2  # expected weight of the enhanced model [0 to 2]
    local: float = 0.2  # expected weight of the target's own model [0 to 2]
    # expected weight of the received models of the target's cancer, together [0 to 2]
    same_cancer: float = 0.4
    other_cancers: float = 0.2  # expected weight of the received models of other cancers, together [0 to 2]
    doubt: float = 0.1  # standard deviation of a weight around what is expected; 0: none is learned [0 to 2]
    # standard errors by which the panel's held-out partial likelihood must exceed the local model's to be deployed;
    # below 0: by which it may fall short [-10 to 10]
    margin: float = -3.0

    def __post_init__(self) -> None:
        for key in (*GROUPS, "doubt"):
            require(0 <= getattr(self, key) <= 2, key, "0 to 2")
        require(self.steph + self.local > 0, "local", "above 0 where steph is 0")
        require(-10 <= self.margin <= 10, "margin", "-10 to 10")

    def expected(self, group: str) -> float:
        """The expected weight of one of :data:`GROUPS`."""
        return float(getattr(self, group))
