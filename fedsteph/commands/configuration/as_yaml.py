"""A YAML file with every key, and behind each its meaning and the values that it may have."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from fedsteph.commands.configuration.key_list import Key
from fedsteph.common.config.core_yaml import StrictDumper

_WIDTH = 120
_COLUMN = 34  # where comments begin
# Of keys that a file must have; whoever copies the file puts their own there.
_EXAMPLES = {
    "superlink": "127.0.0.1:9091",
    "address": "fl.example.org:9092",
    "federation.roster": "roster.yaml",
    "federation.roster_sha256": "0" * 64,
    "federation.sign_key": "keys/NAME.sign.key",
    "federation.seal_key": "keys/NAME.seal.key",
    "variants.NAME.method": "steph",
}


def commented_yaml(about: str, keys: Sequence[Key], values: Mapping[str, Any] | None = None) -> str:
    """The text of a file.

    Args:
        about: its first comment.
        values: of the keys, nested as the keys are; None: the defaults. A section whose value is None is written as
            comments, from which a user takes the first two characters away.
    """
    shown = _defaults(keys) if values is None else values
    about += " In brackets: the values that a key may have."
    if any(key.below and shown[key.name] is None for key in keys):
        about += " A section that is a comment is not set: to set it, take '# ' away at the beginning of its lines."
    lines = [f"# {line}" for line in textwrap.wrap(about, _WIDTH - 2)]
    for key, before in zip(keys, (None, *keys), strict=False):
        if key.below or before is None or before.below:
            lines.append("")
        lines += _lines(key, shown[key.name], "", _WIDTH)
    return "\n".join(lines) + "\n"


def flow(value: Any) -> str:
    """A value as YAML on one line."""
    text = yaml.dump(value, Dumper=StrictDumper, default_flow_style=True, sort_keys=False, width=float("inf"))
    text = text.removesuffix("\n").removesuffix("\n...")
    return json.dumps(value) if "\n" in text else text  # a text of several lines; JSON is YAML


def _lines(key: Key, value: Any, indent: str, width: int) -> list[str]:
    if not key.below:
        return _with_comment(f"{indent}{key.name}: {flow(value)}", _told(key), width)
    if value is None:
        inner = width - len(indent) - 2
        return [f"{indent}# {line}" for line in _lines(key, _defaults(key.below), "", inner)]
    lines = _with_comment(f"{indent}{key.name}:", key.meaning, width)
    for each in key.below:
        lines += _lines(each, value[each.name], f"{indent}  ", width)
    return lines


def _with_comment(line: str, comment: str, width: int) -> list[str]:
    wrapped = textwrap.wrap(comment, width - _COLUMN - 2, break_on_hyphens=False)
    rest = [f"{'':{_COLUMN}}# {part}" for part in wrapped]
    if len(line) >= _COLUMN:
        return [line, *rest]
    return [f"{line:{_COLUMN}}# {wrapped[0]}", *rest[1:]]


def _told(key: Key) -> str:
    given = "; must be given, this is an example" if key.required else ""
    values = "" if key.values in ("text", "path") else f" [{key.values}]"
    return f"{key.meaning}{given}{values}"


def _defaults(keys: Sequence[Key]) -> dict[str, Any]:
    found = {}
    for key in keys:
        default = _defaults(key.below) if key.below and key.default is not None else key.default
        found[key.name] = _EXAMPLES[key.path] if key.required else default
    return found
