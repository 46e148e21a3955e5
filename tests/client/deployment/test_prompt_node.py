"""A site's SuperNode asks often while a run is on, and as seldom as Flower's own otherwise."""

from __future__ import annotations

import sys
import time

import pytest
from flwr.supernode import start_client_internal

from fedsteph.client.deployment import prompt_node
from fedsteph.client.deployment.prompt_node import PromptClock


@pytest.fixture
def slept(monkeypatch) -> list[float]:
    """What was waited for, in seconds, on a clock that nothing but waiting moves on."""
    waits: list[float] = []
    monkeypatch.setattr(time, "sleep", waits.append)
    monkeypatch.setattr(time, "monotonic", lambda: sum(waits))
    return waits


def test_a_node_without_a_run_asks_as_seldom_as_flower_s(slept):
    clock = PromptClock()
    for _ in range(3):
        clock.sleep(3)
    assert slept == [3, 3, 3]


def test_for_a_minute_after_a_message_it_asks_every_half_second(slept):
    clock = PromptClock()
    clock.sleep(0.5)  # Flower's loop has a message, and waits for the app's answer
    for _ in range(130):
        clock.sleep(3)
    prompt, later = slept[1:121], slept[121:]
    assert slept[0] < 0.5 and {*prompt[:-1]} == {0.5} and {*later} == {3}


def test_a_node_asks_a_slow_server_less_often_and_a_fast_one_again_as_before(slept):
    """One slow question among fast ones may be the network's; the fastest of all is the way there and back."""
    clock = PromptClock()
    clock.sleep(0.5)
    clock.sleep(3)
    for took in (0.02, 0.02, 5, 0.04, 0.04, 1, 1, 0.02, 0.02):
        slept.append(took)  # the question
        clock.sleep(3)
    assert slept[3::2] == pytest.approx([0.5, 0.5, 0.5, 0.6, 0.6, 0.6, 29.4, 29.4, 3])


def test_the_upload_of_an_answer_is_no_sign_of_a_slow_server(slept):
    clock = PromptClock()
    clock.sleep(3)
    clock.sleep(0.5)
    slept.append(20)
    clock.sleep(3)
    assert slept[-1] == 0.5


def test_flower_s_own_program_runs_with_its_arguments(monkeypatch):
    reached = []
    monkeypatch.setattr(sys, "argv", ["prompt_node.py", "flower-supernode", "--insecure"])
    monkeypatch.setattr(start_client_internal, "time", time)
    monkeypatch.setattr(prompt_node, "flower_supernode", lambda: reached.append([*sys.argv]))
    prompt_node.main()
    assert reached == [["flower-supernode", "--insecure"]]
    assert isinstance(start_client_internal.time, PromptClock)


def test_a_flower_that_waits_in_another_way_is_not_run(monkeypatch):
    monkeypatch.delattr(start_client_internal, "time")
    monkeypatch.setattr(prompt_node, "flower_supernode", lambda: pytest.fail("it ran"))
    with pytest.raises(SystemExit, match="does not wait by"):
        prompt_node.main()
