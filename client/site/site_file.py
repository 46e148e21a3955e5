"""``site.yaml``: a site's name, data, device, policy, and its standing in a federation."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from fedsteph.client.data.settings import DataSettings
from fedsteph.client.privacy.dp_settings import DpSgd
from fedsteph.client.site.membership import MembershipFile
from fedsteph.client.site.policy import Policy, Privacy
from fedsteph.client.training.epoch_log import require_tensorboard
from fedsteph.common.config.run_config import MAX_NORM, SITE_NAME, require_cancer
from fedsteph.common.config.schema import build, read_yaml
from fedsteph.common.deployment.health_settings import HealthSettings
from fedsteph.common.errors import ConfigError
from fedsteph.common.host.log_file import LogFormat

SITE_FILE = "site.yaml"


@dataclass(frozen=True)
class SiteFile:
    """``site.yaml``, which stays at the site; every key may be left out where the default holds."""

    # the site's name, as in the roster; null: the site folder's name in lower case [1 to 32 of a-z, 0-9, _ and -, the
    # first a letter or digit]
    name: str | None = None
    # short name of the cancer of the site's patients, e.g. brca, as in the roster; null: not stated, and then no head
    # of its model leaves under sharing.head same_cancer [1 to 32 of a-z, 0-9, _ and -, the first a letter or digit]
    cancer: str | None = None
    data: DataSettings = field(default_factory=DataSettings)  # where features and labels are, and how they are read
    device: str = "auto"  # auto: the first CUDA GPU, else the CPU [auto, cpu, cuda:N or mps, which must be there]
    threads: int | None = None  # CPU threads; null: as many as torch chooses [1 to 1024]
    # processes that train this site's models side by side, with one thread each. auto: one per core where there is
    # enough work, one on a GPU [1 to 256]
    workers: int | Literal["auto"] = "auto"
    # this site's copy of the file that is the federation's M0, relative to the site's folder; null: M0 is made from
    # model.m0_seed [a path]
    m0: str | None = None
    # largest L2 norm of a received vector; a larger one is refused, whatever the server allows [above 0]
    max_vector_norm: float = MAX_NORM
    state: str = "fedsteph-state"  # folder of models and unfinished work, relative to the site's folder
    # keys, roster and audit log, all paths relative to the site's folder; null: the site takes part in no federation
    federation: MembershipFile | None = None
    policy: Policy | None = None  # what may leave the site, and to whom; null: the site takes part in no federation
    # merge vectors that were kept from earlier runs or came as files, where the federation's configuration asks for it
    reuse_vectors: bool = False
    log_format: LogFormat = "text"  # of the site's log; json: one JSON object per line [text or json]
    page: bool = True  # write this site's own page after a merge, and after a training of its own
    tensorboard: bool = False  # write each training's epochs for TensorBoard, into the state folder (extra tensorboard)
    privacy: Privacy = "none"  # training of the shared vector; dp-sgd: with differential privacy, as dp_sgd says
    dp_sgd: DpSgd | None = None  # with privacy dp-sgd: its settings, of which epsilon or noise must be given
    health: HealthSettings | None = None  # where 'fedsteph health' answers; null: nowhere

    def __post_init__(self) -> None:
        if self.name is not None and SITE_NAME.fullmatch(self.name) is None:
            raise ValueError(f"name must be like {SITE_NAME.pattern}")
        require_cancer(self.cancer)
        if self.threads is not None and not 1 <= self.threads <= 1024:
            raise ValueError("threads must be 1 to 1024, or null")
        if self.workers != "auto" and not 1 <= self.workers <= 256:
            raise ValueError("workers must be auto, or 1 to 256")
        if self.m0 is not None and not self.m0.strip():
            raise ValueError("m0 must be a path, or null")
        if self.max_vector_norm <= 0:
            raise ValueError("max_vector_norm must be above 0")
        if self.tensorboard:
            require_tensorboard("tensorboard")
        self._check_privacy()

    def _check_privacy(self) -> None:
        if self.privacy == "none":
            if self.dp_sgd is not None:
                raise ValueError("dp_sgd is given, and privacy is none: set privacy to dp-sgd, or take the section out")
            return
        if self.dp_sgd is None or not self.dp_sgd.is_chosen:
            raise ValueError("privacy: dp-sgd needs dp_sgd.epsilon or dp_sgd.noise: how private is this site's choice")
        if self.policy is not None and self.policy.unsealed_updates:
            raise ValueError("policy.unsealed_updates must be false with privacy: dp-sgd: rounds have no such training")


def read_site_file(path: Path) -> tuple[Path, SiteFile]:
    """A site's folder and its settings, from the path of the folder or of the site file."""
    folder, file = (path.parent, path) if path.is_file() else (path, path / SITE_FILE)
    if not folder.is_dir():
        raise ConfigError("there is no such site folder", where=folder, remedy="Give a folder with labels.csv")
    if (misnamed := file.with_suffix(".yml")).exists():
        raise ConfigError(f"is not read: a site file is called {SITE_FILE}", where=misnamed, remedy="Rename it")
    return folder, build(SiteFile, read_yaml(file), file) if file.exists() else SiteFile()
