"""A model used: each patient's risk, yearly survival, and the sources that were kept for them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from client.data.bags import BagCache, Cohort
from client.data.discovery import open_features
from client.data.labels import Patient
from client.model_file import LoadedModel, load_model
from client.steph.model import Steph
from common import atomic
from common.concordance import pairs
from common.survival import risk_score, survival_from_hazards


@dataclass(frozen=True)
class Prediction:
    """How a prediction went; ``c_index`` where outcomes were given and a pair is comparable."""

    n_patients: int
    c_index: float | None
    n_comparable: int
