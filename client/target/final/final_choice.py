"""Chooses how a target's final model is made, by what its folds found out on their training patients."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median_low

from fedsteph.client.evaluation.decision import Decision, Selection, choose_deployed, without_merge
from fedsteph.client.evaluation.over_folds import over_folds
from fedsteph.client.target.fold_result import FoldResult
from fedsteph.common.config.recipe import Recipe
from fedsteph.common.vector.task_vector import TaskVector


@dataclass(frozen=True)
class FinalChoice:
    """Gamma and the scores of inner validation, the factor on each source's vector, and the vectors that are left."""

    selection: Selection
    weights: Mapping[str, float]  # source -> factor; 0: left out
    vectors: Mapping[str, TaskVector]  # of the sources with another factor than 0, multiplied by it

    def decision(self, margin: float, is_collapsed: bool = False) -> Decision:
        """Whether the local or the enhanced model is the final one, by the rule of a fold."""
        if self.vectors:
            return choose_deployed(self.selection, is_collapsed, margin)
        return without_merge(self.selection, "the screening left out every source: there is nothing to merge")


def final_choice(folds: Sequence[FoldResult], vectors: Mapping[str, TaskVector], recipe: Recipe) -> FinalChoice:
    """Choose from the selections and the screening of all folds; test patients have no influence.

    A source's factor is the median of its factors in the folds; of an even number, the lower one in the middle.

    Args:
        vectors: source -> received vector.
    """
    weights = {name: median_low(fold.verdicts[name].weight for fold in folds) for name in vectors}
    left = {name: vectors[name] if w == 1.0 else w * vectors[name] for name, w in weights.items() if w > 0}
    return FinalChoice(over_folds([fold.selection for fold in folds], recipe), weights, left)
