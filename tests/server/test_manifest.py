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
from fedsteph.common.wire.letters import MOST_LETTERS
from fedsteph.server.manifest import manifest


def config(n_sites: int, n_targets: int = 1, width: int = 1536, **sharing: Any) -> Config:
    sites = tuple(f"s{i}" for i in range(n_sites))
    federation = FederationConfig(sites=sites, targets=sites[:n_targets])
    return replace(Config(), model=ModelConfig(width=width), sharing=SharingConfig(**sharing), federation=federation)


def made(config: Config, tmp_path: Path) -> dict:
    return manifest(config, roster_of("s0", "s1"), tmp_path)


SMALL = replace(ModelConfig(width=8), embed=8, attention=8)


@pytest.mark.parametrize("of", [config(1001), config(1001, 1001), config(1001, 1001, dtype="bfloat16", layers="embed")])
def test_a_thousand_sites_can_be_configured(of: Config, tmp_path: Path) -> None:
    assert made(of, tmp_path)["schema"] == "fedsteph/manifest/v1"


def test_a_merge_names_so_many_vectors_and_no_more(tmp_path: Path) -> None:
    assert made(replace(config(MOST_LETTERS + 1), model=SMALL), tmp_path)
    with pytest.raises(ConfigError, match=f"would merge {MOST_LETTERS + 1} vectors, and can merge {MOST_LETTERS} "):
        made(replace(config(MOST_LETTERS + 2), model=SMALL), tmp_path)


def test_a_vector_that_is_too_large_to_travel_is_refused(tmp_path: Path) -> None:
    large = replace(ModelConfig(width=65_536), embed=4096)
    with pytest.raises(ConfigError, match=r"sharing: a vector takes up to \d+ MiB, and 256 MiB can travel"):
        made(replace(config(2), model=large), tmp_path)
    assert made(replace(config(2, layers="embed", rank=8), model=large), tmp_path)
