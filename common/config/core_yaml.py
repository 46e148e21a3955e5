"""PyYAML's safe loader and dumper with the types of YAML 1.2's core schema, without what hides a part of a file."""

from __future__ import annotations

import re
import reprlib
from collections.abc import Callable
from typing import Any, ClassVar

import yaml
from yaml.constructor import BaseConstructor, ConstructorError

_TAG = "tag:yaml.org,2002:"
_LONGEST_NUMBER = 20  # characters of a whole number: a sign, and 2^63 - 1, the largest seed
# Plain scalars by type (YAML 1.2.2, section 10.3.2), and their first characters.
_CORE = {
    "null": (r"~|null|Null|NULL|", ("~", "n", "N", "")),
    "bool": (r"true|True|TRUE|false|False|FALSE", "tTfF"),
    "int": (r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", "-+0123456789"),
    "float": (
        r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
        "-+.0123456789",
    ),
}
_short = reprlib.Repr()
_short.maxstring = _short.maxother = 80
_short.maxlist = _short.maxtuple = _short.maxdict = _short.maxlevel = 3


def brief(value: Any) -> str:
    """``repr`` of a value for an error message, shortened: it may come from a stranger's file."""
    return cut(_short.repr(value), 200)


def cut(text: str, most: int = 80) -> str:
    """At most so many characters of a text, for an error message."""
    return text if len(text) <= most else f"{text[: most - 3]}..."


class StrictLoader(yaml.SafeLoader):
    """Builds text, numbers, true, false, null, lists, mappings; refuses aliases, merges, tags, keys given twice."""

    yaml_implicit_resolvers: Any = {}  # noqa: RUF012 (its type in PyYAML)
    yaml_constructors: ClassVar[Any] = {None: yaml.SafeLoader.construct_undefined}
    construct_scalar = BaseConstructor.construct_scalar  # type: ignore[assignment]

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            # A few aliases of aliases make gigabytes out of a few bytes.
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            raise yaml.composer.ComposerError(None, None, "aliases (*name) are not accepted", mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.Node, deep: bool = False) -> dict[Any, Any]:
        if not isinstance(node, yaml.MappingNode):
            raise ConstructorError(None, None, "this is not a mapping", node.start_mark)
        made: dict[Any, Any] = {}
        seen: set[str] = set()
        for key_node, value_node in node.value:
            key = self._key(key_node)
            if key in made or str(key) in seen:
                raise ConstructorError(None, None, f"the key {brief(key)} is given twice", key_node.start_mark)
            seen.add(str(key))
            try:
                made[key] = self.construct_object(value_node, deep)
            except ConstructorError as error:
                error.context = error.context or f"at the key {brief(key)}"
                raise
        return made

    def _key(self, node: yaml.Node) -> Any:
        if not isinstance(node, yaml.ScalarNode):
            raise ConstructorError(None, None, "a list or a mapping is no key", node.start_mark)
        if node.value == "<<" and node.style is None:
            # What it merges would stand where nobody looks for it, and hide a key that is given twice.
            raise ConstructorError(None, None, "merge keys (<<) are not accepted", node.start_mark)
        return self.construct_object(node)


class StrictDumper(yaml.SafeDumper):
    """YAML's safe dumper, which quotes whatever text :class:`StrictLoader` or YAML 1.1 would read as something else."""


def _integer(text: str) -> int:
    if len(text) > _LONGEST_NUMBER:
        raise ValueError(f"has more than {_LONGEST_NUMBER - 1} digits")
    return int(text, 0 if text[:2] in ("0o", "0x") else 10)


def _text(text: str) -> str:
    if yaml.reader.Reader.NON_PRINTABLE.search(text):  # written as an escape; as it is, YAML refuses it
        raise ValueError("holds a control character")
    return text


def _reader(kind: str, pattern: re.Pattern[str], make: Callable[[str], Any]) -> Callable[[Any, Any], Any]:
    """Constructs a scalar that is of this type without a tag or by its tag, such as ``!!int 3``."""

    def construct(loader: StrictLoader, node: yaml.ScalarNode) -> Any:
        text = str(loader.construct_scalar(node))
        try:
            if pattern.match(text) is None:
                raise ValueError(f"is no {kind}")
            return make(text)
        except ValueError as error:
            raise ConstructorError(None, None, f"{brief(text)} {error}", node.start_mark) from error

    return construct


_MAKE: dict[str, Callable[[str], Any]] = {
    "null": lambda text: None,
    "bool": lambda text: text.lower() == "true",
    "int": _integer,
    "float": lambda text: float(re.sub(r"\.(inf|nan)", r"\1", text.lower())),
}
for _kind, (_plain, _first) in _CORE.items():
    _pattern = re.compile(rf"(?:{_plain})\Z")
    StrictLoader.add_constructor(_TAG + _kind, _reader(_kind, _pattern, _MAKE[_kind]))
    for _yaml in (StrictLoader, StrictDumper):
        _yaml.add_implicit_resolver(_TAG + _kind, _pattern, list(_first))
StrictLoader.add_constructor(_TAG + "str", _reader("text", re.compile(""), _text))
for _kind in ("seq", "map"):
    StrictLoader.add_constructor(_TAG + _kind, getattr(yaml.SafeLoader, f"construct_yaml_{_kind}"))
