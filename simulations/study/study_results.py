"""The content of a study's ``results.json``; optional keys are missing in those of earlier versions."""

from __future__ import annotations

from typing import Any, NotRequired, TypedDict


class Level(TypedDict):
    """A row's mean C-index over targets."""

    mean: float | None
    interval_95: list[float] | None


class Comparison(TypedDict):
    """A row's difference in C-index to a reference."""

    difference: float | None
    interval_95: list[float] | None
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
    against: dict[str, Comparison]


class StudyTarget(TypedDict):
    """A target, with all complete rows."""

    n_patients: int
    n_events: int
    rows: dict[str, TargetRow]


class Paid(TypedDict):
    """What training took."""

    seconds: float
    peak_bytes: float


class Costs(Paid):
    """What a row costs; ``network_bytes`` is None if all data were sent to one place."""

    learnable: int
    gigaflops: float | None
    network_bytes: int | None


class Strongest(TypedDict):
    """The attack that does best over all sites."""

    attack: str
    auc: float
    auc_interval_95: list[float] | None
    auc_largest: float
    sites: int
    sites_above_chance: int
    tpr: float


class AttackedRow(Strongest):
    """With the largest epsilon reported and shown, and the bytes of a vector."""

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


class CellRow(Scored, Paid):
    """One cell; ``shown``: the method whose model it is."""

    row: str
    target: str
    seed: int
    fold: int
    shown: str


class UnitFailure(TypedDict):
    """A training that failed."""

    what: str
    fold: int
    seed: int
    reason: str


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
    failures: list[UnitFailure]
    versions: dict[str, str]
    seconds: NotRequired[float]
