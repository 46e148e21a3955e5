"""Models on disk: what comes back is what was saved, and anything else is refused by name."""

from __future__ import annotations

import json
import math
import resource
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from client_builders import CPU, SMALL, equal, make_cohort, state_of
from damage import flipped
from safetensors import safe_open

from fedsteph.client.data.bags import Cohort
from fedsteph.client.data.tables.labels import Patient
from fedsteph.client.models.model_file import (
    FORMAT,
    Local,
    followed_years,
    load_base,
    load_model,
    reference_risks,
    save_base,
    save_steph,
)
from fedsteph.client.steph.mixture import Mixture
from fedsteph.client.steph.model import Steph
from fedsteph.client.training.batch import risks
from fedsteph.common.config.extraction import Extraction
from fedsteph.common.config.recipe import StephConfig
from fedsteph.common.errors import ModelFileError
from fedsteph.common.host.checked_file import tell_of_old_files
from fedsteph.common.model.base_model import BaseModel
from fedsteph.common.model.initial_model import untrained_model

M0 = "0" * 64
BAGS = torch.randn(3, 5, SMALL.width, generator=torch.Generator().manual_seed(0))


def steph(**config) -> Steph:
    torch.manual_seed(1)
    theta_0 = torch.cat([p.detach().flatten() for p in untrained_model(SMALL, 0).encoder_state().values()])
    mixture = Mixture(SMALL, theta_0, 0.3 * torch.randn(4, len(theta_0)))
    return Steph(mixture, StephConfig(**config), dropout=0.25).eval()


def save(path: Path, model: BaseModel | Steph) -> Path:
    if isinstance(model, Steph):
        save_steph(path, model, ["a", "b", "c"], m0_sha256=M0)
    else:
        save_base(path, model, m0_sha256=M0)
    return path


def rewritten(path: Path, change) -> Path:
    """The file with ``change(tensors, metadata)`` done to it, without a digest, as a stranger could write it."""
    with safe_open(path, framework="pt") as file:
        metadata, names = file.metadata(), list(file.keys())
        tensors = {name: file.get_tensor(name) for name in names}
    metadata = {"format": metadata["format"], "description": json.loads(metadata["description"])}
    change(tensors, metadata)
    metadata = {key: value if isinstance(value, str) else json.dumps(value) for key, value in metadata.items()}
    safetensors.torch.save_file(tensors, path, metadata)
    return path


def test_a_local_model_comes_back_bit_for_bit(tmp_path):
    model = untrained_model(SMALL, 3).eval()
    loaded = load_model(save(tmp_path / "m.safetensors", model))
    assert (loaded.architecture, loaded.sources) == (SMALL, ()) and not loaded.model.training
    assert equal(state_of(loaded.model), state_of(model)) and torch.equal(loaded.model(BAGS), model(BAGS))
    assert load_base(tmp_path / "m.safetensors", dropout=0.5).dropout == 0.5


@pytest.mark.parametrize(
    "config",
    [
        {"K": 2},
        {"K": None, "variant": "fnn", "output": "softplus"},
        {"K": 1, "variant": "param", "output": "sigmoid", "start_mass": 0.5},
        {"K": 2, "weights": "param", "normalise": True, "epochs": 3, "lr": 0.1},
        {"K": 2, "variant": "fnn", "start": "local", "start_lam": 0.7, "start_mass": 0.5, "spread": 0.3},
        {"K": 9, "variant": "fix", "fixed_lam": 0.3, "gamma": 0.005, "gamma_grid": (0.0, 0.1)},
    ],
)
def test_an_enhanced_model_comes_back_bit_for_bit(tmp_path, config):
    model = steph(**config)
    loaded = load_model(save(tmp_path / "m.safetensors", model))
    assert (loaded.architecture, loaded.sources) == (SMALL, ("a", "b", "c")) and isinstance(loaded.model, Steph)
    assert not loaded.model.training and loaded.model.config == model.config
    assert equal(state_of(loaded.model), state_of(model)) and torch.equal(loaded.model(BAGS), model(BAGS))


