"""docs/configuration.md: every key of every file in tables."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from typing import Any

from fedsteph.commands.configuration.as_yaml import flow
from fedsteph.commands.configuration.files import FILES, File
from fedsteph.commands.configuration.key_list import Key, every

_HEAD = """\
# Configuration

<!-- Do not edit: made by fedsteph config --markdown > docs/configuration.md, from the comments in the code. -->

For researchers and hospital IT. This page lists every key of the four YAML files: of a federation, a site, a
coordinator and a benchmark.

```sh
fedsteph config > federation.yaml              # a complete file, with all of this in its comments
fedsteph config --preset paper > paper.yaml    # the published recipe, likewise
fedsteph config --site > site.yaml             # or --server, or --study
```

- A key that has a default may be left out. An unknown key, a wrong type or a value out of bounds is an error that names
  the file and the key.
- YAML is read with the types of its version 1.2: `true` and `false` are switches, while `yes`, dates and `1:30` are
  text. Aliases, merge keys (`<<`), a key given twice, whole numbers of more than 19 digits and files above 1 MiB are
  errors.
- `--set section.key=value` changes one key of a federation's configuration or of a study for one command, e.g.
  `--set steph.K=3`; the value is YAML.
- A preset is a named recipe; keys in the file win over it. `robust`, ours for sites of a few hundred patients, holds
  where none is named; `paper` is the published one; `null` is none. The column Presets has the values that a preset
  sets instead of the default.
"""


def configuration_markdown() -> str:
    """The whole document."""
    parts = [_HEAD, *(line for made in FILES for line in _chapter(made()))]
    return "\n".join(parts).rstrip("\n") + "\n"


def _chapter(file: File) -> Iterator[str]:
    yield from (f"## {file.title}", "", *textwrap.wrap(file.about, 120), "")
    with_presets = any(key.presets for key in every(file.keys))
    yield from _table(file.keys, with_presets)
    for section in every(file.keys):
        if any(not key.below for key in section.below):
            yield from (f"### {section.path}", "", f"{section.meaning[:1].upper()}{section.meaning[1:]}.", "")
            yield from _table(section.below, with_presets)


def _table(keys: Sequence[Key], with_presets: bool) -> Iterator[str]:
    """Of the keys that are no sections."""
    titles = ["Key", "Meaning", "Default", "Values", *(["Presets"] if with_presets else [])]
    yield _row(titles)
    yield _row(["---"] * len(titles))
    for key in keys:
        if key.below:
            continue
        default = "must be given" if key.required else _code(key.default)
        presets = ", ".join(f"{name}: {_code(value)}" for name, value in key.presets.items())
        yield _row([f"`{key.path}`", key.meaning, default, key.values, *([presets] if with_presets else [])])
    yield ""


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def _code(value: Any) -> str:
    return f"`{flow(value)}`"
