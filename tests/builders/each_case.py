"""Many cases of one rule in one test."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable
from typing import Any


def each(names: str | tuple[str, ...], cases: Iterable[Any]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """As ``pytest.mark.parametrize``, but all cases are one test and share its fixtures; a failure names its case."""
    keys = (names,) if isinstance(names, str) else names
    rows = [(case,) if isinstance(names, str) else case for case in cases]
    assert rows

    def decorate(test: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(test)
        def every(**fixtures: Any) -> None:
            for row in rows:
                case = dict(zip(keys, row, strict=True))
                try:
                    test(**case, **fixtures)
                except BaseException as failure:
                    failure.add_note(f"with {case!r:.1000}")
                    raise

        asked = inspect.signature(test)
        fixtures = [parameter for name, parameter in asked.parameters.items() if name not in keys]
        every.__signature__ = asked.replace(parameters=fixtures)  # type: ignore[attr-defined]
        return every

    return decorate
