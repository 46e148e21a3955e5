"""A page is one whole file: balanced, escaped, asking nothing of any network, and the same every time."""

from __future__ import annotations

import base64
import hashlib
import io
import re
import subprocess
import sys
from dataclasses import replace
from functools import cache
from html.parser import HTMLParser
from importlib.metadata import version
from pathlib import Path
from xml.etree import ElementTree

import pytest
from each_case import each
from matplotlib.artist import Artist
from matplotlib.figure import Figure
from PIL import Image

from fedsteph.common.report.page import (
    PAGE_FILE,
    PICTURES,
    Code,
    Page,
    Picture,
    Points,
    Section,
    Table,
    Text,
    html,
    write_page,
    write_picture,
)
from fedsteph.common.report.style import COLOURS, DASHES, canvas, encoded, line_look

VOID = {"meta", "link", "img", "br", "hr", "input"}
HOSTILE = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=1>',
    "' onload='alert(1)",
    "$x_{",
    "-->",
    "</pre></table></details></main>",
    "</title></style><script>alert(1)</script>",
    "{{ 7 * 7 }}{% raw %}",
    "&lt;b&gt;&amp;",
    "http://evil.example/?<a href='javascript:alert(1)'>",
]


class Strict(HTMLParser):
    """Reads a page and fails where a tag is not closed, or closed in another order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[tuple[str, str]] = []  # the tag around it, text
        self.declared = ""

    def handle_decl(self, decl: str) -> None:
        self.declared = decl

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len({name for name, _ in attrs}) == len(attrs), f"<{tag}> has an attribute twice"
        assert not ("p" in self.open and tag in ("p", "ul", "table", "div", "figure", "details", "pre")), (
            f"<{tag}> ends a <p>"
        )
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        pytest.fail(f"<{tag}/> closes itself")

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if data.strip():
            self.words.append((self.open[-1] if self.open else "", data.strip()))

    def handle_comment(self, data: str) -> None:
        pytest.fail(f"a comment: {data}")

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]

    def within(self, tag: str) -> list[str]:
        return [text for around, text in self.words if around == tag]


def parsed(text: str) -> Strict:
    found = Strict()
    found.feed(text)
    found.close()
    assert found.open == []
    ids = [attributes["id"] for _, attributes in found.tags if "id" in attributes]
    assert len(set(ids)) == len(ids)
    return found


def drawn(title: str = "a title", who: str = "n = 3", label: str = "a line") -> Figure:
    """A small figure with what figures have: lines, an image, a legend, words."""
    with canvas(title, who, 2.0, 1.2) as figure:
        axes = figure.subplots()
        axes.plot([0, 1, 2], [0.0, 1.0, 0.5], label=label)
        axes.imshow([[0.0, 1.0], [1.0, 0.0]])
        axes.set_xlabel(label)
        axes.legend()
    return figure


@cache
def bytes_of(kind: str, salt: str = "fedsteph") -> bytes:
    return encoded(drawn(), kind, salt)


def picture(name: str) -> Picture:
    """With a figure that is drawn in no time."""
    return Picture(name, "A curve", Figure((1, 1)), note="How to read it.", numbers=Table(["x"], [["1"]], "numbers"))


def whole(word: str = "word") -> Page:
    """A page with every kind of block, and ``word`` in every place that takes words."""
    table = Table([word, "n"], [[word, "1"], [f"{word} and more", "2"]], word)
    figure = Figure((1, 1))
    blocks = [
        Text(word),
        Points([word, word]),
        Code(word),
        table,
        replace(table, folded=True),
        Picture("one", word, figure, note=word, numbers=replace(table, folded=True), finding=word),
        Picture("two", word, instead=word),
        Text(word),
        Picture("three", word, figure),
    ]
    sections = [Section(word, blocks), Section(word, [], 3), Section(word)]
    return Page(word, word, [word, word], sections, word)


def svg_of(attributes: dict[str, str | None]) -> bytes:
    head, _, content = str(attributes["src"]).partition(",")
    assert head == "data:image/svg+xml;base64"
    return base64.b64decode(content, validate=True)


# ---------------------------------------------------------------- html


def test_every_tag_is_closed_where_it_was_opened():
    found = parsed(html(whole()))
    assert found.declared == "DOCTYPE html" and [attributes.get("lang") for attributes in found.all("html")] == ["en"]
    assert {tag for tag, _ in found.tags} >= {"title", "h1", "h2", "h3", "table", "figure", "details", "pre", "footer"}
    assert len(found.all("table")) == 3  # in sight, folded, of a picture
    assert len(found.all("figure")) == 3


def test_the_parser_sees_what_is_not_balanced():
    for text in ("<p><b></p></b>", "<p>", "</p>", "<p><p></p></p>", '<a id="x"></a><a id="x"></a>', "<b/>", "<p a a>"):
        with pytest.raises((AssertionError, pytest.fail.Exception)):
            parsed(text)


def test_the_browser_is_forbidden_to_load_anything():
    policies = [
        str(meta["content"])
        for meta in parsed(html(whole())).all("meta")
        if meta.get("http-equiv") == "Content-Security-Policy"
    ]
    (policy,) = policies
    rules = dict(rule.split(" ", 1) for rule in policy.split("; "))
    assert rules == {"default-src": "'none'", "img-src": "data:", "style-src": "'unsafe-inline'"}


def test_of_scripts_the_page_s_own_alone_may_run():
    script = "document.title = 'found & sorted';"
    found = parsed(html(Page("P", "all", sections=[Section("S", [Text("word")], apart=True)], script=script)))
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    (policy,) = [str(meta["content"]) for meta in found.all("meta") if "http-equiv" in meta]
    assert f"script-src 'sha256-{digest}'" in policy.split("; ") and found.within("script") == [script]
    assert policy.startswith("default-src 'none'; ") and found.all("section") == [{"class": "apart"}]
    with pytest.raises(ValueError, match="must not hold '<'"):
        Page("P", "all", script="1; </script><script>2")


@each("word", ["word", *HOSTILE])
def test_nothing_in_a_page_leads_out_of_it(word):
    found = parsed(html(whole(word)))
    for tag, attributes in found.tags:
        assert tag not in ("script", "iframe", "object", "embed", "form", "base")
        for name, value in attributes.items():
            assert not name.startswith("on")
            assert name not in ("style", "srcset", "action", "data", "background", "poster")
            if name in ("href", "src"):
                assert str(value).startswith(("#", "data:"))
            elif name not in ("alt", "data-label", "aria-label"):  # which hold a reader's words
                assert "http:" not in str(value) and "https:" not in str(value)
    (style,) = found.within("style")
    assert not re.search(r"url\(|@import|http|expression|<", style)


def test_every_link_has_a_target():
    found = parsed(html(whole()))
    ids = {attributes["id"] for _, attributes in found.tags if "id" in attributes}
    links = [str(attributes["href"]) for attributes in found.all("a")]
    assert len(links) == 2  # the section of level 3 is a part of the one before
    assert {link.removeprefix("#") for link in links} <= ids


def test_every_picture_is_in_the_page_and_has_its_words():
    found = parsed(html(whole()))
    assert [(image["alt"], svg_of(image)[:5]) for image in found.all("img")] == [
        ("word word. word", b"<?xml"),
        ("word.", b"<?xml"),
    ]


def test_a_picture_that_could_not_be_drawn_shows_its_sentence():
    page = Page("P", "all", sections=[Section("S", [Picture("none", "A curve", instead="There is no event.")])])
    found = parsed(html(page))
    assert found.all("img") == [] and ("strong", "A curve.") in found.words
    assert ("p", "There is no event.") in found.words


@each("hostile", HOSTILE)
def test_hostile_words_change_nothing_but_words(hostile):
    """Tags and attributes are those of a harmless page; what was given is read back as it was."""

    def skeleton(found: Strict) -> list[tuple[str, dict[str, str | None]]]:
        return [
            (tag, {k: v for k, v in own.items() if k not in ("src", "alt", "data-label", "aria-label")})
            for tag, own in found.tags
        ]

    harmless, found = parsed(html(whole("x" * len(hostile)))), parsed(html(whole(hostile)))
    assert skeleton(found) == skeleton(harmless)
    for tag in ("title", "h1", "h2", "h3", "span", "li", "pre", "th", "td", "caption", "footer", "a"):
        assert hostile in found.within(tag), tag
    assert [len(found.within(tag)) for tag in ("p", "td", "summary")] == [
        len(harmless.within(tag)) for tag in ("p", "td", "summary")
    ]
    assert [image["alt"] for image in found.all("img")] == [f"{hostile} {hostile}. {hostile}", f"{hostile}."]


@each("hostile", [*HOSTILE, "a\x1b[31mb", "a\x00b"])
def test_hostile_words_in_a_figure_are_drawn_and_nothing_else(hostile):
    with canvas(hostile, hostile, 4.0, 1.0) as found:
        found.subplots().set_xlabel(hostile)
    root = ElementTree.fromstring(encoded(found, "svg"))
    assert {element.tag.rpartition("}")[2] for element in root.iter()} <= {
        "svg",
        "metadata",
        "RDF",
        "Work",
        "type",
        "format",
        "defs",
        "style",
        "g",
        "path",
        "use",
        "image",
        "clipPath",
        "rect",
    }
    assert found.axes[0].get_xlabel() == hostile and found.axes[0].xaxis.label.get_parse_math() is False
    assert found.get_suptitle().replace("\n", "").replace(" ", "") == (2 * hostile).replace(" ", "")


def test_an_empty_page_and_empty_tables_are_pages_too():
    empty = parsed(html(Page("T", "all")))
    assert empty.within("h1") == ["T"] and empty.all("h2") == empty.all("table") == empty.all("div") == []
    assert empty.within("footer") == [
        "Research software, not a medical device: no decision about a patient rests on it."
    ]
    assert empty.within("span")[-1] == f"This page: {round(len(html(Page('T', 'all'))) / 1000)} kB."
    blocks = [Table([], []), Table(["a", "b"], []), Points([]), Code(""), Text("")]
    found = parsed(html(Page("T", "all", sections=[Section("S", blocks), Section("S", blocks, 3)])))
    assert found.within("th") == ["a", "b"] * 2 and found.all("td") == []


def test_sections_are_numbered_as_the_navigation_counts_them():
    sections = [Section("A"), Section("B", level=3), Section("C"), Section("D", level=3), Section("E")]
    found = parsed(html(Page("T", "all", sections=sections)))
    assert found.within("h2") == ["A", "C", "E"]
    assert [own["id"] for own in found.all("h2")] == ["section-1", "section-2", "section-3"]
    assert [own["href"] for own in found.all("a")] == ["#section-1", "#section-2", "#section-3"]
    assert found.within("a") == ["A", "C", "E"]


def test_pictures_beside_each_other_share_a_row():
    one, two, three = (Picture(name, "T", instead="none") for name in ("one", "two", "three"))
    found = parsed(html(Page("T", "all", sections=[Section("S", [one, two, Text("t"), three])])))
    assert [own.get("class") for own in found.all("div")] == ["pictures", "pictures"]


# ---------------------------------------------------------------- tables


@each(
    "cell",
    ["0.61", "-", "-0.612", "+0.01", "1,234", "0.61 (0.5-0.7)", "12 s", "0.61 ± 0.02", "95%", "10-19", "<5", "7"],
)
def test_columns_of_numbers_are_known(cell):
    assert Table(["a"], [[cell], ["0.5"]]).numeric == [True]


@each("cell", ["", "below 10", "a", "undefined", "not told", "5a", "--", "x 5", "deadbeef", "1.5x"])
def test_one_word_makes_a_column_one_of_words(cell):
    assert Table(["a", "b"], [[cell, "1"], ["0.5", "2"]]).numeric == [False, True]


def test_numbers_stand_to_the_right_with_their_header():
    found = parsed(html(Page("T", "all", sections=[Section("S", [Table(["word", "n"], [["a", "1"], ["b", "2"]])])])))
    assert [own.get("class") for own in found.all("th")] == [None, "number"]
    assert [own.get("class") for own in found.all("td")] == [None, "number"] * 2


def test_rows_have_one_length():
    with pytest.raises(ValueError, match=r"shorter|longer"):
        html(Page("T", "all", sections=[Section("S", [Table(["a", "b"], [["1", "2"], ["1"]])])]))


# ---------------------------------------------------------------- pictures


@each("name", ["", "A", "../x", "a/b", "a b", ".hidden", "-a", "a\n", "ä", "x" * 81, "a\\b"])
def test_a_picture_has_a_plain_name(name):
    with pytest.raises(ValueError, match="name must be like"):
        Picture(name, "T", instead="none")


def test_plain_names_pass():
    for name in ("a", "0", "a.b_c-d", "x" * 80):
        assert Picture(name, "T", instead="none").name == name


def test_a_picture_has_a_figure_or_a_sentence_and_never_both():
    with pytest.raises(ValueError, match="a figure, or a sentence"):
        Picture("p", "T")
    with pytest.raises(ValueError, match="a figure, or a sentence"):
        Picture("p", "T", drawn(), "none")


def test_a_page_knows_its_pictures_in_their_order():
    assert [found.name for found in whole().pictures] == ["one", "two", "three"]


def test_pictures_are_the_same_bytes_every_time():
    assert [encoded(drawn(), kind) for kind in ("svg", "png")] == [bytes_of("svg"), bytes_of("png")]
    assert bytes_of("svg", "pepper") != bytes_of("svg") and bytes_of("png", "pepper") == bytes_of("png")


def test_a_figure_is_the_same_bytes_however_often_it_is_encoded(tmp_path):
    """So that what stands in the page is what lies beside it."""
    page = Page("T", "all", sections=[Section("S", [Picture("one", "A curve", drawn())])])
    (image,) = parsed(write_page(page, tmp_path).read_text(encoding="utf-8")).all("img")
    assert svg_of(image) == (tmp_path / PICTURES / "one.svg").read_bytes()


def test_pictures_are_the_same_bytes_in_another_process_of_another_user_elsewhere(tmp_path):
    code = "\n".join(
        [
            "import hashlib",
            "from test_report_page import drawn",
            "from fedsteph.common.report.style import encoded",
            "print(*(hashlib.sha256(encoded(drawn(), kind)).hexdigest() for kind in ('svg', 'png')))",
        ]
    )
    folder = Path(__file__).parent
    root = folder.parents[2]
    path = f"{folder}:{root / 'tests/builders'}:{root}"
    environment = {"PYTHONHASHSEED": "7", "PYTHONPATH": path, "HOME": str(tmp_path), "USER": "somebody"}
    command = [sys.executable, "-c", code]
    found = subprocess.run(command, check=True, capture_output=True, text=True, env=environment, cwd=tmp_path)
    assert found.stdout.split() == [hashlib.sha256(bytes_of(kind)).hexdigest() for kind in ("svg", "png")]


def test_a_picture_says_nothing_of_the_day_the_machine_and_its_user():
    """What it does say is which standards it follows; matplotlib is named in the ids of axes, without a version."""
    svg, png = bytes_of("svg"), bytes_of("png")
    words = [str(Path.cwd()), "/tmp", "date", "creator", sys.prefix, version("matplotlib")]
    text = re.sub(r"base64,[^\"]*", "", svg.decode()).replace('id="matplotlib.axis_', "")
    assert "matplotlib" not in text and [word for word in words if word.lower() in text.lower()] == []
    assert re.search(r"\b(19|20)\d\d-\d\d", text) is None
    assert set(re.findall(r"https?://([^/\"]+)", text)) == {"www.w3.org", "purl.org", "creativecommons.org"}
    root = ElementTree.fromstring(svg)
    references = [value for element in root.iter() for name, value in element.attrib.items() if name.endswith("href")]
    assert references and all(value.startswith(("#", "data:image/png;base64")) for value in references)
    assert all(value.startswith("#") for value in re.findall(r"url\(([^)]*)\)", text))
    chunks, at = [], 8
    while at < len(png):
        length = int.from_bytes(png[at : at + 4], "big")
        chunks.append(png[at + 4 : at + 8])
        at += 12 + length
    assert set(chunks) == {b"IHDR", b"pHYs", b"IDAT", b"IEND"}  # no text, no time


def test_figures_bring_ids_of_their_own():
    """Those that refer to each other within a file; several files can stand in one document."""
    one, two = (
        set(re.findall(r'<clipPath id="([^"]+)"', bytes_of("svg", salt).decode())) for salt in ("fedsteph", "pepper")
    )
    assert one and two and not one & two


def test_a_title_and_its_owner_stand_in_the_figure_in_lines_that_fit():
    title, who = "A title that is far too long for one line of a small figure " * 2, "site-a, n = 37, folds 0 to 4"
    with canvas(title, who, 4.0, 1.0) as figure:
        figure.subplots()
    lines = figure.get_suptitle().split("\n")
    assert " ".join(lines) == f"{title.strip()} {who}" and figure.get_figheight() > 1.0 + 0.13 * len(lines)
    figure.draw_without_rendering()
    box = figure._suptitle.get_window_extent()
    assert box.x0 >= 0 and box.x1 <= figure.bbox.x1


def test_lines_differ_in_colour_or_dashes():
    looks = [str(line_look(i)) for i in range(len(COLOURS) * len(DASHES))]
    assert len(set(looks)) == len(looks)
    for i in range(7):
        assert line_look(i)["color"] != line_look(i + 1)["color"]
        assert line_look(i)["linestyle"] != line_look(i + 1)["linestyle"]


# ---------------------------------------------------------------- write_page


def page_of(*names: str) -> Page:
    return Page("T", "all", sections=[Section("S", [picture(name) for name in names])])


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_a_page_lies_beside_its_pictures(tmp_path):
    page = Page("T", "all", sections=[Section("S", [picture("one"), Picture("none", "N", instead="nothing")])])
    seen: list[tuple[float, float]] = []
    path = write_page(page, tmp_path / "new" / "folder", lambda *step: seen.append(step))
    assert path == tmp_path / "new" / "folder" / PAGE_FILE and seen == [(1, 2), (2, 2)]
    assert files(path.parent) == {PAGE_FILE, f"{PICTURES}/one.svg", f"{PICTURES}/one.png"}
    (image,) = parsed(path.read_text(encoding="utf-8")).all("img")
    assert svg_of(image) == (path.parent / PICTURES / "one.svg").read_bytes()
    with Image.open(io.BytesIO((path.parent / PICTURES / "one.png").read_bytes())) as png:
        assert png.format == "PNG"
        assert png.size == (160, 160)  # an inch each


def test_a_page_is_the_same_bytes_every_time(tmp_path):
    for name in ("a", "b"):
        write_page(page_of("one", "two"), tmp_path / name)
    found = [{name: (tmp_path / of / name).read_bytes() for name in files(tmp_path / of)} for of in ("a", "b")]
    assert found[0] == found[1]


def test_a_page_without_pictures_has_no_folder_of_them(tmp_path):
    write_page(Page("T", "all"), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [PAGE_FILE]


def test_a_later_page_takes_the_earlier_ones_figures_away(tmp_path):
    write_page(page_of("one", "two"), tmp_path)
    write_page(page_of("two", "three"), tmp_path)
    names = {f"{PICTURES}/{name}.{kind}" for name in ("two", "three") for kind in ("svg", "png")}
    assert files(tmp_path) == {PAGE_FILE, *names}


def test_what_no_page_wrote_stays(tmp_path):
    kept = {"figures/notes.txt", "figures/data.csv", "one.png", "other/one.svg", "figures/deep/one.png"}
    for name in kept:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("mine")
    write_page(page_of("two"), tmp_path)
    write_page(Page("T", "all"), tmp_path)
    assert files(tmp_path) == {PAGE_FILE, *kept} and all((tmp_path / name).read_text() == "mine" for name in kept)


def test_a_users_own_picture_in_a_folder_called_figures_stays(tmp_path):
    """A page may be written into the folder of a paper; only figures of an earlier page are this program's."""
    mine = tmp_path / PICTURES / "microscope.png"
    mine.parent.mkdir()
    mine.write_bytes(b"mine")
    write_page(page_of("one"), tmp_path)
    assert mine.exists() and mine.read_bytes() == b"mine"


