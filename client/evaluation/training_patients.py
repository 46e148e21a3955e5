"""Keeps patients that a model was trained on out of its evaluation: they would flatter it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from fedsteph.client.data.problems import Problem
from fedsteph.client.models.model_file import LoadedModel
from fedsteph.client.models.new_patients import NewPatients
from fedsteph.common.errors import DataError

_UNKNOWN = "nothing is known of its training patients: its file holds no digests of their IDs"


def held_out(
    models: Mapping[str, Sequence[LoadedModel]], new: NewPatients, *, leave_out: bool
) -> tuple[NewPatients, int]:
    """The patients that no model was trained on, and how many are left out; IDs are compared as the models' site does.

    Args:
        models: name -> the models that predict together.
        leave_out: leave patients of a training part out, instead of refusing all.

    Raises:
        DataError: patients were in training, and are not to be left out; or nobody is left.
    """
    ids = [patient.id for patient in new.patients]
    trained = {
        name: {id_ for member in members if member.trained_on for id_ in member.trained_on.among(ids)}
        for name, members in models.items()
    }
    if not any(trained.values()):
        return new, 0
    name = next(name for name, found in trained.items() if found)
    found = set().union(*trained.values())
    if not leave_out:
        own = trained[name]
        what = f"{len(own)} of {len(ids)} patients were in the model's training, the first is '{min(own)}'"
        remedy = "Evaluate on other patients, or leave these out with --held-out-only"
        raise DataError(what, where=name, remedy=remedy)
    kept = tuple(patient for patient in new.patients if patient.id not in found)
    if not kept:
        what = f"all {len(ids)} patients were in training, so that nobody is left"
        if any(len(members) > 1 for members in models.values()):
            what += "; fold models together have seen every patient of their site"
        raise DataError(what, where=name, remedy="Evaluate on other patients, or a single fold's model")
    return replace(new, patients=kept), len(found)


def unknown_training(models: Mapping[str, Sequence[LoadedModel]]) -> tuple[Problem, ...]:
    """A warning for each model whose training patients are not known."""
    remedy = "A model that is made again holds them"
    return tuple(
        Problem("warning", name, _UNKNOWN, remedy)
        for name, members in models.items()
        if any(member.trained_on is None for member in members)
    )
