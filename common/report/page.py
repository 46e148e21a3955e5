"""Report pages: sections of blocks, written as one self-contained HTML file, and each figure as SVG and PNG files."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import jinja2

from fedsteph.common.host import atomic
from fedsteph.common.host.progress import Progress, silent
from fedsteph.common.report.style import KINDS, encoded, without_control
from fedsteph.common.report.template import TEMPLATE

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PAGE_FILE = "index.html"
NO_DECISION = "Research software, not a medical device: no decision about a patient rests on it."
PICTURES = "figures"
REPORT = "report"  # default folder of a page, inside the run's or site's folder
_NUMBER = re.compile(r"[-+<]?\d[\d,.]*(?:[ (±%]|-\d|$)")  # a number, perhaps followed by an interval or a unit
_SHOWN = re.compile('<figure id="figure-([a-z0-9._-]+)">')
_BESIDE = re.compile("[A-Za-z0-9._~%-]+(/[A-Za-z0-9._~%-]+)*")
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
    """Preformatted text, such as a configuration, collapsed on the screen until it is opened."""

    text: str
    title: str = "show"


@dataclass(frozen=True)
class Link:
    """A link to a file in a folder beside the page; ValueError for an ``href`` that could lead elsewhere."""

    text: str
    href: str  # relative, with everything but letters, digits, ``.``, ``_``, ``~`` and ``-`` quoted

    def __post_init__(self) -> None:
        if _BESIDE.fullmatch(self.href) is None:
            raise ValueError(f"a link must be like {_BESIDE.pattern}")


@dataclass(frozen=True)
class Table:
    """A table, its rows as long as its header; if ``folded``, collapsed on the screen until it is opened."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    title: str = ""
    folded: bool = False

    @property
    def numeric(self) -> list[bool]:
        """For each column, whether it holds numbers; such columns are right-aligned."""
        columns = zip(*self.rows, strict=True) if self.rows else ([] for _ in self.header)
        return [all(cell == "-" or _NUMBER.match(cell) for cell in column) for column in columns]


@dataclass(frozen=True)
class Picture:
    """A figure, or a sentence instead if nothing can be drawn."""

    name: str  # of the file, without extension
    title: str  # what the figure shows; it is drawn in the figure too
    figure: Figure | bytes | None = None  # bytes: an SVG, of nothing but shapes and escaped words
    instead: str = ""
    note: str = ""  # how to read the figure
    numbers: Table | None = None  # the data of the figure
    finding: str = ""  # what the figure shows of these data, in one sentence

    def __post_init__(self) -> None:
        if _NAME.fullmatch(self.name) is None:
            raise ValueError(f"a picture's name must be like {_NAME.pattern}")
        if (self.figure is None) != bool(self.instead):
            raise ValueError("a picture has a figure, or a sentence instead of one")

    @property
    def alt(self) -> str:
        """The words for readers who do not see the figure: the finding first."""
        return " ".join(text for text in (self.finding, f"{self.title}.", self.note) if text)

    @cached_property
    def svg(self) -> bytes:
        """The figure as SVG; it is rendered only once."""
        assert self.figure is not None
        if isinstance(self.figure, bytes):
            return self.figure
        return encoded(self.figure, "svg", self.name)

    @property
    def inline(self) -> str:
        """The SVG as a part of the page, if it was given; a page of 1,000 images takes half a minute to open."""
        return self.figure.decode() if isinstance(self.figure, bytes) else ""

    @property
    def source(self) -> str:
        """The figure as a data URI, so that its ids and styles cannot conflict with those of other figures."""
        return f"data:image/svg+xml;base64,{base64.b64encode(self.svg).decode()}"


@dataclass(frozen=True)
class Answer:
    """What a reader looks for first: one sentence and its state, the number behind it, and what speaks against it."""

    state: State
    sentence: str
    number: str = ""  # with its interval
    flags: Sequence[str] = ()  # red flags, a sentence each
    facts: Sequence[str] = ()  # the patients, and what was made when and by what; a line each

    @property
    def mark(self) -> str:
        """The state as a shape, for who sees no colours."""
        return _MARKS[self.state]


