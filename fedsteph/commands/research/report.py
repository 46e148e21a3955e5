"""``fedsteph report`` and ``fedsteph analyze``: pages and figures of runs, studies and sites."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedsteph.commands.terminal.options import JsonOption
from fedsteph.common.errors import ConfigError
from fedsteph.common.host import console

if TYPE_CHECKING:
    from fedsteph.client.report.developers.analysis import Analysis
    from fedsteph.client.site.site import Site
    from fedsteph.common.host.progress import NamedProgress
    from fedsteph.common.report.page import Picture

analyze = typer.Typer(no_args_is_help=True, help="A closer look at a target's enhanced model.")

RunArgument = Annotated[
    Path, typer.Argument(help="A run's folder, a benchmark's, or a site: its folder or site.yaml.", show_default=False)
]
TargetOption = Annotated[str | None, typer.Option(help="Which target of a run; default: the first.")]
FoldOption = Annotated[int | None, typer.Option(min=0, help="Which fold; default: the first with an enhanced model.")]
OutOption = Annotated[Path | None, typer.Option(help="Where to write; default: beside what it is of.")]


def report(
    run: RunArgument,
    out: OutOption = None,
    shared: Annotated[
        bool, typer.Option("--shared", help="The page for the coordinator or a partner: what policies let out.")
    ] = False,
    target: Annotated[str | None, typer.Option(help="One target's own page out of a simulated run.")] = None,
    slides: Annotated[
        Path | None, typer.Option(help="Folder of slide images or thumbnails, for the patients shown as examples.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Write one self-contained HTML page about a run, and every figure on it as SVG and PNG.

    \b
    Examples:
      fedsteph report fedsteph-run                     a simulated run: everything, for its owner
      fedsteph report fedsteph-run --shared            what a coordinator would have been told
      fedsteph report fedsteph-run --target kirp       one site's own page
      fedsteph report small                            a benchmark
      fedsteph report server/runs/20260101-120000-ab   a deployment's run, for its coordinator
      fedsteph report site.yaml                        a target's own page, at that site
      fedsteph report site.yaml --slides svs           the same, with patches of a few patients' slides
      fedsteph report site.yaml --shared               a target's page for others: bands, rounded, by its policy

    The page is OUT/index.html, by default in RUN/report. It opens offline and asks nothing of any network.
    """
    from fedsteph.commands.terminal.page_drawing import drawing
    from fedsteph.common.report.page import PICTURES

    with drawing() as progress:
        page = _page(run, out, shared, target, slides, progress)
    pictures = sorted(str(path) for path in (page.parent / PICTURES).glob("*.*"))
    if as_json:
        console.show_json({"page": str(page), "figures": pictures})
    else:
        console.say(f"page: {page}")
        console.say(f"figures: {len(pictures)} files in {page.parent / PICTURES}")


def _page(
    run: Path, out: Path | None, shared: bool, target: str | None, slides: Path | None, progress: NamedProgress
) -> Path:
    from fedsteph.client.report.site_page import SHARED, write_shared_page, write_site_page
    from fedsteph.client.site.site_of_node import SIMULATED_SITES
    from fedsteph.server import coordinator_page as coordinator
    from fedsteph.server.manifest import MANIFEST_FILE
    from fedsteph.simulations.run.run_page import write_run_page
    from fedsteph.simulations.study.study_page import is_study, write_study_page

    run = run.resolve()
    out = out.resolve() if out is not None else None
    simulated = (run / SIMULATED_SITES).exists()
    if slides is not None:
        others = not simulated and ((run / MANIFEST_FILE).exists() or is_study(run))
        _require_slides(slides, shows_patients=not (shared or others))
    if target is None and (simulated or (run / MANIFEST_FILE).exists()):
        if simulated and not shared:
            return write_run_page(run, out, progress, slides)
        return coordinator.write_run_page(run, out or (run / SHARED if simulated else None))
    if target is None and is_study(run):
        if shared:
            raise ConfigError("a benchmark has no page for others", where="--shared", remedy="Leave it out")
        return write_study_page(run, out, progress)
    site = _site(run, target)
    return write_shared_page(site, out) if shared else write_site_page(site, out, progress, slides)


def _require_slides(slides: Path, *, shows_patients: bool) -> None:
    """Raise ConfigError for a folder of slides that is none, or a page without patients."""
    if not shows_patients:
        raise ConfigError("is for a page that shows patients", where="--slides", remedy="Leave it out")
    if not slides.is_dir():
        remedy = "Give the folder of the slides' images (--slides)"
        raise ConfigError("there is no such folder", where=slides, remedy=remedy)


