"""Models of other programs in the places of a site's own and of its sources', from checkpoints to a merge."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from client_builders import Spy, equal, kept_site
from plain_abmil import StephModel, moved, seeded
from sites import TINY

import fedsteph
import fedsteph.client.models.local_file
from fedsteph.client.models.model_import import import_model
from fedsteph.client.sharing.shared_model import train_shared
from fedsteph.client.site.site import Site
from fedsteph.client.site.workspace import Workspace
from fedsteph.client.target.own_import import place_own
from fedsteph.client.target.train_alone import local_recipe
from fedsteph.common.config.run_config import Config, load_config
from fedsteph.common.errors import ConfigError, DataError, ModelFileError, PolicyError, VectorMismatchError

SIZES = (6, 8, 6, 32)  # of TINY


@pytest.fixture
def null(tmp_path) -> Path:
    return checkpoint(tmp_path / "null.pth", 0)


def checkpoint(path: Path, seed: int, sizes: tuple[int, ...] = SIZES) -> Path:
    """M0 for seed 0, else a model that was trained from it."""
    model = seeded(StephModel, sizes=sizes)
    torch.save((moved(model, seed) if seed else model).state_dict(), path)
    return path


def configured(null: Path, *settings: str) -> Config:
    import_model(null).save(null.with_suffix(".safetensors"))
    m0 = f"model.m0={null.with_suffix('.safetensors')}"
    return load_config(None, [*TINY, "steph.gamma=0.0", "comparators.methods=[]", m0, *settings])


@pytest.fixture
def site(tmp_path) -> Site:
    return Site.open(kept_site(str(tmp_path), patients=16), device="cpu")


def labels(fits: Spy) -> set[str]:
    return {call.kwargs["label"] for call in fits.calls}


def test_imported_base_models_are_merged_with_an_imported_own_one(site, null, tmp_path, monkeypatch) -> None:
    config = configured(null)
    sources = {name: import_model(checkpoint(tmp_path / f"{name}.pth", k), m0=null) for k, name in ((1, "a"), (2, "b"))}
    own = [import_model(checkpoint(tmp_path / f"own{k}.pth", 3 + k), m0=null) for k in range(2)]
    paths = [place_own(site.folder, config, found, fold) for fold, found in enumerate(own)]
    fits = Spy(monkeypatch, fedsteph.client.models.local_file, "train_local")
    result = fedsteph.enhance(site, {name: found.vector() for name, found in sources.items()}, config)
    assert not {"fold 0", "fold 1"} & labels(fits), "no model is trained in the place of an imported one"
    assert result["sources"] == ["a", "b"] and len(result["methods"]["steph"]["c_index"]) == 2
    for fold, path in enumerate(paths):
        loaded = fedsteph.load_model(path)
        assert loaded.imported == own[fold].foreign.sha256 and loaded.reference is not None
        assert equal(loaded.model.state_dict(), own[fold].model.state_dict())
        card = path.with_suffix(".md").read_text()
        assert loaded.imported in card and "trained elsewhere" in card and str(tmp_path) not in card
        deployed = (Path(result["models"]) / f"fold_{fold}.md").read_text()
        assert loaded.imported in deployed, "an enhanced model holds the imported one"
    again = fedsteph.train_site(site, config)
    assert again["c_index"] == result["methods"]["local"]["c_index"]
    assert not {"fold 0", "fold 1"} & labels(fits) and "all patients" in labels(fits)


def test_a_damaged_imported_model_is_not_trained_anew(site, null, tmp_path) -> None:
    config, found = configured(null), import_model(checkpoint(tmp_path / "own.pth", 3), m0=null)
    path = place_own(site.folder, config, found, 0)
    workspace = Workspace.open(site, local_recipe(site, config))
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(ModelFileError, match="is damaged"):
        workspace.train_local(0)
    with pytest.raises(ModelFileError, match="own model already"):
        place_own(site.folder, config, found, 0)
    path.unlink()
    workspace.train_local(0)
    with pytest.raises(ModelFileError, match="own model already"):
        place_own(site.folder, config, found, 0)


def test_the_vector_of_an_imported_model_is_not_shared(site, null, tmp_path) -> None:
    config, found = configured(null), import_model(checkpoint(tmp_path / "own.pth", 3), m0=null)
    place_own(site.folder, config, found, 0)
    with pytest.raises(PolicyError, match="what it was trained on is not known here"):
        train_shared(Workspace.open(site, local_recipe(site, config)))


def test_a_model_that_does_not_fit_the_site_or_the_configuration_is_refused(site, null, tmp_path) -> None:
    own = checkpoint(tmp_path / "own.pth", 3)
    config, found = configured(null), import_model(own, m0=null)
    with pytest.raises(VectorMismatchError, match="its M0 has the digest"):
        place_own(site.folder, config, import_model(own, m0=checkpoint(tmp_path / "other.pth", 9)), 0)
    with pytest.raises(VectorMismatchError, match="its M0 has the digest"):
        place_own(site.folder, load_config(None, TINY), found, 0)
    with pytest.raises(VectorMismatchError, match="4 bins, and the configuration's is ABMIL of width 6"):
        small = [checkpoint(tmp_path / f"{k}.pth", k, (6, 8, 6, 4)) for k in (0, 1)]
        place_own(site.folder, config, import_model(small[1], m0=small[0]), 0)
    with pytest.raises(DataError, match="there is no fold 2: the site has 2"):
        place_own(site.folder, config, found, 2)


def test_a_site_reads_its_own_copy_of_m0_and_takes_no_other(site, null, tmp_path) -> None:
    config = configured(null)
    (site.folder / "site.yaml").write_text("m0: copy.safetensors\nstate: elsewhere\n")
    (site.folder / "copy.safetensors").write_bytes(null.with_suffix(".safetensors").read_bytes())
    opened = Site.open(site.folder, device="cpu")
    plain = load_config(None, [*TINY])
    recipe = local_recipe(opened, plain)
    assert recipe.model.m0_sha256 == local_recipe(opened, config).model.m0_sha256
    assert Workspace.open(opened, recipe).recipe.model.m0 == str(site.folder / "copy.safetensors")
    Workspace.open(opened, local_recipe(opened, config)).train_local(0)
    import_model(checkpoint(tmp_path / "other.pth", 9)).save(site.folder / "copy.safetensors")
    with pytest.raises(ConfigError, match=r"copy\.safetensors does not have the pinned digest: it has \w{12}, and"):
        Workspace.open(opened, local_recipe(opened, config)).train_local(1)
