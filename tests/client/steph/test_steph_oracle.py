"""STEPH against numbers that an independent implementation computed once (tests/oracles)."""

from pathlib import Path

import pytest
import torch
from each_case import each
from safetensors.torch import load_file

from fedsteph.client.steph.losses import aggregation_loss, mixing_loss
from fedsteph.client.steph.mixture import Mixture, coefficients
from fedsteph.client.steph.model import Steph
from fedsteph.client.training.batch import Batch
from fedsteph.client.training.loop import _groups
from fedsteph.client.training.objective import backward
from fedsteph.common.config.recipe import StephConfig, TrainingConfig
from fedsteph.common.model.architecture import Architecture
from fedsteph.common.model.base_model import BaseModel
from fedsteph.common.model.survival import nll
from fedsteph.common.vector.task_vector import TaskVector

ORACLES = Path(__file__).parents[2] / "oracles"
ARCHITECTURE = Architecture(width=24, embed=16, attention=12, n_bins=8)
ENCODER_NAMES = {
    "feat_proj.0": "embed",
    "attention_net.attention_a.0": "attention_V",
    "attention_net.attention_b.0": "attention_U",
    "attention_net.attention_c": "attention_c",
    "pred_head": "head",
}
NET_NAMES = {
    "regulate_layer_emb.0": "hypernetwork.encoder.embed",
    "regulate_layer_prj": "hypernetwork.head_agg",
    "vecmix_layer": "hypernetwork.head_mix",
    "pred_head": "head",
}


def renamed(tensors, prefix, names):
    found = {}
    for key, tensor in tensors.items():
        if key.startswith(prefix):
            name = key.removeprefix(prefix)
            theirs = next(n for n in names if name.startswith(n + "."))
            found[names[theirs] + name.removeprefix(theirs)] = tensor
    return found


class Oracle:
    def __init__(self):
        self.tensors = load_file(ORACLES / "steph_small.safetensors")
        m0 = self.abmil("M0/")
        target = TaskVector.between(self.abmil("target/"), m0)
        sources = [TaskVector.between(self.abmil(f"src{k}/"), m0) for k in range(4)]
        self.mixture = Mixture.of(m0, target, sources)
        self.labels = self.tensors["in/label_te"]
        self.bags = [self.tensors[f"in/X{i}"] for i in range(3)]

    def abmil(self, prefix):
        model = BaseModel(ARCHITECTURE)
        model.load_state_dict(renamed(self.tensors, prefix, ENCODER_NAMES))
        return model

    def steph(self, dtype=torch.float32, K=2):
        mixture = self.mixture
        if dtype == torch.float64:
            mixture = Mixture(ARCHITECTURE, mixture.theta_0.double(), mixture.stack.double())
        model = Steph(mixture, StephConfig(K=K, beta=0.05, balance=True), dropout=0.0).to(dtype)
        model.load_state_dict(renamed(self.tensors, "net/", NET_NAMES))
        return model

    def batch(self, indices, dtype=torch.float32):
        bags = [self.bags[i].to(dtype) for i in indices]
        lengths = torch.tensor([len(bag) for bag in bags])
        mask = torch.arange(int(lengths.max()))[None] < lengths[:, None]
        padded = torch.nn.utils.rnn.pad_sequence(bags, batch_first=True)
        labels = self.labels[list(indices)]
        times = 365.0 * labels[:, 0].double() + 1.0
        return Batch(padded, None if mask.all() else mask, times, labels[:, 0].long(), labels[:, 1])


@pytest.fixture(scope="module")
def oracle():
    return Oracle()


def close(ours, theirs):
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


@each("i", range(3))
def test_routing_merge_and_hazards(oracle, i):
    model, batch = oracle.steph(), oracle.batch([i])
    routing = model.route(batch.bags)
    close(routing.w[0], oracle.tensors[f"out/w{i}"])
    close(routing.lam[0], oracle.tensors[f"out/lambda{i}"])
    assert routing.kept[0].tolist() == oracle.tensors[f"out/sel{i}"].tolist()
    merged = model.mixture.merge(coefficients(routing.w, routing.lam, routing.kept))
    expected = renamed(oracle.tensors, f"out/merged{i}/", ENCODER_NAMES)
    for name, tensor in merged.items():
        close(tensor[0], expected[name])
    hazards = model(batch.bags)
    close(hazards[0], oracle.tensors[f"out/hazards{i}"])
    close(torch.logit(hazards[0]), oracle.tensors[f"out/logits{i}"])


def test_float64_agrees_to_eleven_digits(oracle):
    model = oracle.steph(torch.float64)
    for i in range(3):
        batch = oracle.batch([i], torch.float64)
        torch.testing.assert_close(model(batch.bags)[0], oracle.tensors[f"out64/hazards{i}"], rtol=1e-11, atol=1e-11)
    outputs = model.outputs(oracle.batch([0, 1, 2], torch.float64), gamma=0.0)
    losses = nll(outputs.hazards, oracle.labels[:, 0].long(), oracle.labels[:, 1], 0.5)
    assert float(losses.mean()) == pytest.approx(2.51262318790, abs=1e-9)
    assert float((losses + outputs.penalty).mean()) == pytest.approx(2.51262318790 + 0.05 * 0.63592221, abs=1e-8)


@each("grouping", [[[0, 1, 2]], [[0], [1], [2]], [[0, 1], [2]]])
def test_losses_gradients_and_one_adamw_step(oracle, grouping):
    """The same numbers whether bags run alone or padded together."""
    model = oracle.steph()
    model.train()
    total = backward(
        lambda batch: model.outputs(batch, gamma=0.05),
        lambda: [(group, oracle.batch(group)) for group in grouping],
        3,
        TrainingConfig(alpha=0.5),
    )
    assert float(total) == pytest.approx(2.88817854404, rel=1e-5)
    gradients = renamed(oracle.tensors, "out/grad/", NET_NAMES)
    named = dict(model.named_parameters())
    assert gradients.keys() == named.keys()
    for name, gradient in gradients.items():
        close(named[name].grad, gradient)
    torch.optim.AdamW(_groups(model, 1e-5), lr=1e-4).step()
    for name, value in renamed(oracle.tensors, "out/after_adamw/", NET_NAMES).items():
        torch.testing.assert_close(named[name].detach(), value, rtol=1e-5, atol=2e-6)


def test_regularisers(oracle):
    routing = [oracle.steph().route(oracle.batch([i]).bags) for i in range(3)]
    l_agg = sum(float(aggregation_loss(r.w, r.kept, balance=True)) for r in routing) / 3
    l_mix = sum(float(mixing_loss(r.lam, r.kept)) for r in routing) / 3
    assert l_agg == pytest.approx(6.87518491, rel=1e-5) and l_mix == pytest.approx(0.63592221, rel=1e-5)


def test_without_top_k_nothing_is_added_to_l_agg(oracle):
    model = oracle.steph(K=None)
    outputs = model.outputs(oracle.batch([0, 1, 2]), gamma=0.05)
    losses = nll(outputs.hazards, oracle.labels[:, 0].long(), oracle.labels[:, 1], 0.5)
    assert float(losses.mean()) == pytest.approx(2.55222, abs=1e-5)
    assert float(outputs.penalty.mean()) == pytest.approx(0.05 * (5.54879 + 0.64715), abs=1e-5)
    assert float((losses + outputs.penalty).mean()) == pytest.approx(2.86202, abs=1e-5)
