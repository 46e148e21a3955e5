"""The ``data:`` section of a site file: defaults that are right, and mistakes that are named."""

from __future__ import annotations

import re

import pytest
from each_case import each

from fedsteph.client.data.settings import Columns, DataSettings
from fedsteph.common.config.schema import build, parse_yaml
from fedsteph.common.errors import ConfigError


def parse(text: str) -> DataSettings:
    return build(DataSettings, parse_yaml(text, "site.yaml"), "site.yaml", "data.")


def test_an_empty_section_is_the_defaults() -> None:
    assert parse("") == DataSettings()
    assert DataSettings().columns == Columns("patient_id", "pathology_id", "project", "t", "e", None)


def test_a_full_section() -> None:
    settings = parse(
        "{features: h5, labels: l.csv, time_unit: months, exclude: [S1, S.2], cache_gib: 0,"
        " columns: {patient: case, time: months, censorship: c}}"
    )
    assert settings.exclude == ("S1", "S.2")
    assert settings.columns == Columns(patient="case", time="months", censorship="c")


@each(("unit", "days"), [("days", 1), ("months", 365 / 12), ("years", 365)])
def test_units_in_days(unit: str, days: float) -> None:
    assert parse(f"time_unit: {unit}").days_per_unit == days


def test_the_unread_event_column_may_share_a_name() -> None:
    assert parse("columns: {event: c, censorship: c}").columns.censorship == "c"


@each(
    ("text", "fragment"),
    [
        ("feature: x", "Did you mean 'data.features'?"),
        ("features: ''", "data.features must name a path"),
        ("labels: ' '", "data.labels must name a path"),
        ("labels: 7", "'data.labels' must be text"),
        ("time_unit: weeks", "'data.time_unit' must be one of 'days', 'months', 'years'"),
        ("cache_gib: -1", "data.cache_gib must be 0 or more"),
        ("cache_gib: .inf", "'data.cache_gib' must be a finite number"),
        ("disk_cache: off", "'data.disk_cache' must be one of 'auto', 'stored', 'float16', 'never'"),
        ("exclude: S1", "'data.exclude' must be a list"),
        ("exclude: [S1, '']", "data.exclude must list slide IDs"),
        ("exclude: [7]", "'data.exclude[0]' must be text"),
        ("columns: {patients: x}", "Did you mean 'data.columns.patient'?"),
        ("columns: {patient: ''}", "data.columns.patient must be a column's name"),
        ("columns: {time: ' t'}", "data.columns.time must be a column's name"),
        ("columns: {slide: patient_id}", "data.columns.patient and slide are all the column 'patient_id'"),
        ("clinical: {age: number}", "'data.clinical.age' must be one of 'numeric', 'category' or a list"),
        ("clinical: {stage: [1, 2]}", "'data.clinical.stage' must be one of 'numeric', 'category' or a list"),
        ("clinical: {stage: [I]}", "data.clinical.stage must list two or more levels"),
        ("clinical: {stage: [I, II, I]}", "data.clinical.stage must list two or more levels, each once"),
        ("clinical: {stage: [I, ' II']}", "data.clinical.stage has an empty level, or one with spaces"),
        ("clinical: {' age': numeric}", "data.clinical must name columns without spaces"),
        ("clinical: {t: numeric}", "data.clinical must not name 't': an ID or an outcome is no clinical value"),
        ("columns: {censorship: t}", "data.columns.time and censorship are all the column 't'"),
    ],
)
def test_a_mistake_is_named(text: str, fragment: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(fragment)):
        parse(text)


def test_a_wrong_choice_is_refused_without_yaml_too() -> None:
    with pytest.raises(ValueError, match="disk_cache must be one of auto, stored, float16, never"):
        DataSettings(disk_cache="off")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="time_unit must be one of days, months, years"):
        DataSettings(time_unit="weeks")  # type: ignore[arg-type]
