"""A page: sections of blocks, written as one self-contained HTML file with every picture beside it as SVG and PNG."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import jinja2

from fedsteph.common.host import atomic
from fedsteph.common.report.style import KINDS, encoded
from fedsteph.common.report.template import TEMPLATE

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PAGE_FILE = "index.html"
PICTURES = "figures"
REPORT = "report"  # the folder of a page, beside what it is about
_NUMBER = re.compile(r"[-+<]?\d[\d,.]*(?:[ (±%]|-\d|$)")  # a number, and whatever comes behind it: an interval, a unit
_SHOWN = re.compile('<figure id="figure-([a-z0-9._-]+)">')
_NAME = re.compile("[a-z0-9][a-z0-9._-]{0,79}")


@dataclass(frozen=True)
class Text:
    """A paragraph."""

    text: str


@dataclass(frozen=True)
class Points:
    """A list of sentences."""

    sentences: Sequence[str]


@dataclass(frozen=True)
class Code:
    """Text as it is, such as a configuration."""

    text: str


@dataclass(frozen=True)
class Table:
    """Rows of one length under a header.

    Args:
        folded: shown only when it is opened, and always in print.
    """

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    title: str = ""
    folded: bool = False

    @property
    def numeric(self) -> list[bool]:
        """Of each column, whether it holds numbers, which stand below each other by their last digits."""
        columns = zip(*self.rows, strict=True) if self.rows else ([] for _ in self.header)
        return [all(cell == "-" or _NUMBER.match(cell) for cell in column) for column in columns]


@dataclass(frozen=True)
class Picture:
    """A figure, or the sentence that stands where nothing can be drawn.

    Args:
        name: of its files, without an ending.
        title: what is seen; it stands in the figure too.
        note: how to read it.
        numbers: what it was drawn from.
    """

    name: str
    title: str
    figure: Figure | None = None
    instead: str = ""
    note: str = ""
    numbers: Table | None = None

    def __post_init__(self) -> None:
        if _NAME.fullmatch(self.name) is None:
            raise ValueError(f"a picture's name must be like {_NAME.pattern}")
        if (self.figure is None) != bool(self.instead):
            raise ValueError("a picture has a figure, or a sentence instead of one")

    @cached_property
    def svg(self) -> bytes:
        """The figure as SVG, drawn once."""
        assert self.figure is not None
        return encoded(self.figure, "svg", self.name)

    @property
    def source(self) -> str:
        """The figure as a data URI: it brings its ids and styles, and meets nobody else's."""
        return f"data:image/svg+xml;base64,{base64.b64encode(self.svg).decode()}"


Block = Text | Points | Code | Table | Picture


@dataclass(frozen=True)
class Section:
    """A headed part of a page; ``level`` 3 belongs to the last one of level 2."""

    title: str
    blocks: Sequence[Block] = ()
    level: int = 2


@dataclass(frozen=True)
class Page:
    """A whole page.

    Args:
        verdict: the result, in a sentence or two, before all else.
        audience: who may see it, which stands above everything.
    """

    title: str
    audience: str
    verdict: Sequence[str] = ()
    sections: Sequence[Section] = ()
    footer: str = field(default="Research software, not a medical device: no decision about a patient rests on it.")

    @property
    def pictures(self) -> Iterator[Picture]:
        """All pictures, in their order."""
        for section in self.sections:
            yield from (block for block in section.blocks if isinstance(block, Picture))


def html(page: Page) -> str:
    """The page as HTML that loads nothing: a policy inside it forbids the browser to."""
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    return environment.from_string(TEMPLATE).render(page=page, kind=lambda block: type(block).__name__.lower())


def write_page(page: Page, folder: Path) -> Path:
    """Write ``index.html``, and ``figures/NAME.svg`` and ``.png`` for every picture that could be drawn.

    Returns:
        the page's path.

    Raises:
        ValueError: two pictures have the same name.
    """
    names = [picture.name for picture in page.pictures]
    if len(set(names)) < len(names):
        raise ValueError("two pictures of a page have the same name")
    path = folder / PAGE_FILE
    before = set(_SHOWN.findall(path.read_text(errors="replace"))) if path.exists() else set()
    for picture in page.pictures:
        write_picture(picture, folder / PICTURES)
    drawn = {picture.name for picture in page.pictures if picture.figure is not None}
    for name in before - drawn:  # an earlier page showed what this one does not
        for kind in KINDS:
            (folder / PICTURES / f"{name}.{kind}").unlink(missing_ok=True)
    atomic.write_text(path, html(page))
    return path


def write_picture(picture: Picture, folder: Path) -> list[Path]:
    """Write a picture's SVG and PNG, and name them; none where nothing could be drawn."""
    if picture.figure is None:
        return []
    paths = [folder / f"{picture.name}.{kind}" for kind in KINDS]
    for path, content in zip(paths, (picture.svg, encoded(picture.figure, "png")), strict=True):
        atomic.write_bytes(path, content)
    return paths
