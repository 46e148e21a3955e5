"""What a coordinator makes of this fedsteph, which takes Flower seconds."""

from pathlib import Path

import pytest

from fedsteph.common.deployment.flower_app import assemble, build


@pytest.fixture(scope="package")
def coordinators_bundle(tmp_path_factory) -> Path:
    """The app's bundle; not to be changed."""
    folder = tmp_path_factory.mktemp("bundle")
    return build(assemble(folder / "fedsteph"), folder / "home")
