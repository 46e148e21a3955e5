"""One hospital: its name, data, device and policy, its standing in a federation, and where its work stays."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from fedsteph.client.data.settings import DataSettings
from fedsteph.client.privacy.dp_settings import DpSgd
from fedsteph.client.site.membership import Membership, MembershipFile
from fedsteph.client.site.policy import Policy, Privacy
from fedsteph.client.training.epoch_log import require_tensorboard
from fedsteph.common.config.run_config import MAX_NORM, SITE_NAME
from fedsteph.common.config.schema import build, read_yaml
from fedsteph.common.errors import ConfigError, MembershipError
from fedsteph.common.trust.audit_log import AuditLog
from fedsteph.common.trust.roster import FILE as ROSTER_FILE

SITE_FILE = "site.yaml"
SIMULATED_SITES = "sites.json"
TENSORBOARD = "tensorboard"
TENSORBOARD_ON = ".tensorboard"  # in a run's folder: write it in this run


@dataclass(frozen=True)
class SiteFile:
    """``site.yaml``, which stays at the site; every key may be left out where the default holds."""

    # the site's name, as in the roster; null: the site folder's name in lower case [1 to 32 of a-z, 0-9, _ and -, the
    # first a letter or digit]
    name: str | None = None
    data: DataSettings = field(default_factory=DataSettings)  # where features and labels are, and how they are read
    device: str = "auto"  # auto: the first GPU, else the CPU [auto, cpu or cuda:N, which must be there]
    threads: int | None = None  # CPU threads; null: as many as torch chooses [1 to 1024]
    # largest L2 norm of a received vector; a larger one is refused, whatever the server allows [above 0]
    max_vector_norm: float = MAX_NORM
    state: str = "fedsteph-state"  # folder of models and unfinished work, relative to the site's folder
    # keys, roster and audit log, all paths relative to the site's folder; null: the site takes part in no federation
    federation: MembershipFile | None = None
    policy: Policy | None = None  # what may leave the site, and to whom; null: the site takes part in no federation
    page: bool = True  # write this site's own page after a merge
    tensorboard: bool = False  # write each training's epochs for TensorBoard, into the state folder (extra tensorboard)
    privacy: Privacy = "none"  # training of the shared vector; dp-sgd: with differential privacy, as dp_sgd says
    dp_sgd: DpSgd | None = None  # with privacy dp-sgd: its settings, of which epsilon or noise must be given

    def __post_init__(self) -> None:
        if self.name is not None and SITE_NAME.fullmatch(self.name) is None:
            raise ValueError(f"name must be like {SITE_NAME.pattern}")
        if self.threads is not None and not 1 <= self.threads <= 1024:
            raise ValueError("threads must be 1 to 1024, or null")
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


@dataclass(frozen=True)
class Site:
    """A site folder, read."""

    name: str
    folder: Path
    data: DataSettings
    device: str
    state: Path
    threads: int | None = None
    max_vector_norm: float = SiteFile.max_vector_norm
    federation: MembershipFile | None = None
    policy: Policy | None = None
    dp_sgd: DpSgd | None = None  # how the shared vector is trained in private; None: it is not
    page: bool = True
    tensorboard: Path | None = None  # where epochs are written for TensorBoard; None: nowhere

    @property
    def privacy(self) -> Privacy:
        """How the vector that is shared is trained."""
        return "none" if self.dp_sgd is None else "dp-sgd"

    @classmethod
    def open(cls, folder: Path | str, *, state: Path | str | None = None, device: str | None = None) -> Site:
        """Read a site folder: ``site.yaml`` where there is one, else the default layout.

        Args:
            folder: the site's folder, or its site file of any name.
            state: instead of the site file's own state folder.
            device: instead of the site file's own device.

        Raises:
            ConfigError: no such folder, a name that is no site name, or a fault in ``site.yaml``.
        """
        folder, settings = _read_site_file(Path(folder))
        name = settings.name or folder.resolve().name.lower()
        if SITE_NAME.fullmatch(name) is None:
            remedy = f"Set 'name' in {SITE_FILE}: lower-case letters, digits, - and _, at most 32"
            raise ConfigError(f"'{name}' cannot be a site's name", where=folder, remedy=remedy)
        kept = Path(state) if state is not None else folder / settings.state
        return cls(
            name=name,
            folder=folder,
            data=settings.data,
            device=device if device is not None else settings.device,
            state=kept,
            threads=settings.threads,
            max_vector_norm=settings.max_vector_norm,
            federation=settings.federation,
            policy=settings.policy,
            dp_sgd=settings.dp_sgd,
            page=settings.page,
            tensorboard=kept / TENSORBOARD if settings.tensorboard else None,
        )

    def membership(self) -> Membership:
        """The site's keys and the pinned roster.

        Raises:
            MembershipError: the site file has no ``federation`` or no ``policy``.
            KeyFileError, RosterError: as :meth:`Membership.open`.
        """
        if self.federation is None:
            raise self._lacks("federation")
        self.require_policy()
        return Membership.open(self.name, self.folder, self.federation)

    def require_policy(self) -> Policy:
        """What this site lets out; without it the site takes part in no federation.

        Raises:
            MembershipError: the site file has no ``policy``.
        """
        if self.policy is None:
            raise self._lacks("policy")
        return self.policy

    def _lacks(self, section: str) -> MembershipError:
        return MembershipError(
            f"has no '{section}' section, so the site takes part in no federation",
            where=self.folder / SITE_FILE,
            remedy="See docs/deployment.md for one to start from",
        )

    @property
    def audit(self) -> AuditLog:
        """The site's audit log, beside its state until the site file names a folder for it."""
        return AuditLog(self.folder / self.federation.audit if self.federation else self.state / "audit")


