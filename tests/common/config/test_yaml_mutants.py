"""Damaged and hostile YAML: each mutant is refused by a typed error, or means what it says; as a program, any number.

python tests/common/config/test_yaml_mutants.py 20000
"""

from __future__ import annotations

import math
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

from fedsteph.client.site.site_file import SiteFile
from fedsteph.common.config.core_yaml import StrictDumper
from fedsteph.common.config.digest import to_dict
from fedsteph.common.config.run_config import load_config
from fedsteph.common.config.schema import build, parse_yaml, read_yaml
from fedsteph.common.errors import FedstephError
from fedsteph.common.trust.keys import Identity
from fedsteph.common.trust.roster import Entry, Roster, read_roster, write_roster

_SECONDS = 20
_SIGNS = b"{}[]:,-#&*!|>'\"%@ \n"
_HOSTILE = (
    b"<<: {a: 1}", b"&a [1]", b"*a", b"!!int ", b"!!float ", b"!!timestamp 2020-01-01", b"!!binary aGk=", b"!!set {a}",
    b"!!python/object/apply:os.system [id]", b"9" * 5000, b"-" + b"9" * 25, b"1" + b":1" * 500, b"1" + b":59" * 500,
    b"0x" + b"f" * 5000, b"0o7777", b"089", b"1_000", b"1e999", b"-1e-999", b".nan", b".inf", b"yes", b"NO", b"~",
    b"2020-13-45", b'"\\UFFFFFFFF"', b'"\\ud800"', b'"\\0"', b"[" * 3000, b"{a: " * 800, b"? ", b"- ", b": ", b"---\n",
    b"...\n", b"'", b"%YAML 9.9\n---\n", b"\x00", b"\xff", b"\xef\xbb\xbf", b"\xc2\x85", b"\xe2\x80\xa8", b"\t", b"\r",
    b"|\n", b'"', b"#", b"x" * 3000, b"=",
)  # fmt: skip


def originals(folder: Path) -> dict[str, bytes]:
    """A federation's configuration, a site's file and a roster, as text."""
    entries = [Entry.of(name, Identity.generate().public, cancer="k", contact="c") for name in ("a", "b")]
    write_roster(folder / "roster.yaml", Roster("trial", tuple(entries)))
    site = "name: kirp\ndevice: cpu\nmax_vector_norm: 1.5e2\ndata:\n  labels: labels.csv\n  time_unit: months\n"
    site += "  exclude: [S1, '007']\npolicy:\n  min_patients: 20\nprivacy: dp-sgd\n"
    site += "dp_sgd: {epsilon: 8, batch: null}\n"
    config = "preset: robust\nfederation:\n  sites: [a, b]\n  targets: [a]\ntraining: {epochs: 3, lr: 1e-4, seed: 7}\n"
    return {
        "roster.yaml": (folder / "roster.yaml").read_bytes(),
        "site.yaml": site.encode(),
        "config.yaml": config.encode(),
    }


def mutant(content: bytes, rng: random.Random) -> bytes:
    """One or two changes: bytes, hostile tokens, lines."""
    made = bytearray(content)
    for _ in range(rng.randint(1, 2)):
        at, kind = rng.randrange(len(made) + 1), rng.randrange(7)
        if kind == 0:
            for _ in range(rng.randint(1, 4)):
                made[rng.randrange(len(made))] = rng.choice(rng.choice((b"0123456789", _SIGNS, bytes(range(256)))))
        elif kind == 1:
            made[at:at] = rng.choice(_HOSTILE)
        elif kind == 2:  # in the place of a value
            colon = made.find(b": ", at)
            end = made.find(b"\n", colon) if colon >= 0 else -1
            if end >= 0:
                made[colon + 2 : end] = rng.choice(_HOSTILE)
        elif kind == 3:
            lines = made.splitlines(keepends=True)
            lines.insert(rng.randrange(len(lines)), rng.choice(lines))
            made = bytearray(b"".join(lines))
        elif kind == 4:
            digits = [i for i, byte in enumerate(made) if chr(byte).isdigit()]
            made[rng.choice(digits or [0])] = rng.choice(b"0123456789")
        elif kind == 5:
            lines = made.splitlines(keepends=True)
            del lines[rng.randrange(len(lines))]
            made = bytearray(b"".join(lines))
        else:
            del made[at : at + rng.randint(1, 20)]
        made = made or bytearray(b"a")
    return bytes(made)


