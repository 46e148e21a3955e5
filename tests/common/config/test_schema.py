"""From YAML to dataclasses: what is not known is refused by its dotted name, and nothing else ever escapes."""

from __future__ import annotations

import math
import re
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest
import yaml
from each_case import each
from hypothesis import example, given
from hypothesis import strategies as st

from fedsteph.common.config.core_yaml import StrictDumper
from fedsteph.common.config.schema import build, parse_yaml, read_yaml
from fedsteph.common.errors import ConfigError


@dataclass(frozen=True)
class Inner:
    share: float = 0.5
    words: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.share > 1:
            raise ValueError("share must be at most 1")


@dataclass(frozen=True)
class Outer:
    count: int
    inner: Inner = field(default_factory=Inner)
    flag: bool = False
    text: str | None = None
    mode: Literal["a", 1] | float = "a"
    inners: tuple[Inner, ...] = ()


def outer(**values: Any) -> Outer:
    return build(Outer, {"count": 1, **values}, "file.yaml")


def test_nested_values_and_defaults() -> None:
    found = outer(inner={"share": 1, "words": ["x"]}, flag=True, text="t", mode=2, inners=[{}, {"share": 0.25}])
    assert found == Outer(1, Inner(1.0, ("x",)), True, "t", 2.0, (Inner(), Inner(0.25)))
    assert type(found.inner.share) is float and outer() == Outer(1) and outer(mode=1).mode == 1


@each(
    ("values", "said"),
    [
        ({"count": True}, "'count' must be a whole number, not True"),
        ({"count": 1.0}, "'count' must be a whole number, not 1.0"),
        ({"count": "1"}, "'count' must be a whole number, not '1'"),
        ({"count": None}, "'count' must be a whole number, not None"),
        ({"flag": 1}, "'flag' must be true or false, not 1"),
        ({"text": 1}, "'text' must be text or null, not 1"),
        ({"mode": "b"}, "'mode' must be one of 'a', 1 or a finite number, not 'b'"),
        ({"mode": True}, "'mode' must be one of 'a', 1 or a finite number, not True"),
        ({"inner": 3}, "'inner' must be a mapping, not 3"),
        ({"inner": None}, "'inner' must be a mapping, not None"),
        ({"inner": {"share": True}}, "'inner.share' must be a finite number, not True"),
        ({"inner": {"share": float("nan")}}, "'inner.share' must be a finite number, not nan"),
        ({"inner": {"share": float("-inf")}}, "'inner.share' must be a finite number, not -inf"),
        ({"inner": {"share": 10**400}}, "'inner.share' must be a finite number, not 1000"),
        ({"inner": {"share": -(10**400)}}, "'inner.share' must be a finite number, not -1000"),
        ({"inner": {"share": 2}}, "inner.share must be at most 1"),
        ({"inner": {"words": "xy"}}, "'inner.words' must be a list, each item text, not 'xy'"),
        ({"inner": {"words": ["x", 2]}}, "'inner.words[1]' must be text, not 2"),
        ({"inner": {"wrods": []}}, "unknown key 'inner.wrods'. Did you mean 'inner.words'?"),
        ({"inner": {7: 1}}, "unknown key 'inner.7'. Known keys: share, words"),
        ({"inners": [{}, {"shar": 1}]}, "unknown key 'inners[1].shar'. Did you mean 'inners[1].share'?"),
        ({"cuont": 1}, "unknown key 'cuont'. Did you mean 'count'?"),
        ({"zzz": 1}, "unknown key 'zzz'. Known keys: count, inner, flag, text, mode, inners"),
    ],
)
def test_a_mistake_is_named(values: dict, said: str) -> None:
    with pytest.raises(ConfigError, match=f"^{re.escape('file.yaml: ' + said)}"):
        outer(**values)


def test_a_missing_key_is_named() -> None:
    with pytest.raises(ConfigError, match=r"file\.yaml: the key 'outer\.count' is missing"):
        build(Outer, {}, "file.yaml", "outer.")


@each("mapping", [None, [], "text", 3])
def test_what_is_no_mapping_builds_nothing(mapping: Any) -> None:
    with pytest.raises(ConfigError, match="must be a mapping"):
        build(Outer, mapping, "file.yaml")


