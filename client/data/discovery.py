"""Lists a site's data: matches slides to feature files by ID, reads the file headers, and collects problems.

The data check and the cohort both use it. It reads only headers, once per process, so it is fast for large files too.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from fedsteph.client.data.formats import SUFFIXES, FeatureHeader, is_feature_file, is_utf8, is_zarr, slide_name
from fedsteph.client.data.headers import known_header
from fedsteph.client.data.matching import by_form, find_match, same
from fedsteph.client.data.problems import Problem, refuse_errors
from fedsteph.client.data.settings import DataSettings
from fedsteph.client.data.source import transposed
from fedsteph.client.data.tables.clinical_table import ClinicalValues, clinical_of
from fedsteph.client.data.tables.labels import Patient, listed_ids, read_labels
from fedsteph.common.config.extraction import Extraction, stated
from fedsteph.common.errors import FeatureFileError, LabelError

_EXCLUDE = "list the slide under 'data.exclude' in site.yaml"
_USUAL_WIDTHS = {384, 512, 768, 1024, 1280, 1536, 2048, 2560, 3072}  # of public encoders


@dataclass
class SiteContents:
    """Contents of a site's folder, and all problems found; patients and files are without excluded slides."""

    patients: list[Patient] = field(default_factory=list)  # with a label and at least one slide, sorted by ID
    dropped: list[str] = field(default_factory=list)  # IDs of patients whose slides are all excluded
    listed: set[str] | None = None  # all patient IDs in the label table; None if it cannot be read
    listed_slides: set[str] = field(default_factory=set)  # all slide IDs in the label table
    files: dict[str, Path] = field(default_factory=dict)  # per slide ID in the label table
    headers: dict[str, FeatureHeader] = field(default_factory=dict)  # per slide ID, if it could be read
    problems: list[Problem] = field(default_factory=list)
    clinical: ClinicalValues | None = None  # of the patients; None: the site file names no clinical columns

    @property
    def width(self) -> int:
        """d, the number of features per instance; valid only if no problem is an error."""
        return next(iter(self.headers.values())).width

    @property
    def extraction(self) -> Extraction:
        """How the features were made, as far as a file states it; valid only if no problem is an error."""
        return stated(header.extraction for header in self.headers.values())

    @property
    def n_bytes(self) -> int:
        """Bytes of all patients' bags as float32, over the slides with a readable header."""
        slides = (slide for patient in self.patients for slide in patient.slides)
        headers = (self.headers[slide] for slide in slides if slide in self.headers)
        return sum(4 * header.n_instances * header.width for header in headers)


def discover(folder: Path, settings: DataSettings, *, outcomes: bool = True) -> SiteContents:
    """Read the labels and the headers of the feature files; errors are collected in ``problems``, not raised.

    Args:
        outcomes: as in :func:`read_labels`.
    """
    site, features, labels = SiteContents(), folder / settings.features, folder / settings.labels
    found = _files(features, site.problems)
    try:
        patients, problems = read_labels(labels, settings, found, outcomes=outcomes)
        site.listed, slides = listed_ids(labels, settings, found)
        site.listed_slides = slides
        site.clinical = clinical_of(labels, settings, patients, site.problems)
    except LabelError as error:
        site.problems.append(Problem.of(error))
        return site
    found, settings = _called_as_listed(site, found, slides, settings, labels)
    wanted = slides - {*settings.exclude}
    if not wanted <= found.keys():  # where each slide has its file, none is opened to look for another
        readable = {slide for slide in {*found} - {*settings.exclude} if any(map(is_feature_file, found[slide]))}
        if match := find_match(wanted, readable, settings.match):
            site.problems.append(match.problem(str(labels), "slides"))
            wanted -= {*match.pairs}
            found = {slide: paths for slide, paths in found.items() if slide not in match.pairs.values()}
        elif 2 * len(missing := wanted - found.keys()) > len(wanted) and (strange := readable - slides):
            site.problems.append(_unlike(missing, len(wanted), strange, features))
            wanted -= missing
            found = {slide: paths for slide, paths in found.items() if slide not in strange}
    if settings.columns.slide is None:
        site.dropped += sorted(site.listed - {patient.id for patient in patients})
    site.problems += [*problems, *_strays(found, slides, settings)]
    for patient in patients:
        if kept := tuple(slide for slide in patient.slides if slide not in settings.exclude):
            site.patients.append(replace(patient, slides=kept))
        else:
            site.dropped.append(patient.id)
            what = f"the patient '{patient.id}' is left out, as all slides are excluded"
            site.problems.append(Problem("warning", str(labels), what, "Remove the patient's rows, or ignore"))
    if not site.patients and not problems:
        what = "no patient is left with a label and a slide"
        site.problems.append(Problem("error", str(labels), what, "Mend the rows or exclude fewer slides"))
    if found:
        site.problems += _match(site, sorted(wanted), found, features)
        site.problems += [*_odd_files(site), *_same_files(site)]
    return site


