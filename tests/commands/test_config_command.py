"""``fedsteph config`` and docs/configuration.md: every key, its meaning, and bounds that are those of the code."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
import yaml
from each_case import each

from fedsteph.client.data.settings import Columns, DataSettings
from fedsteph.client.privacy.dp_settings import DpSgd
from fedsteph.client.site.membership import MembershipFile
from fedsteph.client.site.policy import Policy
from fedsteph.client.site.site import Site
from fedsteph.client.site.site_file import SiteFile
from fedsteph.commands.configuration.as_markdown import configuration_markdown
from fedsteph.commands.configuration.as_yaml import commented_yaml
from fedsteph.commands.configuration.field_notes import Note, notes_of
from fedsteph.commands.configuration.files import FILES, federation_file, study_file
from fedsteph.commands.configuration.key_list import Key, every
from fedsteph.common.config import recipe as parts
from fedsteph.common.config.digest import digest, to_dict
from fedsteph.common.config.presets import DEFAULT_PRESET, PRESETS
from fedsteph.common.config.run_config import Config, Deadlines, FederationConfig, load_config
from fedsteph.common.config.schema import build
from fedsteph.common.deployment.health_settings import HealthSettings
from fedsteph.common.errors import ConfigError
from fedsteph.server.deployment.server_file import ServerFile
from fedsteph.simulations.study.study_file import StudyFile, Variant, load_study

DOCS = Path(__file__).parents[2] / "docs" / "configuration.md"
FEDERATION, SITE, SERVER, STUDY = (made() for made in FILES)
# Chapter of the document, prefix of the keys, what they are read into, and what else it needs.
SECTIONS: list[tuple[str, str, type, dict[str, Any]]] = [
    (FEDERATION.title, "", Config, {}),
    (FEDERATION.title, "model.", parts.ModelConfig, {}),
    (FEDERATION.title, "training.", parts.TrainingConfig, {}),
    (FEDERATION.title, "sharing.", parts.SharingConfig, {}),
    (FEDERATION.title, "steph.", parts.StephConfig, {}),
    (FEDERATION.title, "comparators.", parts.ComparatorConfig, {}),
    (FEDERATION.title, "evaluation.", parts.EvaluationConfig, {}),
    (FEDERATION.title, "final.", parts.FinalConfig, {}),
    (FEDERATION.title, "federation.", FederationConfig, {}),
    (FEDERATION.title, "federation.deadlines.", Deadlines, {}),
    (SITE.title, "", SiteFile, {}),
    (SITE.title, "data.", DataSettings, {}),
    (SITE.title, "data.columns.", Columns, {}),
    (SITE.title, "federation.", MembershipFile, dict.fromkeys(("roster", "sign_key", "seal_key"), "file")),
    (SITE.title, "policy.", Policy, {}),
    (SITE.title, "dp_sgd.", DpSgd, {}),
    (SITE.title, "health.", HealthSettings, {}),
    (SERVER.title, "", ServerFile, {"superlink": "127.0.0.1:1", "address": "127.0.0.1:2"}),
    (SERVER.title, "health.", HealthSettings, {}),
    (STUDY.title, "", StudyFile, {}),
    (STUDY.title, "variants.NAME.", Variant, {"method": "steph"}),
]


def chapters() -> dict[str, str]:
    """Title -> text of the document's chapters."""
    found = re.split(r"^## (.*)\n", DOCS.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return dict(zip(found[1::2], found[2::2], strict=True))


def row_of(title: str, path: str) -> list[str]:
    """The cells of a key's row, or the heading and the sentence of its section."""
    text = chapters()[title]
    if section := re.search(rf"^### {re.escape(path)}\n\n(.+)\n", text, flags=re.MULTILINE):
        return [path, section[1]]
    (row,) = (line for line in text.splitlines() if line.startswith(f"| `{path}` |"))
    return [cell.strip() for cell in row.strip("|").split(" | ")]


def test_the_document_is_current() -> None:
    remedy = "fedsteph config --markdown > docs/configuration.md"
    assert DOCS.read_text(encoding="utf-8") == configuration_markdown(), remedy


def test_every_field_is_in_the_document_with_a_meaning() -> None:
    for title, prefix, cls, _ in SECTIONS:
        for made in fields(cls):
            meaning = row_of(title, f"{prefix}{made.name}")[1]
            assert len(meaning.split()) >= 3, f"{prefix}{made.name}: {meaning}"


def test_rows_say_what_the_code_does() -> None:
    title = FEDERATION.title
    assert row_of(title, "training.batch_bags")[2:] == ["`16`", "whole number, 1 to 4096", "robust: `64`"]
    assert row_of(title, "steph.gamma")[2:] == ["`cv`", "number, at least 0, or cv", "robust: `0.0`"]
    changed = row_of(title, "steph.gamma_grid")
    assert changed[2::2] == ["`[0.0, 0.005, 0.05]`", "paper: `[0.005, 0.05]`, robust: `[0.0]`"]
    assert row_of(title, "preset")[2:4] == [f"`{DEFAULT_PRESET}`", "paper, robust or null"]
    assert row_of(SITE.title, "federation.roster")[2] == "must be given"
    assert row_of(SITE.title, "policy.recipes")[3] == "list of texts, 64 hexadecimal digits each, or any"


def test_presets_are_those_of_the_configuration() -> None:
    """What the table has for a key under a preset is what a file with that preset gets."""
    for name in PRESETS:
        resolved = to_dict(load_config(None, [f"preset={name}"]), whole=True)
        for key in leaves(FEDERATION.keys):
            if key.path != "preset":
                value = resolved
                for part in key.path.split("."):
                    value = value[part]
                assert key.presets.get(name, key.default) == (list(value) if isinstance(value, tuple) else value)


@pytest.mark.parametrize("preset", [*PRESETS, "null"])
def test_the_printed_configuration_is_complete_and_the_same(cli: Any, preset: str, tmp_path: Path) -> None:
    code, out, _ = cli("config", "--preset", preset, "--set", "training.lr=1e-7", "--set", "federation.sites=[a, b]")
    file = tmp_path / "federation.yaml"
    file.write_text(out, encoding="utf-8")
    expected = load_config(None, [f"preset={preset}", "training.lr=1e-7", "federation.sites=[a, b]"])
    assert code == 0 and digest(load_config(file)) == digest(expected)
    printed = yaml.safe_load(out)
    assert {path for path, _ in flat(printed)} == {path for path, _ in flat(to_dict(expected, whole=True))}
    assert max(len(line) for line in out.splitlines()) <= 120
    squeezed = " ".join(out.replace("#", " ").split())
    assert all(" ".join(key.meaning.split()) in squeezed for key in every(FEDERATION.keys))
    assert cli("config", "--config", file)[1] == out


def test_without_a_preset_it_is_the_default(cli: Any, tmp_path: Path) -> None:
    assert cli("config")[1] == cli("config", "--preset", DEFAULT_PRESET)[1]
    file = tmp_path / "paper.yaml"
    file.write_text("preset: paper\n")
    assert cli("config", "--config", file)[1] == cli("config", "--preset", "paper")[1]


@pytest.mark.parametrize(
    "text", ["cuda:0", "a # b", "a: b", "two\nlines", "'", "1e-3", "null", "", "naïve", "- x", "#"]
)
def test_any_text_reads_back(text: str, tmp_path: Path) -> None:
    config = Config(device=text)
    file = tmp_path / "federation.yaml"
    file.write_text(commented_yaml("About.", federation_file().keys, to_dict(config, whole=True)), encoding="utf-8")
    assert load_config(file) == config


def test_the_site_file_reads_back_with_and_without_its_sections(cli: Any, tmp_path: Path) -> None:
    _, out, _ = cli("config", "--site")
    file = tmp_path / "kirp" / "site.yaml"
    file.parent.mkdir()
    file.write_text(out)
    assert Site.open(file) == Site.open(file.parent) and build(SiteFile, yaml.safe_load(out), file) == SiteFile()
    whole = yaml.safe_load(uncommented(out))
    assert set(whole) == {made.name for made in fields(SiteFile)}
    with pytest.raises(ConfigError, match="privacy is none"):
        build(SiteFile, whole, file)
    whole |= {"privacy": "dp-sgd"}
    whole["dp_sgd"] |= {"epsilon": 8}
    opened = build(SiteFile, whole, file)
    assert (opened.policy, opened.dp_sgd, opened.health) == (Policy(), DpSgd(epsilon=8.0), HealthSettings())


def test_the_server_file_reads_back(cli: Any, tmp_path: Path) -> None:
    file = tmp_path / "server.yaml"
    out = cli("config", "--server")[1]
    for text, health in ((out, None), (uncommented(out), HealthSettings())):
        file.write_text(text)
        opened = ServerFile.open(file)
        assert (opened.superlink, opened.health) == ("127.0.0.1:9091", health)
    assert set(yaml.safe_load(file.read_text())) == {made.name for made in fields(ServerFile)}


@pytest.mark.parametrize("preset", PRESETS)
def test_the_study_reads_back_and_its_rows_may_have_another_preset(cli: Any, preset: str, tmp_path: Path) -> None:
    file = tmp_path / "study.yaml"
    out = cli("config", "--study", "--preset", preset)[1]
    for text in (out, uncommented(out)):
        file.write_text(text)
        study = load_study(file, sites=tmp_path)
        assert [row.config for row in study.rows] == [load_config(None, [f"preset={preset}"])] * len(study.rows)
        assert [row.name for row in study.rows] == [*StudyFile.methods, *(["NAME"] if text is not out else [])]
    file.write_text(out + "variants: {other: {method: steph, recipe: {preset: paper}}}\n")
    assert load_study(file, sites=tmp_path).rows[-1].config == load_config(None, ["preset=paper"])


def test_every_example_is_of_a_key_that_must_be_given() -> None:
    required = {key.path for file in (SITE, SERVER, study_file()) for key in every(file.keys) if key.required}
    assert required == {
        "superlink",
        "address",
        "variants.NAME.method",
        *(f"federation.{name}" for name in ("roster", "roster_sha256", "sign_key", "seal_key")),
    }


def test_a_wrong_use_is_one_clear_line(cli: Any, refused: Callable[..., str], tmp_path: Path) -> None:
    together = "does not go with"
    assert refused("config", "--site", "--server") == f"config: --site {together} --server. Leave one of them out"
    assert f"--study {together} --config" in refused("config", "--study", "--config", "x.yaml", "--preset", "paper")
    assert f"--markdown {together} --preset" in refused("config", "--markdown", "--preset", "paper")
    assert f"--server {together} --set" in refused("config", "--server", "--set", "steph.K=3")
    assert refused("config", "--preset", "ours").startswith("--preset: unknown preset 'ours'. Known presets: paper")
    assert "steph.k" in refused("config", "--set", "steph.k=3")
    assert "cannot be read" in refused("config", "--config", tmp_path / "none.yaml")
    assert "No such option" in refused("config", "--sites")


def test_the_markdown_is_printed(cli: Any) -> None:
    assert cli("config", "--markdown") == (0, DOCS.read_text(encoding="utf-8"), "")


def numeric() -> Iterator[tuple[type, dict[str, Any], str, type, str]]:
    for _, _, cls, needed in SECTIONS:
        hints, notes = get_type_hints(cls), notes_of(cls)
        for made in fields(cls):
            for kind in (int, float):
                if kind in (hints[made.name], *get_args(hints[made.name])) and "tuple" not in str(hints[made.name]):
                    yield cls, needed, made.name, kind, notes[made.name].bounds


def probes(bounds: str, kind: type) -> tuple[set[float], set[float]]:
    """Values at the bounds that must be taken, and values beyond them that must be refused."""
    number = r"(-?\d+(?:\.\d+)?(?:\^\d+ - 1)?)"

    def value(text: str) -> float:
        power = re.fullmatch(r"2\^(\d+) - 1", text)
        return 2 ** int(power[1]) - 1 if power else kind(text)

    def beside(x: float, sign: int) -> float:
        return x + sign if kind is int else math.nextafter(x, sign * math.inf)

    taken, refused = set[float](), set[float]()
    for low, high in re.findall(rf"{number} to {number}", bounds):
        taken |= {value(low), value(high)}
        refused |= {beside(value(low), -1), beside(value(high), 1)}
    for word, text in re.findall(rf"(at least|at most|above|below) {number}", bounds):
        sign = -1 if word in ("at least", "above") else 1
        inside = word.startswith("at ")
        (taken if inside else refused).add(value(text))
        (refused if inside else taken).add(beside(value(text), sign if inside else -sign))
    return taken, refused


@each(("cls", "needed", "key", "kind", "bounds"), [*numeric()])
def test_numbers_have_the_bounds_that_are_told(cls, needed, key, kind, bounds) -> None:
    taken, refused = probes(bounds.replace("to epochs", f"to {parts.TrainingConfig.epochs}"), kind)
    assert taken and refused, f"{key} tells no bounds: [{bounds}]"
    needed = needed | ({"roster_sha256": "0" * 64} if cls is MembershipFile else {})
    for value in taken:
        cls(**needed | {key: value})
    for value in refused:
        with pytest.raises(ValueError) as caught:
            cls(**needed | {key: value})
        if cls.__module__ == parts.__name__:
            assert str(caught.value).startswith(f"{key} must be {bounds}")


@each(
    ("cls", "key", "taken", "refused"),
    [
        (parts.ModelConfig, "encoder", ["x" * 120], ["", "x" * 121, "two\nlines"]),
        (parts.ModelConfig, "m0_sha256", ["0f" * 32], ["0f" * 31, "0g" * 32]),
        (parts.ModelConfig, "m0", [None, "m0.safetensors"], ["", " "]),
        (SiteFile, "m0", [None, "m0.safetensors"], ["", " "]),
        (parts.StephConfig, "gamma_grid", [(0.0,), tuple(map(float, range(20)))], [(), (-0.1,), (1.0, 1.0)]),
        (parts.StephConfig, "gamma_grid", [], [tuple(map(float, range(21)))]),
        (parts.ComparatorConfig, "methods", [(), ("fedavg", "ties")], [("ties", "ties"), ("steph",), ("pooled",)]),
        (parts.ComparatorConfig, "coefficients", [(-10.0, 10.0), (1.0,) * 20], [(10.1,), (-10.1,), (), (1.0,) * 21]),
        (FederationConfig, "name", ["a", "0_-" + "a" * 29], ["", "-a", "_a", "A", "a" * 33]),
        (FederationConfig, "sites", [("a", "b")], [("a", "a"), ("A",)]),
        (SiteFile, "name", ["a", "0_-" + "a" * 29], ["", "-a", "_a", "A", "a" * 33]),
        (Policy, "count_band", [10, 20], [15]),
        (Policy, "recipes", ["any", (), ("0f" * 32,)], [("0f" * 31,)]),
        (StudyFile, "seeds", [(0, 2**31 - 1)], [(-1,), (2**31,), (1, 1), ()]),
        (StudyFile, "methods", [("local",), ("pooled", "local")], [("steph",), ("local", "local")]),
        (StudyFile, "only", [("a",)], [("a", "a"), ("A",)]),
        (StudyFile, "references", [None, 16, 18], [14, 17]),
    ],
)
def test_texts_and_lists_have_the_bounds_that_are_told(cls, key, taken, refused) -> None:
    assert notes_of(cls)[key].bounds
    for value in taken:
        cls(**{key: value})
    for value in refused:
        with pytest.raises(ValueError):
            cls(**{key: value})


@dataclass
class Base:
    """A dataclass as the code writes them."""

    first: int = 1  # behind its key [1 to 9]

    # of nobody

    # above its key,
    # in two lines: [this] is no bound
    second: str = "# no comment"
    third: tuple[int, ...] = (
        1,  # inside,
        2,
    )  # and behind [each once]
    silent: int = 0


@dataclass
class Derived(Base):
    """With a key of its own."""

    own: int = 2  # noted here


def test_comments_become_meanings_and_bounds() -> None:
    assert notes_of(Derived) == {
        "first": Note("behind its key", "1 to 9"),
        "second": Note("above its key, in two lines: [this] is no bound"),
        "third": Note("inside, and behind", "each once"),
        "silent": Note(),
        "own": Note("noted here"),
    }


def leaves(keys: tuple[Key, ...]) -> list[Key]:
    return [key for key in every(keys) if not key.below]


def flat(mapping: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in mapping.items():
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", json.dumps(value)


def uncommented(text: str) -> str:
    """As a user does it: the first two characters of every line of a section that is a comment."""
    head, _, body = text.partition("\n\n")
    return head + "\n\n" + "\n".join(line.removeprefix("# ") for line in body.splitlines()) + "\n"