def test_two_pictures_of_one_name_are_refused_before_anything_is_written(tmp_path):
    page = Page("T", "all", sections=[Section("S", [picture("one")]), Section("S", [Picture("one", "T", instead="x")])])
    with pytest.raises(ValueError, match="the same name"):
        write_page(page, tmp_path)
    assert list(tmp_path.iterdir()) == []


class Unwilling(Artist):
    """Cannot be drawn."""

    def draw(self, renderer: object) -> None:
        raise RuntimeError("cannot be drawn")


def test_a_page_that_fails_half_way_leaves_the_earlier_one_whole(tmp_path):
    write_page(page_of("one"), tmp_path)
    before = {name: (tmp_path / name).read_bytes() for name in files(tmp_path)}
    broken = Figure((1, 1))
    broken.add_artist(Unwilling())
    page = Page("Another", "all", sections=[Section("S", [picture("one"), Picture("two", "T", broken)])])
    with pytest.raises(RuntimeError, match="cannot be drawn"):
        write_page(page, tmp_path)
    assert {name: (tmp_path / name).read_bytes() for name in files(tmp_path)} == before


def test_pictures_alone_are_written_and_named(tmp_path):
    assert write_picture(Picture("none", "T", instead="nothing"), tmp_path) == []
    paths = write_picture(picture("one"), tmp_path)
    assert paths == [tmp_path / "one.svg", tmp_path / "one.png"]
    assert [path.read_bytes() for path in paths] == [encoded(Figure((1, 1)), kind, "one") for kind in ("svg", "png")]


def test_control_characters_make_no_malformed_page_or_picture(tmp_path: Path) -> None:
    """An XML parser, stricter than a browser, reads both; a patient's ID may hold whatever a table can."""
    odd = "P" + "".join(map(chr, range(32))) + "\x7f\ufffe\uffff<&--]]>"
    with canvas(odd, odd) as figure:
        figure.subplots().set_xlabel(odd)
    picture = Picture("odd", odd, figure, note=odd, numbers=Table([odd], [[odd]]))
    page = Page(odd, odd, [odd], [Section(odd, [Text(odd), Code(odd), Table([odd], [[odd]], odd), picture])])
    text = write_page(page, tmp_path).read_text(encoding="utf-8")
    assert not re.search("[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]", text)
    for body in re.findall("<(?:h1|h2|p|td|pre|figcaption)[ >].*?</(?:h1|h2|p|td|pre|figcaption)>", text, re.DOTALL):
        ElementTree.fromstring(f"<x>{body}</x>" if body.count("<details") == body.count("</details") else "<x/>")
    ElementTree.parse(tmp_path / "figures" / "odd.svg")