def test_saving_leaves_the_model_alone_and_no_scraps(tmp_path):
    model = steph()
    before = state_of(model)
    save(tmp_path / "new" / "m.safetensors", model)
    save(tmp_path / "new" / "m.safetensors", model)
    assert equal(state_of(model), before) and [path.name for path in (tmp_path / "new").iterdir()] == ["m.safetensors"]


def test_an_enhanced_model_is_no_local_one(tmp_path):
    with pytest.raises(ModelFileError, match="not a local model"):
        load_base(save(tmp_path / "m.safetensors", steph()))


@pytest.mark.parametrize("content", [None, b"", b"junk", b"\x00" * 100])
def test_files_that_are_no_safetensors(tmp_path, content):
    path = tmp_path / "m.safetensors"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ModelFileError, match=r"cannot be read|no such file") as caught:
        load_model(path)
    assert caught.value.where == str(path)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
def test_a_truncated_file(tmp_path, share):
    path = save(tmp_path / "m.safetensors", untrained_model(SMALL, 0))
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(ModelFileError, match=r"cannot be read|do not fit its description"):
        load_model(path)


def test_a_folder_is_no_model(tmp_path):
    with pytest.raises(ModelFileError):
        load_model(tmp_path)


@pytest.mark.parametrize("metadata", [None, {"format": "fedsteph/vector/v1"}, {"format": FORMAT + "0"}])
def test_another_format(tmp_path, metadata):
    path = tmp_path / "m.safetensors"
    safetensors.torch.save_file({"x": torch.zeros(1)}, path, metadata)
    with pytest.raises(ModelFileError, match=f"not a {FORMAT} file"):
        load_model(path)


def drop(name):
    return lambda tensors, metadata: tensors.pop(name)


def reshape(name, *shape):
    return lambda tensors, metadata: tensors.update({name: torch.zeros(shape)})


def describe(**changes):
    return lambda tensors, metadata: metadata["description"].update(changes)


def undescribed(value):
    return lambda tensors, metadata: metadata.update(description=value)


LOCAL_FAULTS = {
    "missing tensor": drop("head.bias"),
    "extra tensor": reshape("more", 1),
    "other shape": reshape("head.bias", 7),
    "no description": lambda tensors, metadata: metadata.pop("description"),
    "description no JSON": undescribed("{"),
    "description no mapping": undescribed([1]),
    "no architecture": undescribed({"kind": "abmil"}),
    "other architecture": describe(architecture={"width": 6, "embed": 9, "attention": 5, "n_bins": 4}),
    "negative size": describe(architecture={"width": -6, "embed": 8, "attention": 5, "n_bins": 4}),
    "unknown kind": describe(kind="cnn"),
}
N = sum(math.prod(shape) for shape in SMALL.encoder_shapes.values())
STEPH_FAULTS = {
    "missing vectors": drop("stack"),
    "missing start": drop("theta_0"),
    "missing learned": drop("learned.head.weight"),
    "fewer parameters": reshape("stack", 4, N - 1),
    "other start": reshape("theta_0", N + 1),
    "flat vectors": reshape("stack", 4 * N),
    "fewer vectors": reshape("stack", 3, N),
    "more names than vectors": describe(sources=["a", "b", "c", "d"]),
    "fewer names than vectors": describe(sources=["a", "b"]),
    "no names": lambda tensors, metadata: metadata["description"].pop("sources"),
    "other K": describe(steph={"K": 0}),
    "unknown key": describe(steph={"k": 1}),
}


@pytest.mark.parametrize("fault", LOCAL_FAULTS)
def test_a_local_model_that_is_not_its_description(tmp_path, fault):
    path = rewritten(save(tmp_path / "m.safetensors", untrained_model(SMALL, 0)), LOCAL_FAULTS[fault])
    with pytest.raises(ModelFileError, match="do not fit its description") as caught:
        load_model(path)
    assert caught.value.where == str(path)


@pytest.mark.parametrize("fault", STEPH_FAULTS)
def test_an_enhanced_model_that_is_not_its_description(tmp_path, fault):
    path = rewritten(save(tmp_path / "m.safetensors", steph()), STEPH_FAULTS[fault])
    with pytest.raises(ModelFileError, match="do not fit its description") as caught:
        load_model(path)
    assert caught.value.where == str(path)


