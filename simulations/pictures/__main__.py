"""Makes the README's pictures from a run on synthetic hospitals: ``python -m fedsteph.simulations.pictures [RUN]``.

It writes ``page.png``, the first screen of the run's page, and ``heatmap.png``, the attention of the target's final
model over a made-up slide. It needs Chromium. A run that does not exist yet is made first, by the rules of ``fedsteph
simulate`` (minutes).
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from PIL import Image

from fedsteph.client.models.heatmap import PICTURE, heatmap, write_heatmap
from fedsteph.client.target.target_result import FINAL
from fedsteph.common.config.run_config import load_config
from fedsteph.common.errors import FedstephError, RunFolderError
from fedsteph.common.host import atomic, console
from fedsteph.server.manifest import CONFIG_FILE
from fedsteph.simulations.pictures.browser import chromium, first_screen
from fedsteph.simulations.pictures.drawn_slide import write_drawn_slide
from fedsteph.simulations.run.run_page import simulated_sites, write_run_page
from fedsteph.simulations.run.run_results import RESULTS_FILE, RunResults
from fedsteph.simulations.run.simulate import simulate

PAGE, HEATMAP = "page.png", "heatmap.png"
WIDTH, HEIGHT = 1280, 800
_COLOURS = 128  # of a picture: a file of a fraction of the size that looks the same


def write_pictures(run: Path, out: Path) -> list[Path]:
    """Write both pictures into ``out`` and return their paths.

    Raises:
        EngineError: there is no Chromium, or it makes no picture.
        RunFolderError: the folder is of something else than a simulated run, or its target has no final model.
    """
    chromium()
    if not (run / RESULTS_FILE).exists():
        simulate(run, engine="in-process")
    with TemporaryDirectory() as made:
        folder = Path(made)
        first_screen(write_run_page(run, folder / "page"), folder / PAGE, WIDTH, HEIGHT)
        return [_small(folder / PAGE, out / PAGE), _small(_heatmap(run, folder), out / HEATMAP)]


def _heatmap(run: Path, folder: Path) -> Path:
    """The attention of the first target's final model over a slide that is made up like its own."""
    site = simulated_sites(run, load_config(run / CONFIG_FILE))[next(iter(RunResults.read(run / RESULTS_FILE).targets))]
    model, slides = site.state / FINAL, sorted((site.folder / "features").glob("*.h5"))
    if not (model.is_file() and slides):
        remedy = "Give a run of 'fedsteph simulate' with its default configuration"
        raise RunFolderError("has no final model, or no HDF5 feature files", where=site.name, remedy=remedy)
    slide = folder / "SYNTHETIC.h5"
    write_drawn_slide(slide, slides)
    write_heatmap(heatmap(model, slide), folder)
    return folder / PICTURE


def _small(picture: Path, out: Path) -> Path:
    """Write a picture again with few colours."""
    with Image.open(picture) as image:
        image.convert("RGB").quantize(_COLOURS).save(picture, optimize=True)
    atomic.write_bytes(out, picture.read_bytes())
    return out


def main(words: list[str] | None = None) -> int:
    """Make both pictures; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m fedsteph.simulations.pictures", description=__doc__)
    parser.add_argument("run", nargs="?", type=Path, default=Path("fedsteph-run"), help="default: fedsteph-run")
    parser.add_argument("--out", type=Path, default=Path("docs/pictures"), help="default: docs/pictures")
    given = parser.parse_args(words)
    try:
        paths = write_pictures(given.run, given.out)
    except FedstephError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    for path in paths:
        console.say(f"{path}: {path.stat().st_size / 1000:.0f} kB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
