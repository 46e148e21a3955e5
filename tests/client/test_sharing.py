"""A vector's way from one site into another, and every reason to refuse one."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from client_builders import m0_of, make_recipe, make_vectors, make_workspace, state_of

from client.sharing import incoming, outgoing
from client.workspace import Workspace
from common.abmil import Architecture
from common.envelope import EnvelopeContext, seal
from common.errors import EnvelopeError, ProtocolError
from common.messages import RunId
from common.vector_file import write_vector

RUN = RunId("fed", "run1")
MAX_NORM = 250.0


@pytest.fixture(scope="module")
def workspace(tmp_path_factory) -> Workspace:
    return make_workspace(tmp_path_factory.mktemp("sharing"), "training.epochs=3", patients=12)


def named(workspace: Workspace, name: str) -> Workspace:
    return replace(workspace, site=replace(workspace.site, name=name))


def context(workspace: Workspace, sender: str, **changes: str) -> EnvelopeContext:
    model = workspace.recipe.model
    bound = EnvelopeContext("fed", "run1", sender, "site", model.m0_sha256, Architecture.of(model).digest)
    return replace(bound, **changes)


def envelope(workspace: Workspace, sender: str, content: bytes | None = None, **changes: str) -> bytes:
    vector = make_vectors(workspace.recipe, 1)["s000"]
    return seal(content if content is not None else write_vector(vector), context(workspace, sender, **changes))


def test_a_vector_arrives_as_it_left(workspace):
    sent = outgoing(named(workspace, "a"), RUN, ["site", "other"])
    assert sorted(sent) == ["other", "site"]
    vectors, refused = incoming(workspace, RUN, {"a": sent["site"]}, MAX_NORM)
    assert (list(vectors), refused) == (["a"], {})
    own, start = state_of(workspace.local_model(0)), state_of(m0_of(workspace.recipe))
    assert vectors["a"].norm > 0
    for name, tensor in vectors["a"].tensors.items():
        assert torch.equal(tensor, own[name] - start[name])


@pytest.mark.parametrize("recipient", ["site", "../x", "/etc/passwd", "", "A", "a b", "a/b", "x" * 40, "a\n"])
def test_recipients_that_are_no_other_site(workspace, recipient):
    with pytest.raises(ProtocolError) as caught:
        outgoing(workspace, RUN, ["b", recipient])
    assert caught.value.where == "recipients"
    assert "passwd" not in str(caught.value)


def other_vector(*settings: str) -> bytes:
    return write_vector(make_vectors(make_recipe(*settings), 1)["s000"])


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda w: envelope(w, "bad", federation="other"), "another federation"),
        (lambda w: envelope(w, "bad", run="run0"), "another run"),
        (lambda w: envelope(w, "bad", recipient="b"), "another recipient"),
        (lambda w: envelope(w, "good"), "another sender"),
        (lambda w: envelope(w, "bad", m0_sha256="0" * 64), "another m0_sha256"),
        (lambda w: envelope(w, "bad", architecture="0" * 64), "another architecture"),
        (lambda w: envelope(w, "bad", run="run0", recipient="b"), "another run and recipient"),
        (lambda w: envelope(w, "bad", other_vector("model.m0_seed=7")), "another M0"),
        (lambda w: envelope(w, "bad", other_vector("model.embed=9")), "another architecture"),
        (lambda w: envelope(w, "bad", b"junk"), "truncated"),
        (lambda w: envelope(w, "bad")[:-1], "altered"),
        (lambda w: b"junk", "malformed"),
        (lambda w: b"", "malformed"),
    ],
)
def test_a_vector_that_does_not_belong_here_is_refused_and_the_others_go_on(workspace, make, reason):
    envelopes = {"good": envelope(workspace, "good"), "bad": make(workspace), "also": envelope(workspace, "also")}
    vectors, refused = incoming(workspace, RUN, envelopes, MAX_NORM)
    assert list(vectors) == ["also", "good"]
    assert list(refused) == ["bad"]
    assert reason in refused["bad"]
    with pytest.raises(EnvelopeError, match="no usable envelope") as caught:
        incoming(workspace, RUN, {"bad": envelopes["bad"]}, MAX_NORM)
    assert reason in str(caught.value)


@pytest.mark.parametrize("sender", ["site", "../../x", "Bad", ""])
def test_a_sender_that_is_no_other_site_is_refused(workspace, sender):
    envelopes = {"good": envelope(workspace, "good"), sender: envelope(workspace, sender)}
    vectors, refused = incoming(workspace, RUN, envelopes, MAX_NORM)
    assert (list(vectors), refused) == (["good"], {sender: "not another site's name"})


def test_a_vector_above_the_norm_is_refused(workspace):
    norm = make_vectors(workspace.recipe, 1)["s000"].norm
    sent = {"good": envelope(workspace, "good")}
    assert list(incoming(workspace, RUN, sent, norm)[0]) == ["good"]
    with pytest.raises(EnvelopeError, match="above the cap"):
        incoming(workspace, RUN, sent, norm * 0.999)


def test_no_envelope_at_all(workspace):
    with pytest.raises(EnvelopeError, match="none came"):
        incoming(workspace, RUN, {}, MAX_NORM)