def like(value, **sizes):
    """Tensors of another dtype, or a description of other sizes."""

    def change(tensors, metadata):
        metadata["description"]["architecture"] |= sizes
        if value is not None:
            tensors["head.bias"] = tensors["head.bias"].to(value)

    return change


STRANGERS = {
    "float8": like(torch.float8_e4m3fn),
    "float16": like(torch.float16),
    "int16": like(torch.int16),
    "float64": like(torch.float64),
    "bool": like(torch.bool),
    "huge": like(None, embed=20_000, width=20_000),
    "huge beyond all": like(None, embed=2**62, width=2**62),
    "no bins": like(None, n_bins=0),
    "bins as text": like(None, n_bins="4"),
    "sources of a local model": describe(sources=["a"]),
    "metadata more": lambda tensors, metadata: metadata.update(more="x"),
}
SOURCES = {
    "lists": [["a"], ["b"], ["c"]],
    "numbers": [1, 2, 3],
    "one text": "abc",
    "no names of sites": ["a", "b", "<script>"],
    "twice": ["a", "b", "b"],
    "none": [],
}


def test_a_stranger_s_model_is_refused_by_its_header(tmp_path):
    faults = [("abmil", name, change) for name, change in STRANGERS.items()]
    faults += [("steph", name, describe(sources=sources)) for name, sources in SOURCES.items()]
    for kind, name, change in faults:
        model = untrained_model(SMALL, 0) if kind == "abmil" else steph()
        path = rewritten(save(tmp_path / "m.safetensors", model), change)
        with pytest.raises(ModelFileError) as caught:
            load_model(path)
        assert caught.value.where == str(path), name


def test_nothing_is_allocated_for_an_architecture_that_the_file_does_not_hold(tmp_path):
    """260 bytes took 1.8 GB once."""
    described = {"width": 20_000, "embed": 20_000, "attention": 20_000, "n_bins": 4}
    description = {"kind": "abmil", "architecture": described, "m0": M0, "encoder": None}
    metadata = {"format": FORMAT, "description": json.dumps(description)}
    safetensors.torch.save_file({}, tmp_path / "m.safetensors", metadata)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ModelFileError, match="missing tensor"):
        load_model(tmp_path / "m.safetensors")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # kB


def test_a_model_file_with_a_flipped_bit_is_never_used(tmp_path):
    """Bits of every few bytes of the header, and as many of the numbers."""
    save_whole(tmp_path / "m.safetensors")
    content = (tmp_path / "m.safetensors").read_bytes()
    header = range(0, 8 * (8 + int.from_bytes(content[:8], "little")), 53)
    numbers = np.random.default_rng(0).integers(header.stop, 8 * len(content), 100).tolist()
    for bit in (*header, *numbers):
        (tmp_path / "m.safetensors").write_bytes(flipped(content, bit))
        with pytest.raises(ModelFileError):
            load_model(tmp_path / "m.safetensors")


def test_a_model_file_of_an_earlier_version_is_read_with_one_warning(tmp_path, caplog):
    tell_of_old_files.cache_clear()
    path = rewritten(save(tmp_path / "m.safetensors", untrained_model(SMALL, 3)), lambda tensors, metadata: None)
    for _ in range(2):
        assert equal(state_of(load_model(path).model), state_of(untrained_model(SMALL, 3)))
    assert [record.levelname for record in caplog.records] == ["WARNING"]


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("make", [lambda: untrained_model(SMALL, 0), steph])
def test_weights_that_are_not_finite_are_not_saved(tmp_path, make, value):
    model = make()
    with torch.no_grad():
        model.head.weight[0, 0] = value
    with pytest.raises(ModelFileError, match="not finite"):
        save(tmp_path / "m.safetensors", model)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda: untrained_model(SMALL, 0), "embed.weight"),
        (steph, "stack"),
        (steph, "theta_0"),
        (steph, "learned.head.bias"),
    ],
)
def test_weights_that_are_not_finite_are_not_loaded(tmp_path, make, name):
    def spoil(tensors, metadata):
        tensors[name].view(-1)[0] = math.nan

    path = rewritten(save(tmp_path / "m.safetensors", make()), spoil)
    with pytest.raises(ModelFileError, match="not finite") as caught:
        load_model(path)
    assert caught.value.where == str(path)


