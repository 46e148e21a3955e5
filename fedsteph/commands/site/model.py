"""``fedsteph model``: models from elsewhere, M0 as a file, and what a model file says of itself."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fedsteph.commands.terminal.options import ConfigOption, JsonOption, SetOption
from fedsteph.common.errors import ConfigError
from fedsteph.common.host import console

if TYPE_CHECKING:
    from fedsteph.client.models.model_import import Imported

model = typer.Typer(no_args_is_help=True, help="Models from elsewhere, M0 as a file, and what a model file holds.")


@model.command("import")
def import_(
    file: Annotated[Path, typer.Argument(help="The checkpoint: .pth or .pt of torch.save, or .safetensors.")],
    layout: Annotated[str, typer.Option(help="Whose tensor names it has: auto, ours, steph or clam.")] = "auto",
    m0: Annotated[Path | None, typer.Option(help="The M0 that its training started from; default: it is M0.")] = None,
    out: Annotated[Path | None, typer.Option(help="Write the model, as .safetensors.")] = None,
    vector_out: Annotated[Path | None, typer.Option(help="Write its task vector from --m0, as .safetensors.")] = None,
    head: Annotated[bool, typer.Option(help="--vector-out: with the risk direction of its head.")] = False,
    site: Annotated[Path | None, typer.Option("--as", help="Site whose own model of --fold it becomes.")] = None,
    fold: Annotated[int | None, typer.Option(help="With --as: the fold on whose training part it was trained.")] = None,
    config: ConfigOption = None,
    settings: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Turn an ABMIL of another program into a model file, a source's task vector, or a site's own model.

    \b
    Examples:
      fedsteph model import Null_model.pth --out m0.safetensors
      fedsteph model import kirc.pth --m0 Null_model.pth --vector-out kirc.tau.safetensors
      fedsteph model import kirp-fold_0.pth --m0 Null_model.pth --as sites/kirp --fold 0 --config my.yaml

    The checkpoint must be an ABMIL with gated attention, in the tensor names of CLAM (CLAM_SB) or of STEPH's release.
    No code in it is run. --config and --set are for --as alone.
    """
    from fedsteph.client.models.model_import import import_model
    from fedsteph.client.models.predict import refuse_overwriting
    from fedsteph.common.config.run_config import load_config

    _require_sense(layout, (out, vector_out, site), (site, fold), (config, settings))
    for path, others in ((out, (file, m0)), (vector_out, (file, m0, out))):
        if path is not None:
            refuse_overwriting(path, others)
    found = import_model(file, layout=layout, m0=m0)
    written = {}
    if vector_out is not None or site is not None:
        found.vector()  # refused before anything is written
    if site is not None and fold is not None:
        from fedsteph.client.target.own_import import place_own

        written["own model"] = place_own(site, load_config(config, settings), found, fold)
    _show(found, written | _written(found, out, vector_out, head), as_json)


@model.command("m0")
def m0_(
    out: Annotated[Path, typer.Option(help="The file to write, as .safetensors.")],
    config: ConfigOption = None,
    settings: SetOption = None,
) -> None:
    """Write the M0 of a configuration, so that others can have it as a file, whatever their version of torch.

    \b
    Examples:
      fedsteph model m0 --config my.yaml --out m0.safetensors
    """
    from fedsteph.client.models.model_file import save_base
    from fedsteph.common.config.run_config import load_config
    from fedsteph.common.model.initial_model import initial_model, model_digest

    made = initial_model(load_config(config, settings).model)
    digest = model_digest(made)
    save_base(out, made, m0_sha256=digest)
    console.say(f"M0: {out}")
    console.say(f"model.m0_sha256: {digest}")


@model.command("show")
def show(
    file: Annotated[Path, typer.Argument(help="A model file of ours.")],
    as_json: JsonOption = False,
) -> None:
    """Say what a model file is: local or enhanced, its sizes, its M0, its digests, and whether it was imported.

    \b
    Examples:
      fedsteph model show m0.safetensors
      fedsteph model show run/sites/kirp/deployed/fold_0.safetensors --json
    """
    from fedsteph.client.models.model_import import told_of

    told = told_of(file)
    if as_json:
        return console.show_json(told)
    for name, value in told.items():
        console.say(f"{name.replace('_', ' '):18}{_in_words(value)}")


def _in_words(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict):
        return ", ".join(f"{key} {size}" for key, size in value.items())
    if isinstance(value, list):
        return ", ".join(value) or "none"
    return "not stated" if value is None else str(value)


def _require_sense(layout: str, outputs: tuple[Any, ...], own: tuple[Any, ...], recipe: tuple[Any, ...]) -> None:
    from fedsteph.client.models.foreign_layouts import NAMES

    if layout not in ("auto", *NAMES):
        raise ConfigError(f"unknown layout {layout!r}", where="--layout", remedy=f"auto, {', '.join(NAMES)}")
    if not any(outputs):
        raise ConfigError("nothing is to be written", where="model import", remedy="Give --out, --vector-out or --as")
    site, fold = own
    if (site is None) != (fold is None):
        raise ConfigError("--as and --fold go together", where="model import", remedy="Say of which fold the model is")
    if site is None and any(recipe):
        raise ConfigError("--config and --set are for --as", where="model import", remedy="Leave them out, or add --as")


def _written(found: Imported, out: Path | None, vector_out: Path | None, head: bool) -> dict[str, Path]:
    from fedsteph.common.vector.vector_file import save_vector

    written = {}
    if out is not None:
        found.save(out)
        written["model"] = out
    if vector_out is not None:
        written["vector"] = save_vector(vector_out, found.vector(head=head))
    return written


def _show(found: Imported, written: dict[str, Path], as_json: bool) -> None:
    from fedsteph.client.models.model_import import sizes

    foreign = found.foreign
    norm = None if found.m0 is None else found.vector().norm
    if as_json:
        told = {"layout": foreign.layout, "passed_over": list(foreign.passed_over), "m0_sha256": found.m0_sha256}
        paths = {name: str(path) for name, path in written.items()}
        return console.show_json(told | {"sha256": foreign.sha256, "norm": norm, "written": paths})
    console.say(f"in the layout {foreign.layout}: {sizes(found.model)}")
    if foreign.passed_over:
        console.say(f"no part of it, passed over: {', '.join(foreign.passed_over)}")
    console.say(f"M0: {found.m0_sha256}" + (" (this model itself)" if norm is None else f"; distance {norm:.4g}"))
    for name, path in written.items():
        console.say(f"{name}: {path}")
