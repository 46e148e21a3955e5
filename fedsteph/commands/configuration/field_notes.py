"""What a dataclass's source says of each field: the comment behind it or above it, and its bounds in brackets.

```
# how often each patient is used,
# on average [1 to 10000]
epochs: int = 40
clip: float = 0.03  # largest L2 norm of one patient's gradient [above 0]
```
"""

from __future__ import annotations

import ast
import inspect
import io
import re
import textwrap
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass, is_dataclass

_BOUNDED = re.compile(r"(?P<meaning>.*?)\s*\[(?P<bounds>[^\[\]]+)\]")


@dataclass(frozen=True)
class Note:
    """A field's meaning and its bounds in words; either may be empty."""

    meaning: str = ""
    bounds: str = ""

    @classmethod
    def of(cls, comment: str) -> Note:
        """Split a comment, as one line, into meaning and bounds."""
        found = _BOUNDED.fullmatch(comment)
        return cls(**found.groupdict()) if found else cls(comment)


def notes_of(cls: type) -> dict[str, Note]:
    """The note of every field of a dataclass, those of its base classes first.

    Raises:
        OSError: the source is not at hand.
    """
    found: dict[str, Note] = {}
    for owner in reversed(cls.__mro__):
        if is_dataclass(owner):
            found |= dict(_own_notes(textwrap.dedent(inspect.getsource(owner))))
    return found


def _own_notes(source: str) -> Iterator[tuple[str, Note]]:
    behind, above = _comments(source)
    (owner,) = ast.parse(source).body
    assert isinstance(owner, ast.ClassDef)
    for statement in owner.body:
        if not isinstance(statement, ast.AnnAssign) or not isinstance(statement.target, ast.Name):
            continue
        line, texts = statement.lineno - 1, list[str]()
        while line in above:
            texts.insert(0, above[line])
            line -= 1
        texts += [behind[n] for n in range(statement.lineno, statement.end_lineno + 1) if n in behind]  # type: ignore[operator]
        yield statement.target.id, Note.of(" ".join(texts))


def _comments(source: str) -> tuple[dict[int, str], dict[int, str]]:
    """Line number -> comment, of those behind code and of those on lines of their own."""
    behind: dict[int, str] = {}
    above: dict[int, str] = {}
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            alone = token.line.lstrip().startswith("#")
            (above if alone else behind)[token.start[0]] = token.string.lstrip("# ").rstrip()
    return behind, above