REFERENCE = np.cumsum(np.random.default_rng(0).uniform(0, 1, 101)) / 3 - 17.0


def save_whole(path: Path, reference: np.ndarray | None = REFERENCE, own: np.ndarray | None = REFERENCE - 1) -> Path:
    """An enhanced model with all that may stand beside it."""
    local = Local(untrained_model(SMALL, 7).eval(), own)
    save_steph(
        path,
        steph(),
        ["a", "b", "c"],
        m0_sha256=M0,
        extraction=Extraction("uni_v2", 20.0, 256.0),
        reference=reference,
        local=local,
    )
    return path


def same_bits(found: np.ndarray | None, expected: np.ndarray | None) -> bool:
    if found is None or expected is None:
        return found is expected
    return found.dtype == np.float64 and found.tobytes() == expected.tobytes()


@pytest.mark.parametrize("reference", [None, REFERENCE, np.zeros(101)])
def test_a_local_model_s_reference_comes_back_bit_for_bit(tmp_path, reference):
    model = untrained_model(SMALL, 3)
    save_base(tmp_path / "m.safetensors", model, m0_sha256=M0, reference=reference)
    loaded = load_model(tmp_path / "m.safetensors")
    assert same_bits(loaded.reference, reference) and loaded.local is None
    assert equal(state_of(loaded.model), state_of(model))
    assert equal(state_of(load_base(tmp_path / "m.safetensors")), state_of(model))


@pytest.mark.parametrize("own", [None, REFERENCE - 1])
@pytest.mark.parametrize("reference", [None, REFERENCE])
def test_the_local_model_beside_an_enhanced_one_comes_back_bit_for_bit(tmp_path, reference, own):
    loaded = load_model(save_whole(tmp_path / "m.safetensors", reference, own))
    local, enhanced = untrained_model(SMALL, 7).eval(), steph()
    assert loaded.local is not None
    assert same_bits(loaded.reference, reference)
    assert same_bits(loaded.local.reference, own)
    assert not loaded.local.model.training
    assert equal(state_of(loaded.local.model), state_of(local))
    assert torch.equal(loaded.local.model(BAGS), local(BAGS))
    assert equal(state_of(loaded.model), state_of(enhanced))
    assert torch.equal(loaded.model(BAGS), enhanced(BAGS))
    assert loaded.extraction == Extraction("uni_v2", 20.0, 256.0)


def test_the_years_of_follow_up_are_whole_and_within_the_bins(tmp_path):
    """Rounded up, so that a file tells no patient's time; a file that states other years than its bins is refused."""
    for days, years in (((0.0, 0.0), 1), ((365.0, 3.0), 1), ((365.5, 366.0), 2), ((1e4, 1.0), SMALL.n_bins)):
        patients = [Patient(str(t), t, 1, ("S",)) for t in days]
        assert followed_years(Cohort.of_bags(patients, [torch.zeros(1, 6)] * 2), SMALL.n_bins) == years
    path = tmp_path / "m.safetensors"
    for years in (None, 1, SMALL.n_bins):
        save_base(path, untrained_model(SMALL, 3), m0_sha256=M0, followed_years=years)
        assert load_model(path).followed_years == years and load_model(path).m0 == M0
        save_steph(path, steph(), ["a", "b", "c"], m0_sha256=M0, followed_years=years)
        assert load_model(path).followed_years == years
    for years in (0, -1, SMALL.n_bins + 1):
        save_base(path, untrained_model(SMALL, 3), m0_sha256=M0, followed_years=years)
        with pytest.raises(ModelFileError, match="follow-up"):
            load_model(path)


def test_an_enhanced_model_of_an_earlier_version_has_neither(tmp_path):
    loaded = load_model(save(tmp_path / "m.safetensors", steph()))
    assert (loaded.reference, loaded.local) == (None, None)


