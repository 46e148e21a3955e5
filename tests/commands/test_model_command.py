"""``fedsteph model``: what it writes and prints, and wrong input."""

from __future__ import annotations

import json

import torch
from plain_abmil import ClamModel, StephModel, moved, seeded
from sites import TINY, make_site

import fedsteph

SETTINGS = [word for setting in (*TINY, "model.width=6") for word in ("--set", setting)]


def test_from_checkpoints_to_files_and_what_they_say(cli, refused, tmp_path) -> None:
    null, trained, clam = (tmp_path / f"{name}.pth" for name in ("null", "trained", "clam"))
    torch.save(seeded(StephModel, sizes=(6, 8, 6, 32)).state_dict(), null)
    torch.save(moved(seeded(StephModel, sizes=(6, 8, 6, 32)), 1).state_dict(), trained)
    torch.save(seeded(ClamModel).state_dict(), clam)
    m0, tau, model = (tmp_path / f"{name}.safetensors" for name in ("m0", "tau", "model"))
    code, out, _ = cli("model", "import", null, "--out", m0)
    assert code == 0 and "in the layout steph: ABMIL of width 6, embed 8, attention 6, 32 bins" in out
    code, out, _ = cli("model", "import", trained, "--m0", m0, "--vector-out", tau, "--out", model, "--json")
    told = json.loads(out)
    vector = fedsteph.load_vector(tau, fedsteph.load_model(m0).model)
    assert code == 0 and told["norm"] == vector.norm and told["m0_sha256"] == vector.m0_sha256
    assert (
        "passed over: instance_classifiers.0.bias"
        in cli("model", "import", clam, "--out", tmp_path / "c.safetensors")[1]
    )
    shown = json.loads(cli("model", "show", model, "--json")[1])
    assert (shown["kind"], shown["is_m0"], shown["imported_sha256"]) == ("local", False, told["sha256"])
    assert "is m0             yes" in cli("model", "show", m0)[1]
    site = make_site(tmp_path / "site", patients=12)
    words = ("model", "import", trained, "--m0", null, "--as", site, "--fold", 1, *SETTINGS, "--set", f"model.m0={m0}")
    assert "own model: " in cli(*words)[1] and "own model already" in refused(*words)
    for words, said in (
        ((trained,), "nothing is to be written"),
        ((trained, "--vector-out", tau), "none is given"),
        ((trained, "--out", model, "--layout", "abmil"), "unknown layout 'abmil'. auto, ours, steph, clam"),
        ((trained, "--out", model, "--fold", 1), "--as and --fold go together"),
        ((trained, "--out", model, "--set", "model.embed=8"), "are for --as"),
        ((tmp_path / "none.pth", "--out", model), "No such file"),
        ((trained, "--out", trained), "would overwrite what is read"),
        ((trained, "--m0", m0, "--out", model, "--vector-out", model), "would overwrite what is read"),
        ((trained, "--m0", clam, "--out", model), "width 6, embed 8, attention 5, 4 bins"),
    ):
        assert said in refused("model", "import", *words)


def test_m0_of_a_configuration_as_a_file(cli, refused, tmp_path) -> None:
    m0 = tmp_path / "m0.safetensors"
    code, out, _ = cli("model", "m0", "--out", m0, *SETTINGS)
    shown = json.loads(cli("model", "show", m0, "--json")[1])
    assert code == 0 and shown["is_m0"] and f"model.m0_sha256: {shown['model_sha256']}" in out
    recipe = json.loads(cli("recipe", *SETTINGS, "--json")[1])
    again = json.loads(cli("recipe", *SETTINGS, "--set", f"model.m0={m0}", "--set", "model.m0_seed=42", "--json")[1])
    assert recipe == again, "the same M0, made or read"
    assert "the feature width is not set" in refused("model", "m0", "--out", m0)
    assert "there is no such file" in refused("model", "show", tmp_path / "none.safetensors")