def _read_site_file(path: Path) -> tuple[Path, SiteFile]:
    """A site's folder and its settings, from the path of the folder or of the site file."""
    folder, file = (path.parent, path) if path.is_file() else (path, path / SITE_FILE)
    if not folder.is_dir():
        raise ConfigError("there is no such site folder", where=folder, remedy="Give a folder with labels.csv")
    if (misnamed := file.with_suffix(".yml")).exists():
        raise ConfigError(f"is not read: a site file is called {SITE_FILE}", where=misnamed, remedy="Rename it")
    return folder, build(SiteFile, read_yaml(file), file) if file.exists() else SiteFile()


def site_folders(parent: Path) -> list[Path]:
    """The site folders in a folder of sites: those with a site file or a ``labels.csv``, by name."""
    if not parent.is_dir():
        raise ConfigError("there is no such folder", where=parent, remedy="Give a folder of site folders")
    folders = sorted(
        child for child in parent.iterdir() if any((child / f).exists() for f in (SITE_FILE, "labels.csv"))
    )
    for child in sorted(parent.iterdir()):
        if child not in folders and (child / "features").is_dir():
            remedy = f"Add labels.csv, or a {SITE_FILE} that names the labels, or move the folder away"
            raise ConfigError(f"has features but neither {SITE_FILE} nor labels.csv", where=child, remedy=remedy)
    if not folders:
        what = f"holds no site folder (none has {SITE_FILE} or labels.csv)"
        raise ConfigError(what, where=parent, remedy="Give the folder above the site folders")
    return folders


def site_of_node(node_config: Mapping[str, Any], run_config: Mapping[str, Any]) -> Site:
    """The site that a Flower node serves.

    A real node names its site file in its own node config (``site-config``). A simulated one has a
    ``partition-id`` and finds its folder in the run folder's ``sites.json``; the run config, which comes from
    the coordinator, is looked at in that case only.

    Raises:
        ConfigError: neither, or no such site.
    """
    if "site-config" in node_config:
        path = Path(str(node_config["site-config"]))
        if not path.is_file():
            raise ConfigError("there is no such site file", where=path, remedy="Mend site-config of this SuperNode")
        return Site.open(path)
    run_folder, index = Path(str(run_config.get("run-folder", ""))), node_config.get("partition-id")
    if not isinstance(index, int) or not run_folder.is_absolute() or not (run_folder / SIMULATED_SITES).is_file():
        raise ConfigError(
            "the node does not know its site",
            where="node config",
            remedy="Start the SuperNode with --node-config 'site-config=\"/path/to/site.yaml\"', or simulate "
            "with an absolute run-folder that 'fedsteph simulate --prepare' wrote",
        )
    return _simulated_site(run_folder, index)


def _simulated_site(run_folder: Path, index: int) -> Site:
    """Site number ``index`` of a simulated run, with the run's keys and roster."""
    plan = run_folder / SIMULATED_SITES
    sites = json.loads(plan.read_text())
    if index >= len(sites):
        raise ConfigError(f"there are {len(sites)} sites, and this is node {index}", where=plan)
    entry, state = sites[index], run_folder / "sites" / sites[index]["name"]
    site = Site.open(Path(entry["folder"]), state=state, device=entry["device"])
    names = tuple(other["name"] for other in sites)
    # A run's owner asks for TensorBoard by this file, whatever the sites' own say.
    asked = (run_folder / TENSORBOARD_ON).exists()
    return replace(
        site,
        # One thread per simulated site: it is the machine's share of a site, and it makes the numbers the same
        # whichever engine runs the simulation.
        threads=1,
        page=False,  # the run's own page has it all
        tensorboard=run_folder / TENSORBOARD / site.name if asked else site.tensorboard,
        federation=MembershipFile(
            roster=str(run_folder / ROSTER_FILE),
            roster_sha256=entry["roster_sha256"],
            sign_key=str(state / "keys" / f"{site.name}.sign.key"),
            seal_key=str(state / "keys" / f"{site.name}.seal.key"),
            audit=str(state / "audit"),
        ),
        # A simulated site that trains in private takes no part in rounds that do not, as a real one.
        policy=site.policy or replace(Policy.of_simulation(names), unsealed_updates=site.dp_sgd is None),
    )
