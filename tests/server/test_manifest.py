"""A run whose messages could not be read is refused before anybody trains."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from keys_and_rosters import roster_of

from fedsteph.common.config.recipe import ModelConfig, SharingConfig
from fedsteph.common.config.run_config import Config, FederationConfig
from fedsteph.common.errors import ConfigError
from fedsteph.common.wire.messages import MAX_ENVELOPES
from fedsteph.server.manifest import manifest


def config(n_sites: int, n_targets: int = 1, width: int = 1536, **sharing: Any) -> Config:
    sites = tuple(f"s{i}" for i in range(n_sites))
    federation = FederationConfig(sites=sites, targets=sites[:n_targets])
    return replace(Config(), model=ModelConfig(width=width), sharing=SharingConfig(**sharing), federation=federation)


def made(config: Config, tmp_path: Path) -> dict:
    return manifest(config, roster_of("s0", "s1"), tmp_path)


@pytest.mark.parametrize(
    ("fits", "too_many"),
    [
        (dict(n_sites=227), dict(n_sites=229)),
        (dict(n_sites=227, n_targets=227), dict(n_sites=229, n_targets=229)),
        (dict(n_sites=450, dtype="bfloat16"), dict(n_sites=460, dtype="bfloat16")),
        (dict(n_sites=340, layers="embed"), dict(n_sites=345, layers="embed")),  # 2/3 of the numbers
        (dict(n_sites=450, layers="attention", rank=256), dict(n_sites=1200, layers="attention", rank=256)),
        (dict(n_sites=MAX_ENVELOPES + 1, width=8), dict(n_sites=MAX_ENVELOPES + 2, width=8)),
    ],
)
def test_as_many_vectors_as_one_message_holds(fits: dict, too_many: dict, tmp_path: Path) -> None:
    small = replace(ModelConfig(width=8), embed=8, attention=8)
    for numbers, refused in ((fits, False), (too_many, True)):
        of = config(**numbers)
        if numbers.get("width") == 8:
            of = replace(of, model=small)
        if refused:
            with pytest.raises(ConfigError, match=r"a message would bring \d+ vectors, and holds \d+ at most"):
                made(of, tmp_path)
        else:
            assert made(of, tmp_path)["schema"] == "fedsteph/manifest/v1"
