"""Arguments and options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

SiteArgument = Annotated[Path, typer.Argument(help="The site's folder, with features/ and labels.csv.")]
ConfigOption = Annotated[
    Path | None, typer.Option("--config", "-c", help="The federation's YAML; default: the preset 'robust'.")
]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", help="Change one key, e.g. --set training.epochs=5. Repeatable.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")]
ServerArgument = Annotated[Path, typer.Argument(help="The coordinator's server.yaml, or its folder.")]