def test_a_reference_is_the_percentiles_of_the_training_patients_risks(tmp_path):
    """By sorting: between two patients, in proportion."""
    cohort, model = make_cohort([3, 1, 4, 1, 5, 9, 2]), untrained_model(SMALL, 3)
    model.train()
    found = reference_risks(model, cohort, CPU)
    model.eval()
    with torch.no_grad():
        survival = [torch.cumprod(1 - model(cohort.bag(i).unsqueeze(0))[0].double(), 0) for i in range(7)]
    ordered = sorted(-float(one.sum()) for one in survival)
    expected = []
    for percent in range(101):
        at = 6 * percent / 100
        low = min(int(at), 5)
        expected.append(ordered[low] + (at - low) * (ordered[low + 1] - ordered[low]))
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert found[0] == min(risks(model, cohort, CPU))
    save_base(tmp_path / "m.safetensors", model, m0_sha256=M0, reference=found)
    assert same_bits(load_model(tmp_path / "m.safetensors").reference, found)


def swapped() -> np.ndarray:
    found = REFERENCE.copy()
    found[[40, 41]] = found[[41, 40]]
    return found


def put(name, values):
    return lambda tensors, metadata: tensors.update({name: torch.from_numpy(np.ascontiguousarray(values))})


BAD_REFERENCES = {
    "too few": REFERENCE[:100],
    "too many": np.append(REFERENCE, 99.0),
    "none": REFERENCE[:0],
    "one number": np.array(1.0),
    "two rows": np.stack([REFERENCE, REFERENCE]),
    "descending": REFERENCE[::-1],
    "one pair descending": swapped(),
}
LOCAL_BESIDE_FAULTS = {
    "of another embedding": reshape("local.embed.weight", 9, SMALL.width),
    "of another head": reshape("local.head.bias", SMALL.n_bins + 1),
    "a tensor less": drop("local.attention_c.bias"),
    "a tensor more": reshape("local.more", 1),
    "a reference alone": lambda tensors, metadata: [
        tensors.pop(name) for name in list(tensors) if name.startswith("local.") and name != "local.reference"
    ],
}


@pytest.mark.parametrize("fault", BAD_REFERENCES)
@pytest.mark.parametrize("name", ["reference", "local.reference"])
def test_a_reference_that_is_none_is_refused(tmp_path, name, fault):
    path = rewritten(save_whole(tmp_path / "m.safetensors"), put(name, BAD_REFERENCES[fault]))
    with pytest.raises(ModelFileError, match="do not fit its description") as caught:
        load_model(path)
    assert caught.value.where == str(path)


@pytest.mark.parametrize("fault", BAD_REFERENCES)
def test_a_local_model_s_reference_that_is_none_is_refused(tmp_path, fault):
    model = save(tmp_path / "m.safetensors", untrained_model(SMALL, 0))
    path = rewritten(model, put("reference", BAD_REFERENCES[fault]))
    with pytest.raises(ModelFileError, match="do not fit its description"):
        load_model(path)


@pytest.mark.parametrize("fault", LOCAL_BESIDE_FAULTS)
def test_a_local_model_that_does_not_fit_the_enhanced_one_is_refused(tmp_path, fault):
    path = rewritten(save_whole(tmp_path / "m.safetensors"), LOCAL_BESIDE_FAULTS[fault])
    with pytest.raises(ModelFileError, match="do not fit its description") as caught:
        load_model(path)
    assert caught.value.where == str(path)


@pytest.mark.parametrize("name", ["reference", "local.reference", "local.head.weight"])
def test_numbers_beside_a_model_must_be_finite(tmp_path, name):
    def spoil(tensors, metadata):
        tensors[name].view(-1)[-1] = math.nan

    path = rewritten(save_whole(tmp_path / "m.safetensors"), spoil)
    with pytest.raises(ModelFileError, match="not finite"):
        load_model(path)
    with pytest.raises(ModelFileError, match="not finite"):
        save_whole(tmp_path / "new.safetensors", np.full(101, math.nan))
    assert not (tmp_path / "new.safetensors").exists()


def test_a_local_model_with_another_one_inside_is_refused(tmp_path):
    path = save(tmp_path / "m.safetensors", untrained_model(SMALL, 0))
    with pytest.raises(ModelFileError, match="do not fit its description"):
        load_model(rewritten(path, reshape("local.head.bias", SMALL.n_bins)))