def usable_contents(folder: Path, settings: DataSettings) -> SiteContents:
    """As :func:`discover`; data with errors, not with warnings alone, raise a DataError with a table of all of them."""
    contents = discover(folder, settings)
    refuse_errors(contents.problems, folder)
    return contents


def _files(features: Path, problems: list[Problem]) -> dict[str, list[Path]]:
    """Visible files by slide ID: the file name without its last suffix, because slide IDs contain dots.

    Folders that are named as feature files are, such as a zarr, count too: reading them says what is wrong.
    """
    found: dict[str, list[Path]] = {}
    folders, what = [], "the features folder holds no file"
    try:
        for path in sorted(features.iterdir()):
            if path.name.startswith("."):
                continue
            if path.is_dir() and path.suffix.lower() not in SUFFIXES and not is_zarr(path):
                folders.append(path.name)
            elif is_utf8(path.name):
                found.setdefault(slide_name(path), []).append(path)
            elif is_feature_file(path):
                what = "its name is not UTF-8, so that no label can name it"
                problems.append(Problem.of(FeatureFileError(what, where=path, remedy="Rename it"), "warning"))
    except OSError as error:
        what = f"the features folder cannot be read ({error.strerror})"
    if folders and not found:
        what += f", but folders: {', '.join(map(repr, folders[:3]))}"
    if not found:
        remedy = "Put the feature files there, or name their folder under 'data.features' in site.yaml"
        problems.append(Problem("error", str(features), what, remedy))
    return found


def _called_as_listed(
    site: SiteContents, found: dict[str, list[Path]], slides: set[str], settings: DataSettings, labels: Path
) -> tuple[dict[str, list[Path]], DataSettings]:
    """Files and excluded slides under the names that the table has for them, by the rules of ``data.match``."""
    if not settings.match:
        return found, settings
    listed, twice = by_form(slides, settings.match)
    for one, other in twice:
        what = f"the slides '{one}' and '{other}' are one under 'data.match'"
        site.problems.append(Problem("error", str(labels), what, "Take a rule out of data.match, or rename one"))
    called: dict[str, list[Path]] = {}
    for name, paths in found.items():
        called.setdefault(listed.get(same(name, settings.match), name), []).extend(paths)
    exclude = tuple(listed.get(same(slide, settings.match), slide) for slide in settings.exclude)
    return called, replace(settings, exclude=exclude)


def _unlike(missing: set[str], n_slides: int, strange: set[str], features: Path) -> Problem:
    """The error for names in table and folder that are alike under no rule."""
    what = (
        f"{len(missing)} of {n_slides} slides have no feature file: the table has '{min(missing)}', "
        f"and the folder has '{min(strange)}'"
    )
    remedy = "Name another folder under 'data.features' or another column under 'data.columns.slide' in site.yaml"
    return Problem("error", str(features), what, f"{remedy}, or rename the files")


