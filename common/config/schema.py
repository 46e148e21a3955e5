"""From a YAML mapping to a frozen dataclass, refusing every key, type and value that it does not know."""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import re
import sys
import types
import typing
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import yaml

from fedsteph.common.errors import ConfigError

T = TypeVar("T")
_UNIONS = (Union, types.UnionType)


class _StrictLoader(yaml.SafeLoader):
    """YAML's safe loader, except that a key given twice is an error and not "the last one wins"."""

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            # A few aliases of aliases make gigabytes out of a few bytes.
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            raise yaml.composer.ComposerError(None, None, "aliases (*name) are not accepted", mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key_node, _ in node.value:
            key = str(key_node.value)
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key '{key}' is given twice", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)


class StrictDumper(yaml.SafeDumper):
    """YAML's safe dumper, which quotes whatever text :func:`parse_yaml` would read as a number."""


# PyYAML knows YAML 1.1, in which 1e-4 is a text; in YAML 1.2, and to whoever sets a learning rate, it is a number.
for _yaml in (_StrictLoader, StrictDumper):
    _yaml.add_implicit_resolver(
        "tag:yaml.org,2002:float",
        re.compile(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)[eE][-+]?[0-9]+$"),
        list("-+.0123456789"),
    )


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML mapping.

    Raises:
        ConfigError: the file is absent, not YAML, or not a mapping.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8 text"
        raise ConfigError(f"cannot be read ({reason})", where=path, remedy="Give the path of a YAML file") from error
    return parse_yaml(text, path)


def parse_yaml(text: str, where: str | Path) -> dict[str, Any]:
    """Parse a YAML mapping; an empty document is an empty mapping."""
    try:
        content = yaml.load(text, Loader=_StrictLoader)  # a SafeLoader: builds plain values only
    except (yaml.YAMLError, ValueError, LookupError, AttributeError, TypeError, RecursionError) as error:
        what = f"is not valid YAML: {' '.join(str(error).split())}"
        raise ConfigError(what, where=where, remedy="Mend the syntax there") from error
    if content is None:
        return {}
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise ConfigError("must be a mapping of names to values", where=where, remedy="Write 'key: value' lines")
    return content


def build(cls: type[T], mapping: Any, where: str | Path, prefix: str = "") -> T:
    """Make the dataclass ``cls`` from ``mapping``; nested dataclasses are nested mappings.

    Args:
        where: the file that the mapping came from, for error messages.
        prefix: the dotted path of this mapping inside the file.

    Raises:
        ConfigError: an unknown or missing key, or a value of the wrong type or out of range. The
            message names the file and the dotted key.
    """
    if not isinstance(mapping, dict):
        what = f"'{prefix.rstrip('.')}' must be a mapping, not {mapping!r}"
        raise ConfigError(what, where=where, remedy="Write its keys on lines of their own")
    fields = {field.name: field for field in dataclasses.fields(cls) if field.init}  # type: ignore[arg-type]
    hints = get_type_hints(cls)
    _refuse_unknown(list(fields), mapping, where, prefix)
    values = {}
    for name, field in fields.items():
        if name in mapping:
            values[name] = _convert(hints[name], mapping[name], where, f"{prefix}{name}")
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise ConfigError(f"the key '{prefix}{name}' is missing", where=where, remedy="Add it")
    try:
        return cls(**values)
    except ValueError as error:
        raise ConfigError(f"{prefix}{error}", where=where) from error


def _refuse_unknown(known: list[str], mapping: dict[Any, Any], where: str | Path, prefix: str) -> None:
    for key in mapping:
        if key not in known:
            close = difflib.get_close_matches(str(key), known, n=1)
            hint = f"Did you mean '{prefix}{close[0]}'?" if close else f"Known keys: {', '.join(known)}"
            raise ConfigError(f"unknown key '{prefix}{key}'", where=where, remedy=hint)


def _convert(hint: Any, value: Any, where: str | Path, key: str) -> Any:
    origin, args = get_origin(hint), get_args(hint)
    if dataclasses.is_dataclass(hint):
        return build(typing.cast(type, hint), value, where, f"{key}.")
    if origin in _UNIONS:
        return _convert_union(hint, value, where, key)
    if origin is tuple and isinstance(value, list | tuple):
        return tuple(_convert(args[0], item, where, f"{key}[{i}]") for i, item in enumerate(value))
    if origin is dict and isinstance(value, dict):
        return {name: _convert(args[1], item, where, f"{key}.{name}") for name, item in value.items()}
    if origin not in (tuple, dict) and _fits(hint, value):
        return hint(value) if hint in (float, Path) else value
    raise _wrong_type(hint, value, where, key)


def _convert_union(hint: Any, value: Any, where: str | Path, key: str) -> Any:
    """``value`` as the first type of the union that accepts it."""
    for option in get_args(hint):
        if dataclasses.is_dataclass(option) and isinstance(value, dict):
            return _convert(option, value, where, key)  # its own error names the key inside
        with contextlib.suppress(ConfigError):
            return _convert(option, value, where, key)
    raise _wrong_type(hint, value, where, key)


def _fits(hint: Any, value: Any) -> bool:
    """Whether ``value`` is of a type without parts; true and false are not numbers."""
    if get_origin(hint) is Literal:
        return (type(value), value) in [(type(option), option) for option in get_args(hint)]
    if isinstance(value, bool):
        return hint is bool
    if hint is float:
        return isinstance(value, int | float) and abs(value) <= sys.float_info.max
    if hint is Path:
        return isinstance(value, str) and bool(value.strip())
    return isinstance(value, hint)


def _wrong_type(hint: Any, value: Any, where: str | Path, key: str) -> ConfigError:
    return ConfigError(f"'{key}' must be {_describe(hint)}, not {value!r}", where=where, remedy="Change its value")


def _describe(hint: Any) -> str:
    origin, args = get_origin(hint), get_args(hint)
    if origin in _UNIONS:
        return " or ".join(_describe(option) for option in args)
    if origin is Literal:
        return "one of " + ", ".join(repr(option) for option in args)
    if origin is tuple:
        return f"a list, each item {_describe(args[0])}"
    if origin is dict or dataclasses.is_dataclass(hint):
        return "a mapping"
    if hint is type(None):
        return "null"
    names = {float: "a finite number", int: "a whole number", str: "text", bool: "true or false", Path: "a path"}
    return names.get(hint, str(hint))
