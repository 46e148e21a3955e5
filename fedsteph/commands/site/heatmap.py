"""``fedsteph heatmap``: where a model looks on a slide."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedsteph.commands.terminal.options import JsonOption
from fedsteph.common.errors import ConfigError, DataError
from fedsteph.common.host import console

if TYPE_CHECKING:
    from fedsteph.client.models.heatmap import Heatmap

_SIZE = re.compile(r"([1-9][0-9]{0,6})[xX]([1-9][0-9]{0,6})")
_SHOWN = 5
_Others = Annotated[
    list[Path] | None, typer.Option("--with", help="Another slide of the same patient, part of the bag. Repeatable.")
]
_PatchSize = Annotated[
    float | None, typer.Option(min=1, help="A patch's side at level 0; default: the file's, else the site's.")
]
_PixelSize = Annotated[
    float | None, typer.Option(min=0.01, help="Micrometres per pixel at level 0, for coords in micrometres (STAMP).")
]
_Site = Annotated[
    Path | None, typer.Option(help="The slide's site: finds slides by name; data.patch_size for files that state none.")
]
_Slides = Annotated[
    Path | None,
    typer.Option(help="The slide's image (SVS, NDPI, TIFF) or a folder of such: to lay below, and for patches.png."),
]
_SlideSize = Annotated[str | None, typer.Option(help="WIDTHxHEIGHT of the slide at level 0; default: the file's.")]


def heatmap(
    model: Annotated[Path, typer.Argument(help="A model file: final, enhanced or local.", show_default=False)],
    slide: Annotated[
        Path,
        typer.Argument(help="The slide's feature file, HDF5 with coords; with --site, its name.", show_default=False),
    ],
    out: Annotated[Path, typer.Option(help="Folder to write into.")] = Path("heatmap"),
    thumbnail: Annotated[Path | None, typer.Option(help="PNG, JPEG or TIFF of the whole slide, to lay below.")] = None,
    slides: _Slides = None,
    others: _Others = None,
    patch_size: _PatchSize = None,
    mpp: _PixelSize = None,
    site: _Site = None,
    slide_size: _SlideSize = None,
    top: Annotated[int, typer.Option(min=1, help="How many of the patches with the most attention to list.")] = 20,
    as_json: JsonOption = False,
) -> None:
    """Draw the attention of the enhanced model over a slide, side by side with the local model's.

    \b
    Examples:
      fedsteph heatmap deployed/model.safetensors features/S1.h5 --out S1
      fedsteph heatmap deployed/model.safetensors S1 --site sites/kirp --out S1
      fedsteph heatmap steph.safetensors S1.h5 --thumbnail S1.png --with S2.h5
      fedsteph heatmap steph.safetensors S1.h5 --slides S1.svs
      fedsteph heatmap steph.safetensors S1.h5 --slide-size 98304x65536 --patch-size 512
      fedsteph heatmap steph.safetensors stamp/S1.h5 --mpp 0.2527

    With --site, SLIDE may be a slide's name in the site's table; the patient's other slides are then in the bag. Of a
    final model or a folder of models, the attention is the mean over the models.

    OUT/attention.png is the map, in percentile ranks within the slide; OUT/attention.geojson goes into QuPath by
    'Import objects from file' and 'Measure > Show measurement maps'; OUT/top.csv lists the patches with the most
    attention. With --slides (pip install 'fedsteph[slides]'), OUT/patches.png shows eight of them. They show a
    patient's slide and stay at the site.
    """
    from fedsteph.client.models import heatmap as attention
    from fedsteph.client.site.patients import slides_with
    from fedsteph.client.site.site_file import read_site_file

    _require_finite({"--patch-size": patch_size, "--mpp": mpp})
    others = others or []
    if site is not None and not slide.exists():
        slide, further = slides_with(site, str(slide))
        others = [*further, *others]
    _refuse_inputs(
        out, (model, slide, *others, *(path for path in (thumbnail, slides) if path is not None and path.is_file()))
    )
    usual = None if site is None else read_site_file(site)[1].data.patch_size
    with console.progress_bar() as progress:
        progress("computing attention")
        found = attention.heatmap(
            model, slide, others, patch=patch_size, size=_size(slide_size), mpp=mpp, site_patch=usual
        )
        paths = attention.write_heatmap(found, out, thumbnail, top, slides)
    _tell(found, top, paths, as_json)


def _require_finite(given: Mapping[str, float | None]) -> None:
    for option, value in given.items():
        if value is not None and not math.isfinite(value):
            raise ConfigError("must be a finite number", where=option, remedy="Write e.g. 0.25 or 512")


def _refuse_inputs(out: Path, given: Iterable[Path]) -> None:
    """Refuse a folder whose files would replace an input."""
    from fedsteph.client.models.heatmap import GEOJSON, PICTURE, STRIP, TOP
    from fedsteph.client.models.predict import refuse_overwriting

    inputs = {path.resolve() for path in given}
    if inputs & {out.resolve(), *out.resolve().parents} or out.is_file():
        raise DataError("is a file", where=out, remedy="Give a folder with --out")
    for name in (PICTURE, STRIP, GEOJSON, TOP):
        refuse_overwriting(out / name, tuple(inputs))


def _tell(found: Heatmap, top: int, paths: Sequence[Path], as_json: bool) -> None:
    """Print the patches with the most attention, and the paths of the files."""
    from fedsteph.client.models.slide_features import UNLIKE, unlike_words
    from fedsteph.client.slides.patch_grid import GUESSED

    listed = found.top(top)
    warnings = [GUESSED] if found.grid.guessed else []
    if found.unlike is not None and not found.unlike <= UNLIKE:
        warnings.append(f"{found.slide}: {unlike_words(found.unlike)}")
    for warning in warnings:
        console.tell(f"warning: {warning}", "yellow")
    if as_json:
        files = [str(path) for path in paths]
        content = {"slide": found.slide, "files": files, "patch_size": found.grid.patch, "warnings": warnings}
        return console.show_json({**content, "top": listed.to_dict("records")})
    shown = listed[listed["place"] <= _SHOWN].to_dict("records")
    rows = [[r["model"], str(r["place"]), str(r["x"]), str(r["y"]), f"{r['percentile']:.2f}"] for r in shown]
    console.show_table(["model", "place", "x", "y", "percentile"], rows, "patches with the most attention")
    for path in paths:
        console.say(str(path))


def _size(text: str | None) -> tuple[float, float] | None:
    if text is None:
        return None
    found = _SIZE.fullmatch(text)
    if found is None:
        raise ConfigError(f"'{text}' is no size", where="--slide-size", remedy="Write e.g. 98304x65536")
    return float(found[1]), float(found[2])