@each(
    ("text", "expected"),
    [
        ("", {}),
        ("# a comment", {}),
        ("a: [1, 2.5, x, null, true]", {"a": [1, 2.5, "x", None, True]}),
        ("a: 1e-4", {"a": 1e-4}),
        ("a: 1.5E3", {"a": 1500.0}),
        ("a: -2.e+1", {"a": -20.0}),
        ("a: .5e1", {"a": 5.0}),
        ("a: '1e-4'", {"a": "1e-4"}),
        ("a: 1e-4x", {"a": "1e-4x"}),
        ("a: e5", {"a": "e5"}),
        ("a: [yes, No, on, off, y, =]", {"a": ["yes", "No", "on", "off", "y", "="]}),
        (
            "a: [1:30, 190:20:30.15, 2020-01-01, 1_000, 0b11, 0x_]",
            {"a": ["1:30", "190:20:30.15", "2020-01-01", "1_000", "0b11", "0x_"]},
        ),
        ("a: [010, +7, 0o10, 0x1F, -0]", {"a": [10, 7, 8, 31, 0]}),
        (
            "a: [True, FALSE, ~, NULL, '~', !!str 1, .inf, -.INF]",
            {"a": [True, False, None, None, "~", "1", math.inf, -math.inf]},
        ),
        (f"a: {2**63 - 1}", {"a": 2**63 - 1}),
        ("'<<': 1", {"<<": 1}),
    ],
)
def test_yaml(text: str, expected: dict) -> None:
    assert parse_yaml(text, "f") == expected


