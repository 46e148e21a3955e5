"""The content of a study's ``results.json``; optional keys are missing in those of earlier versions."""

from __future__ import annotations

from typing import Any, NotRequired, TypedDict


class Level(TypedDict):
    """A row's mean C-index over targets; ``together``: of the mean risk of all seeds, where there are several."""

    mean: float | None
    interval_95: list[float] | None
    together: NotRequired[Level]


class Comparison(TypedDict):
    """A row's difference in C-index to a reference; ``together``: of the mean risks of all seeds.

    ``interval_95_targets`` resamples the targets too, where there are enough of them.
    """

    difference: float | None
    interval_95: list[float] | None
    interval_95_targets: NotRequired[list[float] | None]
    together: NotRequired[Comparison]
    targets_won: int
    targets: int
    worst_target: float | None
    folds_won: int
    folds: int


class TargetRow(TypedDict):
    """A row on one target: ``c_index[seed][fold]``, and standard deviations over folds and over seeds."""

    c_index: list[list[float | None]]
    fold_intervals_95: NotRequired[list[list[float] | None]]
    mean: float | None
    interval_95: NotRequired[list[float] | None]
    sd: float | None
    seed_sd: float | None
    together: NotRequired[Level]
    against: dict[str, Comparison]


class StudyTarget(TypedDict):
    """A target, with all complete rows."""

    n_patients: int
    n_events: int
    rows: dict[str, TargetRow]


class Costs(TypedDict):
    """What a row costs; ``network_bytes`` is None if all data were sent to one place."""

    learnable: int
    gigaflops: float | None
    seconds: float
    peak_bytes: float
    network_bytes: int | None


class AttackedRow(TypedDict):
    """The attack that does best over all sites, and the largest epsilon that is reported, and that is shown."""

    attack: str
    auc: float
    auc_interval_95: list[float] | None
    auc_largest: float
    sites: int
    sites_above_chance: int
    tpr: float
    epsilon: float | None
    epsilon_at_least: float
    vector_bytes: int


class OverallRow(Level):
    """A row over all targets."""

    against: dict[str, Comparison]
    further: dict[str, float | None]
    alignment: float | None
    costs: Costs
    attack: NotRequired[AttackedRow | None]


class RowTold(TypedDict):
    """What a row is, and whether all its cells are finished."""

    title: str
    method: str
    source: str
    preset: str | None
    complete: bool


class Scored(TypedDict):
    """The scores of one cell; ``notes`` are the method's own."""

    c_index: float | None
    metrics: dict[str, float | None]
    alignment: float | None
    learnable: int
    gigaflops: float | None
    notes: dict[str, Any]


class CellRow(Scored):
    """One cell; ``shown``: the method whose model it is."""

    row: str
    target: str
    seed: int
    fold: int
    shown: str
    seconds: float
    peak_bytes: float


class StudyResults(TypedDict):
    """All of it."""

    schema: str
    sites: list[str]
    targets: dict[str, StudyTarget]
    seeds: list[int]
    against: list[str]
    folds: int
    rows: dict[str, RowTold]
    overall: dict[str, OverallRow]
    digests: NotRequired[dict[str, str]]
    configuration: NotRequired[dict[str, Any]]
    cells: list[CellRow]
    failures: list[dict[str, str | int]]  # what, fold, seed, reason
    versions: dict[str, str]
    seconds: NotRequired[float]
