"""Computes the local and the enhanced model's attention over the slides of one patient, which are one bag."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fedsteph.client.data.formats import read_features
from fedsteph.client.data.instances import InstanceRule
from fedsteph.client.models.final_file import Members
from fedsteph.client.models.model_file import LoadedModel
from fedsteph.client.models.predict import require_extraction
from fedsteph.common.errors import DataError


@dataclass(frozen=True)
class BagAttention:
    """Attention over a bag of several slides."""

    paths: Sequence[Path]  # of the slides' feature files
    slides: Sequence[torch.Tensor]  # their instances, (n, d) each
    places: np.ndarray  # (n_seen,) ascending: the instances of the bag that the models look at
    attention: Mapping[str, np.ndarray]  # model -> (n_seen,); sums to 1

    def of_slide(self, i: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """The places in the i-th slide's file that the models look at, and their attention."""
        first = sum(len(slide) for slide in self.slides[:i])
        own = (self.places >= first) & (self.places < first + len(self.slides[i]))
        return self.places[own] - first, {model: values[own] for model, values in self.attention.items()}

    @property
    def most(self) -> int:
        """The slide that has the most attention: the enhanced model's, if there is one."""
        model = [*self.attention][-1]
        return int(np.argmax([self.of_slide(i)[1][model].sum() for i in range(len(self.slides))]))


def bag_attention(members: Members, paths: Sequence[Path]) -> BagAttention:
    """Read the slides of a patient, and compute the attention of all models over them; of several, the mean.

    Raises:
        FeatureFileError, EncoderError: a file cannot be used, or its features are not as the models'.
        ConfigError: the models are of a kind that gives instances no scores.
        DataError: a slide is named twice.
    """
    if len({path.resolve() for path in paths}) < len(paths):
        raise DataError("would be in the bag twice", where=paths[0], remedy="Name each slide once")
    architecture, slides = members.models[0].architecture, []
    for path in paths:
        for loaded in members.models:
            require_extraction(loaded, path)
        slides.append(torch.from_numpy(read_features(path, width=architecture.width)))
    bag, rule = torch.cat(slides), InstanceRule.of(architecture)
    seen = rule.rows(bag, rule.near_of(paths) if rule.neighbours else None)
    attention = {
        name: np.mean([one.attention(seen).double().numpy() for one in models], axis=0)
        for name, models in _models(members.models).items()
    }
    return BagAttention(paths, slides, rule.places(len(bag)), attention)


def _models(loaded: Sequence[LoadedModel]) -> dict[str, list[Any]]:
    """The local and the enhanced models; a local one stands for itself beside enhanced ones, as in a prediction."""
    if not any(one.sources for one in loaded):
        return {"local": [one.model for one in loaded]}
    own = [one.local.model if one.local is not None else one.model for one in loaded if one.local or not one.sources]
    return ({"local": own} if len(own) == len(loaded) else {}) | {"enhanced": [one.model for one in loaded]}
