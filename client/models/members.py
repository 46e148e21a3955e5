"""Opens what predicts: one model, a final one of several members, or a folder of models, such as those of all folds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from fedsteph.client.models.final_file import Members, load_file
from fedsteph.client.models.model_file import LoadedModel, load_model
from fedsteph.common.errors import ModelFileError

_ENDING = ".safetensors"


def load_members(model: LoadedModel | Path | str) -> Members:
    """What predicts together: a final model's members, the one model of another file, or the models of a folder.

    In a folder with ``fold_0.safetensors``, only such models of folds count, so that a final model beside them is not
    mixed with them. Local and enhanced ones may be mixed, as the choice between them is made in each fold.

    Raises:
        ModelFileError: as :func:`load_model`; or a folder holds no model file, or one that does not fit the others: a
            final one, or of another architecture, extraction of the features, or M0.
    """
    if isinstance(model, LoadedModel):
        return Members((model,))
    folder = Path(model)
    if not folder.is_dir():
        return load_file(folder)
    paths = sorted(folder.glob(f"fold_*{_ENDING}")) or sorted(folder.glob(f"[!.]*{_ENDING}"))
    if not paths:
        remedy = f"Give a model file, or a folder of them such as 'deployed', with fold_0{_ENDING} in it"
        raise ModelFileError(f"holds no {_ENDING} file", where=folder, remedy=remedy)
    members = tuple(load_model(path) for path in paths)
    for path, member in zip(paths, members, strict=True):
        if differs := _difference(member, members[0]):
            what = f"cannot predict together with {paths[0].name}: {differs}"
            raise ModelFileError(
                what, where=path, remedy="Give one of the files, or a folder of models that fit together"
            )
    return Members(members)


def followed_by_all(models: Sequence[LoadedModel]) -> int | None:
    """Years for which every model's training patients were followed; None if a file does not state it."""
    stated = [model.followed_years for model in models if model.followed_years is not None]
    return min(stated) if len(stated) == len(models) else None


def _difference(one: LoadedModel, first: LoadedModel) -> str:
    if one.architecture != first.architecture:
        return f"its architecture is {one.architecture}, the other's {first.architecture}"
    if not one.extraction.agrees_with(first.extraction):
        return f"it is for features of {one.extraction}, the other for {first.extraction}"
    return "" if one.m0 == first.m0 else "they started from different M0"
