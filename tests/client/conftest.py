"""Every test of a site: one thread, and none left behind."""

from collections.abc import Iterator, Sequence
from functools import cache

import pytest
import torch
from client_builders import prefetching

from fedsteph.client.privacy import dp_settings, ledger
from fedsteph.client.privacy.accounting import Mechanism, epsilon


def _one_thread() -> Iterator[None]:
    """Sums do not depend on the machine's number of cores, and other work on it is left alone."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


one_thread = pytest.fixture(autouse=True)(_one_thread)
one_thread_for_modules = pytest.fixture(autouse=True, scope="module")(_one_thread)  # whose fixtures come first


@pytest.fixture(autouse=True)
def no_thread_is_left():
    yield
    assert prefetching() == []


@pytest.fixture
def epsilon_once(monkeypatch):
    """The accountant takes a while, and is a function of what it is asked."""
    for module in (dp_settings, ledger):
        monkeypatch.setattr(module, "epsilon", lambda mechanisms, *more: _epsilon(tuple(mechanisms), *more))


@cache
def _epsilon(mechanisms: Sequence[Mechanism], delta: float, accountant: str = "pld") -> float:
    return epsilon(mechanisms, delta, accountant)
