"""The heatmaps of a patient's slides on the page of predictions: a link where one lies beside it, else the command."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from fedsteph.client.models.heatmap import PICTURE
from fedsteph.client.models.predict import PatientView
from fedsteph.common.report.page import Block, Code, Link

_WITH_COORDS = (".h5", ".hdf5")


@dataclass(frozen=True)
class Heatmaps:
    """Where a page's heatmaps are looked for (``SLIDE/attention.png`` beside it), and what makes one."""

    page: Path
    model: Path
    files: Mapping[str, Path]  # feature file per slide
    site: Path | None = None

    def blocks(self, view: PatientView) -> list[Block]:
        """A link or a command for each slide of a patient; nothing for a file whose kind has no places of patches."""
        found: list[Block] = []
        commands = []
        for slide in view.slides:
            # An ID from a table may hold a separator, and would then lead out of the page's folder.
            if Path(slide).name == slide != ".." and (self.page.parent / slide / PICTURE).is_file():
                href = f"{quote(slide, safe='')}/{PICTURE}"
                found.append(Link(f"Heatmap of slide {slide}, as it lies beside this page", href))
            elif self.files[slide].suffix.lower() in _WITH_COORDS:
                commands.append(self._command(slide, view))
        if commands:
            which = "no heatmap" if not found else "no heatmap of other slides"
            found.append(Code("\n".join(commands), f"{which} lies beside this page: the command that makes it"))
        return found

    def _command(self, slide: str, view: PatientView) -> str:
        words = ["fedsteph", "heatmap", self.model.absolute(), self.files[slide].absolute()]
        for other in view.slides:
            words += ["--with", self.files[other].absolute()] if other != slide else []
        words += [] if self.site is None else ["--site", self.site.absolute()]
        return shlex.join(map(str, [*words, "--out", self.page.parent.absolute() / Path(slide).name]))
