"""Every key of a YAML file: its meaning, its values in words, its default, and the presets that change it."""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, is_dataclass
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from fedsteph.commands.configuration.field_notes import notes_of

_NAMES = {int: "whole number", float: "number", str: "text", bool: "true or false", Path: "path"}
_PLURALS = {int: "whole numbers", float: "numbers", str: "texts"}


@dataclass(frozen=True)
class Key:
    """A key, or a section of keys."""

    path: str  # with the sections that it is in, e.g. steph.K
    values: str  # which it may have, in plain words
    default: Any  # as in YAML; of a section a mapping of its keys' defaults, or None where it is not set then
    meaning: str
    required: bool = False  # the file must have it; there is no default then
    presets: Mapping[str, Any] = field(default_factory=dict)  # by name, the values that are not the default
    below: tuple[Key, ...] = ()  # the keys of a section

    @property
    def name(self) -> str:
        """The key inside its section."""
        return self.path.rpartition(".")[2]


def keys_of(cls: type, prefix: str = "", presets: Mapping[str, Any] | None = None) -> tuple[Key, ...]:
    """The keys of the file, or of the section, that is read into a dataclass.

    Args:
        prefix: of the section's keys, e.g. ``steph.``.
        presets: name of a preset -> the values that it sets in this section.
    """
    hints, notes, found = get_type_hints(cls), notes_of(cls), []
    for made in dataclasses.fields(cls):
        path, hint, note = f"{prefix}{made.name}", hints[made.name], notes[made.name]
        of_key = {name: values[made.name] for name, values in (presets or {}).items() if made.name in values}
        section: Any = next((option for option in _options(hint) if is_dataclass(option)), None)
        default, required = _default(made)
        if section is None:
            changed = {name: value for name, value in of_key.items() if value != default}
            found.append(Key(path, in_words(hint, note.bounds), default, note.meaning, required, changed))
            continue
        below = keys_of(section, f"{path}.", of_key)
        default = None if default is None else {key.name: key.default for key in below}
        found.append(Key(path, "section", default, note.meaning, required, below=below))
    return tuple(found)


def every(keys: Sequence[Key]) -> Iterator[Key]:
    """All keys and sections, in their order."""
    for key in keys:
        yield key
        yield from every(key.below)


def in_words(hint: Any, bounds: str = "") -> str:
    """A type, and the bounds of the values that are not among its words: ``whole number, 1 to 4096, or null``."""
    options = _options(hint)
    main = next((one for one in options if one is not type(None) and get_origin(one) is not Literal), None)
    words = [str(word) for option in options if get_origin(option) is Literal for word in get_args(option)]
    words += ["null"] if type(None) in options else []
    if main is None:
        return _listed(words)
    text = ", ".join(part for part in ("" if main is str and bounds else _main(main), bounds) if part)
    comma = "," if bounds and words else ""
    return f"{text}{comma} or {_listed(words)}" if words else text


def _default(made: dataclasses.Field[Any]) -> tuple[Any, bool]:
    """A field's default as YAML has it, and whether it has none."""
    if made.default_factory is not dataclasses.MISSING:
        return made.default_factory(), False
    if made.default is dataclasses.MISSING:
        return None, True
    value = list(made.default) if isinstance(made.default, tuple) else made.default
    return str(value) if isinstance(value, Path) else value, False


def _options(hint: Any) -> tuple[Any, ...]:
    return get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)


def _main(hint: Any) -> str:
    if get_origin(hint) is tuple:
        item = get_args(hint)[0]
        return f"list of {_PLURALS[item]}" if item in _PLURALS else f"list, each one of {_listed(_words(item))}"
    return "mapping" if get_origin(hint) is dict else _NAMES[hint]


def _words(hint: Any) -> list[str]:
    """The values of a Literal, or of several."""
    if get_origin(hint) is Literal:
        return [str(word) for word in get_args(hint)]
    return [word for option in get_args(hint) for word in _words(option)]


def _listed(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} or {words[-1]}"