State = Literal["better", "not shown", "worse", "failed"]
_MARKS: dict[State, str] = {"better": "\u25b2", "not shown": "\u25cf", "worse": "\u25bc", "failed": "\u2716"}
Block = Text | Points | Code | Link | Table | Picture | Answer


@dataclass(frozen=True)
class Section:
    """A part of a page with a heading; a section of ``level`` 3 belongs to the last one of level 2.

    ``closed``: one of level 2 that a reader opens, with all that belongs to it.
    """

    title: str
    blocks: Sequence[Block] = ()
    level: int = 2
    closed: bool = False
    apart: bool = False  # printed on a page of its own


@dataclass(frozen=True)
class Page:
    """A whole page: who may see it, the result in one or two sentences or as an answer, and the sections.

    A script, which has no ``<``, is the only one that the page's content security policy lets run.
    """

    title: str
    audience: str
    verdict: Sequence[str] = ()
    sections: Sequence[Section] = ()
    footer: str = NO_DECISION
    answer: Answer | None = None
    script: str = ""

    def __post_init__(self) -> None:
        if "<" in self.script or "\r" in self.script:
            raise ValueError("a script must not hold '<', which could end it, or a carriage return")

    @property
    def policy(self) -> str:
        """The content security policy: nothing is loaded, and nothing runs but the script."""
        rules = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
        if not self.script:
            return rules
        digest = base64.b64encode(hashlib.sha256(self.script.encode()).digest()).decode()
        return f"{rules}; script-src 'sha256-{digest}'"

    @property
    def parts(self) -> list[list[Section]]:
        """The sections of level 2, each with those that belong to it."""
        found: list[list[Section]] = []
        for section in self.sections:
            if section.level == 2 or not found:
                found.append([])
            found[-1].append(section)
        return found

    @property
    def pictures(self) -> Iterator[Picture]:
        """All pictures of the page, in order."""
        for section in self.sections:
            yield from (block for block in section.blocks if isinstance(block, Picture))


def html(page: Page) -> str:
    """The page as HTML, its size at the end; its content security policy forbids the browser to load anything."""
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    shown = environment.from_string(TEMPLATE).render(page=page, kind=lambda block: type(block).__name__.lower())
    before, end, after = without_control(shown).rpartition("</footer>")
    return f"{before} <span>This page: {_size(len(before.encode()))}.</span>{end}{after}"


def _size(n_bytes: int) -> str:
    return f"{n_bytes / 1e6:.1f} MB" if n_bytes >= 1e5 else f"{n_bytes / 1e3:.0f} kB"


def write_page(page: Page, folder: Path, progress: Progress = silent) -> Path:
    """Write ``index.html``, whose path is returned, and ``figures/NAME.*``. ValueError for two pictures of one name.

    Progress is in pictures.
    """
    names = [picture.name for picture in page.pictures]
    if len(set(names)) < len(names):
        raise ValueError("two pictures of a page have the same name")
    path = folder / PAGE_FILE
    before = set(_SHOWN.findall(path.read_text(encoding="utf-8", errors="replace"))) if path.exists() else set()
    for i, picture in enumerate(page.pictures, 1):
        write_picture(picture, folder / PICTURES)
        progress(i, len(names))
    drawn = {picture.name for picture in page.pictures if picture.figure is not None}
    for name in before - drawn:  # figures of an earlier page that this one does not have
        for kind in KINDS:
            (folder / PICTURES / f"{name}.{kind}").unlink(missing_ok=True)
    atomic.write_text(path, html(page))
    return path


def write_picture(picture: Picture, folder: Path) -> list[Path]:
    """Write a picture as SVG, and as PNG unless it is an SVG already; the paths, or none if it has no figure."""
    if picture.figure is None:
        return []
    contents = [picture.svg]
    if not isinstance(picture.figure, bytes):
        contents.append(encoded(picture.figure, "png"))
    paths = [folder / f"{picture.name}.{kind}" for kind in KINDS[: len(contents)]]
    for path, content in zip(paths, contents, strict=True):
        atomic.write_bytes(path, content)
    return paths
