"""Fits the clinical model that goes with the final model: on all tested patients, by risks of models without them."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from fedsteph.client.clinical.clinical_file import clinical_path, write_clinical
from fedsteph.client.clinical.clinical_model import ClinicalModel
from fedsteph.client.clinical.slide_scale import SlideScale
from fedsteph.client.data.tables.clinical_table import ClinicalValues
from fedsteph.client.models.members import load_members
from fedsteph.client.target.fold_result import FoldResult
from fedsteph.client.target.slide_added import out_of_fold
from fedsteph.client.target.target_result import FINAL, TargetResult
from fedsteph.common.errors import TrainingError

_log = logging.getLogger(__name__)


def write_final_clinical(
    state: Path, values: ClinicalValues | None, folds: Sequence[FoldResult], result: TargetResult
) -> None:
    """Write ``clinical.json`` beside the final model, or remove that of an earlier merge where none can be made.

    A patient's risk is that of the fold's model that the patient tested, of the kind that the final model is.
    """
    model = state / FINAL
    clinical_path(model).unlink(missing_ok=True)
    if values is None or result.final is None or result.clinical is None or not result.clinical.added:
        return
    ids, slide, times, events = out_of_fold(folds, result.final.choice)
    reference = load_members(model).reference
    assert reference is not None  # every final model's file has it
    try:
        found = ClinicalModel.fit(values.of(ids), slide, SlideScale.of(reference), times, events)
    except TrainingError as error:
        _log.warning("no clinical model is written beside the final one: %s", error.sentence)
    else:
        write_clinical(model, found)