def _strays(found: dict[str, list[Path]], slides: set[str], settings: DataSettings) -> Iterator[Problem]:
    for slide in settings.exclude:
        if slide not in slides and slide not in found:
            what = f"the excluded slide '{slide}' does not exist"
            yield Problem("warning", "data.exclude", what, "Mend its ID in site.yaml or remove it")
    for slide in sorted({*found} - slides - {*settings.exclude}):
        # Extractors write logs and settings into the same folder; these are not slides.
        for path in (path for path in found[slide] if is_feature_file(path) or is_zarr(path)):
            what = f"the slide '{slide}' is not in {settings.labels}"
            yield Problem("warning", str(path), what, f"Add its row, or {_EXCLUDE}")


def _match(site: SiteContents, slides: list[str], found: dict[str, list[Path]], features: Path) -> Iterator[Problem]:
    for slide in slides:
        candidates = found.get(slide, [])
        # A copy such as S1.h5.bak is called S1 as well, under the rule of endings.
        candidates = [path for path in candidates if path.suffix.lower() in SUFFIXES] or candidates
        # A single file is always accepted here: reading its header then reports what is wrong with it.
        paths = candidates if len(candidates) == 1 else [p for p in candidates if is_feature_file(p)] or candidates[:1]
        if not paths:
            what = f"the slide '{slide}' has no feature file"
            yield Problem("error", str(features), what, f"Add the file, or {_EXCLUDE}")
        elif len(paths) > 1:
            names = ", ".join(path.name for path in paths)
            what = f"the slide '{slide}' has {len(paths)} feature files: {names}"
            yield Problem("error", str(features), what, "Keep one of them")
        else:
            site.files[slide] = paths[0]
            try:
                site.headers[slide] = known_header(paths[0])
            except FeatureFileError as error:
                yield Problem.of(error)


def _odd_files(site: SiteContents) -> Iterator[Problem]:
    """Report files that differ from the majority; a fact that a layout does not state is not compared."""
    turned = _transposed(site)
    for slide in turned:
        header = site.headers[slide]
        yield replace(Problem.of(transposed(header.n_instances, header.width)), where=str(site.files[slide]))
    facts = {slide: {"width": h.width, **vars(h.extraction)} for slide, h in site.headers.items()}
    for fact in ("width", "encoder", "magnification", "patch_size"):
        told = {slide: value for slide, known in facts.items() if (value := known[fact]) is not None}
        if fact == "width":
            told = {slide: value for slide, value in told.items() if slide not in turned}
        if len({*told.values()}) < 2:
            continue
        [(usual, count)] = Counter(told.values()).most_common(1)
        for slide, value in told.items():
            if value != usual:
                what = f"its {fact.replace('_', ' ')} is {value}, while {count} of {len(told)} files have {usual}"
                remedy = f"Extract all slides with one encoder, at one magnification and patch size, or {_EXCLUDE}"
                yield Problem("error", str(site.files[slide]), what, remedy)


def _transposed(site: SiteContents) -> list[str]:
    """Slides without coords whose features have as many rows as the others have columns.

    Or all slides, if none has coords, and all have equally many rows and many numbers of columns.
    """
    unsure = {slide: header for slide, header in site.headers.items() if not header.counted}
    widths = Counter(header.width for header in site.headers.values())
    if len(unsure) == len(site.headers) and len(widths) > 2 and len({one.n_instances for one in unsure.values()}) == 1:
        return [*unsure]
    usual = max(widths, key=lambda width: (widths[width], width in _USUAL_WIDTHS), default=None)
    # A width that encoders have is more likely one of another encoder.
    odd = {slide: one for slide, one in unsure.items() if one.width not in {usual, *_USUAL_WIDTHS}}
    return [slide for slide, one in odd.items() if one.n_instances == usual]


def _same_files(site: SiteContents) -> Iterator[Problem]:
    """Report a file that two slides have, by a link: its patient would be two patients."""
    first: dict[tuple[int, ...], str] = {}
    for slide in site.headers:
        status = site.files[slide].stat()
        # On some network drives inode numbers are not unique.
        other = first.setdefault((status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns), slide)
        if other != slide:
            what = f"it is the same file as that of the slide '{other}'"
            yield Problem("error", str(site.files[slide]), what, f"Give each slide its own file, or {_EXCLUDE}")