_READ: dict[str, Callable[[Path], Any]] = {
    "roster.yaml": lambda path: asdict(read_roster(path)),
    "site.yaml": lambda path: asdict(build(SiteFile, read_yaml(path), path)),
    "config.yaml": lambda path: to_dict(load_config(path)),
}


def outcome(name: str, path: Path) -> str:
    """Read a mutant as the product does; the name of its error, or ``accepted``."""
    try:
        _require_said(path)
        _READ[name](path)
    except FedstephError as error:
        text = str(error)
        assert str(path) in text and "\n" not in text and len(text) < 1500, text[:2000]
        return type(error).__name__
    return "accepted"


def _require_said(path: Path) -> None:
    """What was parsed is what the file's nodes say, read by the core schema's rules written down once more here."""
    found = read_yaml(path)
    node = yaml.compose(path.read_bytes().decode(), Loader=yaml.BaseLoader)
    if node is not None and found:
        _require_same(node, found)
    if not any(isinstance(value, float) and math.isnan(value) for value in _leaves(found)):
        assert parse_yaml(yaml.dump(found, Dumper=StrictDumper), path) == found


def _require_same(node: yaml.Node, value: Any) -> None:
    if isinstance(node, yaml.MappingNode):
        assert len(node.value) == len(value)
        for (key_node, below), (key, inner) in zip(node.value, value.items(), strict=True):
            _require_same(key_node, key)
            _require_same(below, inner)
    elif isinstance(node, yaml.SequenceNode):
        assert len(node.value) == len(value)
        for below, inner in zip(node.value, value, strict=True):
            _require_same(below, inner)
    elif value is None:
        assert node.value in ("", "~", "null", "Null", "NULL")
    elif isinstance(value, bool):
        assert node.value.lower() == str(value).lower()
    elif isinstance(value, int):
        assert len(node.value) <= 20 and int(node.value, {"0x": 16, "0o": 8}.get(node.value[:2], 10)) == value
    elif isinstance(value, float):
        assert "_" not in node.value
        told = float(
            node.value.replace(".inf", "inf").replace(".INF", "inf").replace(".Inf", "inf").replace(".nan", "nan")
        )
        assert told == value or (math.isnan(told) and math.isnan(value))
    else:
        assert node.value == value


def _leaves(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return [leaf for pair in value.items() for one in pair for leaf in _leaves(one)]
    return [leaf for one in value for leaf in _leaves(one)] if isinstance(value, list) else [value]


def read_mutants(folder: Path, n: int, seed: int) -> Counter[str]:
    """Read so many mutants of each file; the outcomes by file."""
    rng, found = random.Random(seed), Counter[str]()
    for name, content in originals(folder).items():
        path = folder / name
        for _ in range(n):
            made = mutant(content, rng)
            path.write_bytes(made)
            try:
                found[f"{name} {outcome(name, path)}"] += 1
            except BaseException as error:
                error.add_note(f"{name}: {made!r}")
                raise
    return found


def test_mutants_are_refused_or_mean_what_they_say(tmp_path: Path) -> None:
    found = read_mutants(tmp_path, 40, seed=0)
    for name in originals(tmp_path):
        assert found[f"{name} accepted"] > 0  # else nothing was tried


def main(n: int) -> None:
    """Read ``n`` mutants; print the outcomes. One that takes longer than 20 s ends it with a traceback."""

    def late(*_: object) -> None:
        raise TimeoutError(f"a mutant took more than {_SECONDS} s")

    signal.signal(signal.SIGALRM, late)
    before, found, seed, worst = time.monotonic(), Counter[str](), 0, 0.0
    with tempfile.TemporaryDirectory() as folder:
        while sum(found.values()) < n:
            seed += 1
            started = time.monotonic()
            signal.alarm(_SECONDS)
            found += read_mutants(Path(folder), 1, seed)
            signal.alarm(0)
            worst = max(worst, time.monotonic() - started)
    print(f"{sum(found.values())} mutants in {time.monotonic() - before:.0f} s, three at most in {worst:.2f} s")
    for outcome_, times in sorted(found.items()):
        print(f"{times:8d}  {outcome_}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 20_000)
