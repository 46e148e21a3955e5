"""Makes a model from elsewhere a site's own model of one fold, in the place of one that is trained here."""

from __future__ import annotations

from pathlib import Path

from fedsteph.client.models.model_file import followed_years, reference_risks, save_base
from fedsteph.client.models.model_import import Imported, sizes
from fedsteph.client.site.site import Site
from fedsteph.client.site.workspace import Workspace
from fedsteph.client.target.model_card import write_card
from fedsteph.client.target.train_alone import local_recipe
from fedsteph.common.config.run_config import Config
from fedsteph.common.errors import DataError, ModelFileError, VectorMismatchError
from fedsteph.common.host.lock import exclusive
from fedsteph.common.model.initial_model import pinned_model


def place_own(folder: Path, config: Config, found: Imported, fold: int) -> Path:
    """Save an imported model as a site's own model of a fold, with its card; later work takes it as it is.

    Args:
        folder: the site's folder or its site file.
        config: under which the site trains and merges; with another one the model is not found.
        found: a model and its M0.
        fold: on whose training part, and on no test patient, the model was trained; nothing here can check that.

    Returns:
        the path of the model.

    Raises:
        VectorMismatchError: the model has other sizes or another M0 than the configuration's.
        ModelFileError: the fold has a model already.
        DataError: there is no such fold, or the site's data cannot be used.
    """
    site = Site.open(folder)
    site.require_state()
    with exclusive(site.state, wait=False):
        workspace = Workspace.open(site, local_recipe(site, config))
        _require_fitting(workspace, found)
        path = _free_place(workspace, fold)
        cohort, recipe = workspace.train_part(fold), workspace.recipe
        save_base(
            path,
            found.model,
            m0_sha256=found.m0_sha256,
            extraction=cohort.extraction,
            reference=reference_risks(found.model, cohort, workspace.device),
            followed_years=followed_years(cohort, recipe.model.n_bins),
            imported=found.foreign.sha256,
        )
        write_card(path, workspace, None, "local", fold)
    return path


def _require_fitting(workspace: Workspace, found: Imported) -> None:
    m0 = pinned_model(workspace.recipe.model)
    if m0.architecture != found.model.architecture:
        what = f"is {sizes(found.model)}, and the configuration's is {sizes(m0)}"
        remedy = "Set model.kind, .width, .embed, .attention and .n_bins to those of the model"
        raise VectorMismatchError(what, where="the model", remedy=remedy)
    pinned = str(workspace.recipe.model.m0_sha256)
    if found.m0_sha256 != pinned:
        what = f"its M0 has the digest {found.m0_sha256[:12]}, and the configuration's {pinned[:12]}"
        remedy = "Give its M0 as model.m0: 'fedsteph model import M0 --out m0.safetensors' makes the file"
        raise VectorMismatchError(what, where="the model", remedy=remedy)


def _free_place(workspace: Workspace, fold: int) -> Path:
    if not 0 <= fold < len(workspace.splits):
        what = f"there is no fold {fold}: the site has {len(workspace.splits)}, the first of which is 0"
        raise DataError(what, where=workspace.site.folder, remedy="Give --fold of one of them")
    if (there := workspace.local_path(fold)).exists():
        what = "is this fold's own model already, and other work may rest on it"
        raise ModelFileError(what, where=there, remedy="Delete it first, or name another state folder in site.yaml")
    return workspace.imported_path(fold)
