"""The file of a clinical model, beside the final model whose risks it takes; both stay at the site.

It holds coefficients, medians, levels and a baseline hazard, and no patient's ID. Of a small site they still tell
something of single patients, such as the median age or a level that one patient has.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from fedsteph.client.clinical.clinical_model import ClinicalModel
from fedsteph.common.config.digest import to_dict
from fedsteph.common.config.schema import build
from fedsteph.common.errors import ConfigError, ModelFileError
from fedsteph.common.host.checked_file import read_json, write_json

_FORMAT = "fedsteph/clinical/v1"
_REMEDY = "Merge again, or give the final model with the clinical.json that was made with it"


def clinical_path(model: Path) -> Path:
    """Where the clinical model of a final model lies: ``clinical.json`` beside it."""
    return model.with_name("clinical.json")


def write_clinical(model: Path, found: ClinicalModel) -> None:
    """Write the clinical model that goes with the final model in this file."""
    content = {"format": _FORMAT, "model_sha256": _digest(model), "clinical": to_dict(found)}
    write_json(clinical_path(model), content)


def read_clinical_model(model: Path) -> ClinicalModel | None:
    """The clinical model beside a final model; None if there is none.

    Raises:
        ModelFileError: the file is damaged or of another version, or was made with another final model.
    """
    path = clinical_path(model)
    if not (model.is_file() and path.is_file()):
        return None
    content = read_json(path, ModelFileError, _REMEDY)
    if content.get("format") != _FORMAT:
        raise ModelFileError("is of another version", where=path, remedy=_REMEDY)
    if content.get("model_sha256") != _digest(model):
        raise ModelFileError(f"was not made with {model.name}", where=path, remedy=_REMEDY)
    try:
        return build(ClinicalModel, content.get("clinical"), path)
    except ConfigError as error:
        raise ModelFileError(error.what, where=path, remedy=_REMEDY) from error


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