@each(
    ("text", "said"),
    [
        ("a: 1\nb: 2\na: 3", "the key 'a' is given twice"),
        ("a: {b: 1, b: 1}", "the key 'b' is given twice"),
        ("[a, b]", "must be a mapping"),
        ("text", "must be a mapping"),
        ("7: a", "must be a mapping"),
        ("a: 1\n---\nb: 2", "is not valid YAML"),
        ("a: [", "is not valid YAML"),
        ("a: *b", "is not valid YAML"),
        ("a: &b 1\nc: *b", r"is not valid YAML.*aliases \(\*name\) are not accepted"),
        ("a: &a [*a]", r"aliases \(\*name\) are not accepted"),
        ("a: &a {b: *a}", r"aliases \(\*name\) are not accepted"),
        ("a: &a x\n? *a\n: 1", r"aliases \(\*name\) are not accepted"),
        ("a: &a {b: 1}\nc:\n  <<: *a", r"aliases \(\*name\) are not accepted"),
        ("a: &a {b: 1}\nc:\n  <<: [*a]", r"aliases \(\*name\) are not accepted"),
        ("a: \0", "is not valid YAML"),
        ("? [x]\n: 1", "is not valid YAML"),
        ("\ta: 1", "is not valid YAML"),
        ("<<: {a: 1}\nb: 2", r"merge keys \(<<\) are not accepted"),
        ("a: {<<: [{b: 1}], b: 2}", r"merge keys \(<<\) are not accepted.*line 1"),
        ("a: {1: b, 0x1: c}", "the key 1 is given twice"),
        ("a: {1: b, '1': c}", "the key '1' is given twice"),
        ("a: {1: b, 1.0: c}", "the key 1.0 is given twice"),
        ("a: !!int x", "at the key 'a' 'x' is no int"),
        ("a: !!int 1:30", "is no int"),
        ("a: !!map x", "is not a mapping"),
        ("a: !!binary aGk=", "is not valid YAML"),
        ("a: !!set {b}", "is not valid YAML"),
        ("a: !!merge x", "is not valid YAML"),
        ('a: "\\0"', "control character"),
        ('a: "\\e[2J"', "control character"),
        ('a: "\\ud800"', "control character"),
        ('a: "\\UFFFFFFFF"', "is not valid YAML"),
        (f"%YAML {'9' * 5000}.1\n---\na: 1", "is not valid YAML"),
        ("a: !!bool x", "is not valid YAML"),
        ("a: !!float ''", "is not valid YAML"),
        ("a: !!timestamp x", "is not valid YAML"),
        ("a: " + "9" * 5000, "has more than 19 digits"),
        ("a: !!int " + "9" * 5000, "has more than 19 digits"),
        (f"a: 1\n{'k' * 5000}: [", "is not valid YAML"),
        ("a: " + "[" * 3000, "is not valid YAML"),
        ("a: !!python/name:os.system x", "is not valid YAML"),
    ],
)
def test_text_that_is_no_mapping_is_refused(text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        parse_yaml(text, "file.yaml")
    assert str(caught.value).startswith("file.yaml: ") and len(str(caught.value)) < 600
    assert "\n" not in str(caught.value)


def test_an_anchor_that_nothing_refers_to_is_no_harm() -> None:
    assert parse_yaml("a: &b [1]\nc: '*b'", "f") == {"a": [1], "c": "*b"}


def test_a_billion_laughs_are_refused_and_take_no_time(tmp_path: Path) -> None:
    """Below a kilobyte of text, 9^9 words once somebody walks through them; in the file they are still one mapping."""
    levels = "".join(f"l{i}: &l{i} [{', '.join([f'*l{i - 1}'] * 9)}]\n" for i in range(1, 10))
    attack = tmp_path / "laughs.yaml"
    attack.write_text("l0: &l0 ha\n" + levels)
    assert attack.stat().st_size < 1000
    # The attack as such works: the last list stands for 9^9 words.
    size, found = 1, yaml.safe_load(attack.read_text())["l9"]
    while isinstance(found, list):
        size, found = size * len(found), found[0]
    assert size == 9**9
    before = time.monotonic()
    with pytest.raises(ConfigError, match=r"aliases \(\*name\) are not accepted") as caught:
        read_yaml(attack)
    assert time.monotonic() - before < 1 and len(str(caught.value)) < 1000


def test_yaml_runs_no_code(tmp_path: Path) -> None:
    attack = f"a: !!python/object/apply:os.mkdir [{tmp_path / 'ran'}]"
    with pytest.raises(ConfigError, match="is not valid YAML"):
        parse_yaml(attack, "file.yaml")
    assert not (tmp_path / "ran").exists()
    yaml.unsafe_load(attack)  # the attack as such works
    assert (tmp_path / "ran").exists()


@given(st.text(alphabet="ab01.-+e_x:,[]{}!&*?|>%@'\"\\#~<=\n\t ", max_size=40))
@example("a: !!set {b}")
def test_no_text_does_anything_but_parse_or_be_refused(text: str) -> None:
    try:
        found = parse_yaml(text, "file.yaml")
    except ConfigError as error:
        assert error.where == "file.yaml"
    else:
        assert all(isinstance(key, str) for key in found)


_texts = st.text(
    st.characters(exclude_categories=["Cc", "Cs"], include_characters="\n\t", exclude_characters="\ufffe\uffff")
)
_whole = st.integers(-(2**63) + 1, 2**63 - 1)


@given(st.dictionaries(_texts, _texts | st.floats(allow_nan=False) | _whole | st.none()))
@example({"a": "1e5", "1e5": "+.5E7", "b": "no", "c": "0x1f", "d": "2020-01-01", "<<": "0o17", "089": "089"})
def test_what_is_dumped_comes_back_as_it_was(mapping: dict) -> None:
    assert parse_yaml(yaml.dump(mapping, Dumper=StrictDumper), "f") == mapping


def test_what_is_said_of_a_strangers_file_is_short(tmp_path: Path) -> None:
    """A whole file as one value or one key, and a list in a list: named by file and key, and cut."""
    for values, key in (
        ({"count": "x" * 10**6}, "count"),
        ({"k" * 10**6: 1}, "kkk"),
        ({"mode": [[["x" * 1000] * 1000] * 1000] * 1000}, "mode"),
        ({"inner": {"words": ["x", {"y" * 10**5: "z"}]}}, "inner.words[1]"),
    ):
        with pytest.raises(ConfigError, match=r"file\.yaml") as caught:
            outer(**values)
        assert key in str(caught.value) and len(str(caught.value)) < 600


def test_a_large_file_is_refused_unread(tmp_path: Path) -> None:
    """Most of a minute's parsing, or a device that never ends."""
    large = tmp_path / "large.yaml"
    large.write_bytes(b"a: [" + b"1, " * 2**19 + b"1]")
    for path in (large, Path("/dev/zero")):
        with pytest.raises(ConfigError, match=f"{path}: is larger than 1 MiB"):
            read_yaml(path)


def test_base_60_takes_no_quadratic_time() -> None:
    """PyYAML's own loader takes minutes for this one value."""
    text = "1" + ":1" * 300_000
    assert parse_yaml(f"a: {text}", "f") == {"a": text}


def test_files(tmp_path: Path) -> None:
    (tmp_path / "good.yaml").write_text("a: µ\n", encoding="utf-8")
    (tmp_path / "latin.yaml").write_bytes(b"a: \xb5\n")
    assert read_yaml(tmp_path / "good.yaml") == {"a": "µ"}
    for path, reason in [("latin.yaml", "not UTF-8"), ("none.yaml", "No such file"), ("", "directory")]:
        with pytest.raises(ConfigError, match=rf"{path}: cannot be read \(.*{reason}.*\)"):
            read_yaml(tmp_path / path)
