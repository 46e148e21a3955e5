"""From a YAML mapping to a frozen dataclass, refusing every key, type and value that it does not know."""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import functools
import sys
import types
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import yaml

from fedsteph.common.config.core_yaml import StrictLoader, brief, cut
from fedsteph.common.errors import ConfigError

T = TypeVar("T")
_UNIONS = (Union, types.UnionType)
_MOST_BYTES = 2**20
_hints_of: Callable[[type], dict[str, Any]] = functools.cache(get_type_hints)


def read_yaml(path: Path, most_bytes: int = _MOST_BYTES) -> dict[str, Any]:
    """Read a YAML mapping. Raises ConfigError if the file is absent, too large, not YAML, or not a mapping."""
    try:
        with path.open("rb") as file:
            content = file.read(most_bytes + 1)
        if len(content) > most_bytes:
            what = f"is larger than {most_bytes >> 20} MiB"
            raise ConfigError(what, where=path, remedy="Give the path of a YAML file")
        return parse_yaml(content.decode(), path)
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8 text"
        raise ConfigError(f"cannot be read ({reason})", where=path, remedy="Give the path of a YAML file") from error


def parse_yaml(text: str, where: str | Path) -> dict[str, Any]:
    """Parse a YAML mapping; an empty document is an empty mapping."""
    try:
        content = yaml.load(text, Loader=StrictLoader)  # a SafeLoader: builds plain values only
    except (
        yaml.YAMLError,
        ValueError,
        LookupError,
        AttributeError,
        TypeError,
        ArithmeticError,
        RecursionError,
    ) as error:
        what = f"is not valid YAML: {cut(' '.join(str(error).split()), 400)}"
        raise ConfigError(what, where=where, remedy="Mend the syntax there") from error
    if content is None:
        return {}
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise ConfigError("must be a mapping of names to values", where=where, remedy="Write 'key: value' lines")
    return content


def build(cls: type[T], mapping: Any, where: str | Path, prefix: str = "") -> T:
    """Make the dataclass ``cls`` from the mapping of a file (``where``); nested dataclasses are nested mappings.

    Raises ConfigError, with the file and the dotted key, if a key is unknown or missing, or a value has the wrong type
    or is out of range.
    """
    if not isinstance(mapping, dict):
        what = f"'{prefix.rstrip('.')}' must be a mapping, not {brief(mapping)}"
        raise ConfigError(what, where=where, remedy="Write its keys on lines of their own")
    fields = {field.name: field for field in dataclasses.fields(cls) if field.init}  # type: ignore[arg-type]
    hints = _hints_of(cls)
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
        raise ConfigError(cut(f"{prefix}{error}", 400), where=where) from error


def _refuse_unknown(known: list[str], mapping: dict[Any, Any], where: str | Path, prefix: str) -> None:
    for key in mapping:
        if key not in known:
            close = difflib.get_close_matches(str(key), known, n=1)
            hint = f"Did you mean '{prefix}{close[0]}'?" if close else f"Known keys: {', '.join(known)}"
            raise ConfigError(f"unknown key '{prefix}{cut(str(key))}'", where=where, remedy=hint)


def _convert(hint: Any, value: Any, where: str | Path, key: str) -> Any:
    origin, args = get_origin(hint), get_args(hint)
    if dataclasses.is_dataclass(hint):
        return build(typing.cast(type, hint), value, where, f"{key}.")
    if origin in _UNIONS:
        return _convert_union(hint, value, where, key)
    if origin is tuple and isinstance(value, list | tuple):
        return tuple(_convert(args[0], item, where, f"{key}[{i}]") for i, item in enumerate(value))
    if origin is dict and isinstance(value, dict):
        inside = {name: f"{key}.{cut(str(name))}" for name in value}
        return {_convert(args[0], n, where, inside[n]): _convert(args[1], value[n], where, inside[n]) for n in value}
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
    text = hint is str and isinstance(value, int | float)
    remedy = "Put it in quotes: without them, YAML does not take it for text" if text else "Change its value"
    return ConfigError(f"'{key}' must be {_describe(hint)}, not {brief(value)}", where=where, remedy=remedy)


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
