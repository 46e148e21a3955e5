"""Every test of a site: one thread, and none left behind."""

import pytest
import torch
from client_builders import prefetching


@pytest.fixture(autouse=True)
def one_thread():
    """Sums do not depend on the machine's number of cores, and other work on it is left alone."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def no_thread_is_left():
    yield
    assert prefetching() == []