def _site(path: Path, target: str | None) -> Site:
    """The site at a path, or a target of the simulated run there: the first, if none is named."""
    from fedsteph.client.site.site import Site
    from fedsteph.client.site.site_file import SITE_FILE
    from fedsteph.client.site.site_of_node import SIMULATED_SITES
    from fedsteph.common.config.run_config import load_config
    from fedsteph.server.manifest import CONFIG_FILE
    from fedsteph.simulations.run.run_page import simulated_sites

    if (path / SIMULATED_SITES).exists():
        config = load_config(path / CONFIG_FILE)
        names = config.federation.targets
        if target is not None and target not in names:
            remedy = f"Targets of this run: {', '.join(names)}"
            raise ConfigError(f"'{target}' is no target", where="--target", remedy=remedy)
        return simulated_sites(path, config)[target or names[0]]
    if target is not None:
        raise ConfigError("is for a simulated run", where="--target", remedy="Leave it out, or give a run's folder")
    if not (path.is_file() or (path / SITE_FILE).exists() or (path / "labels.csv").exists()):
        remedy = "Give the folder of a run or a benchmark, or a site's folder or site.yaml"
        raise ConfigError("is no run, no benchmark and no site", where=path, remedy=remedy)
    return Site.open(path)


def _analysis(run: Path, target: str | None, fold: int | None) -> Analysis:
    from fedsteph.client.report.developers.analysis import Analysis
    from fedsteph.client.report.target_files import TargetFiles

    site = _site(run.resolve(), target)
    return Analysis.of(site, TargetFiles.open(site.state), fold)


@analyze.command("sar")
def sar(
    run: RunArgument,
    target: TargetOption = None,
    fold: FoldOption = None,
    out: OutOption = None,
    as_json: JsonOption = False,
) -> None:
    """Subspace alignment (SAR) per layer of lam tau_t + (1 - lam) tau_k, for lam from 0 to 1.

    \b
    Examples:
      fedsteph analyze sar fedsteph-run --target kirp
      fedsteph analyze sar site.yaml --fold 2 --json
    """
    from fedsteph.commands.terminal.page_drawing import drawing

    look = _analysis(run, target, fold)
    with drawing() as progress:
        found = look.sar(progress)
    _write(look, look.sar_picture(found), out, as_json)


@analyze.command("landscape")
def landscape(
    run: RunArgument,
    target: TargetOption = None,
    fold: FoldOption = None,
    out: OutOption = None,
    grid: Annotated[int, typer.Option(min=3, max=101, help="Points a side.")] = 11,
    patients: Annotated[int, typer.Option(min=1, help="Patients of each part, drawn by a fixed seed.")] = 96,
    instances: Annotated[int, typer.Option(min=1, help="Instances of each patient, likewise.")] = 128,
    as_json: JsonOption = False,
) -> None:
    """The loss over (target coefficient, source coefficient), training and test, with the training's path on it.

    \b
    Examples:
      fedsteph analyze landscape fedsteph-run --target kirp
      fedsteph analyze landscape site.yaml --grid 21 --patients 500 --instances 1000
    """
    from fedsteph.client.report.developers.landscape import Budget
    from fedsteph.commands.terminal.page_drawing import drawing

    look = _analysis(run, target, fold)
    with drawing() as progress:
        found = look.landscape(Budget(grid, patients, instances), progress)
    _write(look, look.landscape_picture(found), out, as_json)


@analyze.command("dynamics")
def dynamics(
    run: RunArgument,
    target: TargetOption = None,
    fold: FoldOption = None,
    out: OutOption = None,
    as_json: JsonOption = False,
) -> None:
    """Weight w and mixing lam of every source, epoch by epoch of STEPH's training.

    \b
    Examples:
      fedsteph analyze dynamics fedsteph-run --target kirp --fold 1
      fedsteph analyze dynamics site.yaml --json
    """
    look = _analysis(run, target, fold)
    _write(look, look.dynamics_picture(), out, as_json)


def _write(look: Analysis, picture: Picture, out: Path | None, as_json: bool) -> None:
    """A picture's SVG and PNG, and its numbers as CSV."""
    from fedsteph.common.host import atomic
    from fedsteph.common.report.csv_text import csv_text
    from fedsteph.common.report.page import write_picture

    folder = (out or look.site.state / "analysis").resolve()
    paths, table = write_picture(picture, folder), picture.numbers
    if table is not None:
        paths.append(folder / f"{picture.name}.csv")
        atomic.write_text(paths[-1], csv_text([table.header, *table.rows]))
    if as_json:
        content = {
            "title": picture.title,
            "instead": picture.instead or None,
            "note": picture.note,
            "rows": [] if table is None else [dict(zip(table.header, row, strict=True)) for row in table.rows],
            "files": [str(path) for path in paths],
        }
        return console.show_json(content)
    if picture.instead:
        console.say(picture.instead)
    for path in paths:
        console.say(str(path))
