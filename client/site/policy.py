"""The site's own policy: what may leave, to whom, and how coarse. What it does not allow is refused."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from fedsteph.common.config.digest import digest
from fedsteph.common.config.recipe import Recipe
from fedsteph.common.config.run_config import SITE_NAME
from fedsteph.common.errors import (
    KeepingPolicyError,
    PrivacyPolicyError,
    RecipePolicyError,
    SizePolicyError,
    TargetPolicyError,
    UnsealedPolicyError,
)
from fedsteph.common.wire.envelope import MOST_DAYS, UNLIMITED
from fedsteph.common.wire.messages import band

Metric = Literal["patients", "events", "c_index"]
Told = Metric | Literal["curves"]
Privacy = Literal["none", "dp-sgd"]
Mode = Literal["report", "down-weight", "refuse"]  # what becomes of a suspicious vector
_METRICS: tuple[Metric, ...] = ("patients", "events", "c_index")


@dataclass(frozen=True)
class Policy:
    """``policy`` in ``site.yaml``. By default nobody may receive the vector."""

    targets: tuple[str, ...] = ()  # names of the sites that may receive this site's vector; empty: none
    # let the head's risk direction go with the vector where sharing.head says so; false: no head leaves this site
    share_head: bool = True
    min_patients: int = 30  # patients that the site must have, or its vector does not leave [at least 1]
    min_events: int = 10  # observed events that the site must have, or its vector does not leave [at least 1]
    # comparable pairs of test patients that a C-index must rest on, or it does not leave [at least 1]
    min_pairs: int = 50
    # what the coordinator may be told, as bands and rounded; the rest is sent as null. curves: survival by risk group,
    # on the page of 'fedsteph report SITE --shared' and nowhere else
    metrics: tuple[Told, ...] = _METRICS
    # patients that each risk group of those curves needs; a curve ends where fewer are still followed [at least 10]
    min_group: int = 30
    # width of the bands that counts leave as; 10 makes 37 patients "30-39" [10 to 10000, a multiple of 10]
    count_band: int = 10
    c_index_decimals: Literal[1, 2] = 2  # decimals of a C-index that leaves
    privacy: Privacy = "none"  # dp-sgd: a vector leaves only if it was trained with differential privacy
    # largest epsilon of all vectors together that ever left, as the privacy ledger counts it; null: no limit [above 0]
    epsilon_budget: float | None = None
    # largest AUC that 'fedsteph privacy audit' may find for a vector that leaves; a vector that it has not attacked
    # does not leave. null: no audit is needed [above 0.5 and at most 1]
    max_attack_auc: float | None = None
    # take part in FedAvg and FedProx, where the server and all other sites in it can read this site's encoder
    unsealed_updates: bool = False
    # SHA-256 digests of the recipes that this site trains, as 'fedsteph recipe' prints them; any: whatever comes
    # [64 hexadecimal digits each]
    recipes: Literal["any"] | tuple[str, ...] = ()
    # runs that this site takes part in within 24 hours; null: no limit [at least 1]
    max_runs_per_day: int | None = None
    # merges that this site answers with scores within 24 hours; null: no limit [at least 1]
    max_merges_per_day: int | None = None
    # days that a recipient of this site's vector may keep it, from the day that it was sealed; 0: in the run that it
    # came in, and no longer. A recipient's software honours this; nothing can enforce it [0 to 36500]
    vectors_kept_days: int | Literal["unlimited"] = 365
    # what happens to a suspicious received vector. refuse: left out; down-weight: shortened; report: merged, and said
    screening: Mode = "refuse"

    def __post_init__(self) -> None:
        if not all(SITE_NAME.fullmatch(name) for name in self.targets):
            raise ValueError(f"targets must be site names like {SITE_NAME.pattern}")
        if min(self.min_patients, self.min_events, self.min_pairs) < 1:
            raise ValueError("min_patients, min_events and min_pairs must be at least 1")
        if self.min_group < 10:
            raise ValueError("min_group must be at least 10")
        if self.count_band < 10 or self.count_band % 10 or self.count_band > 10_000:
            raise ValueError("count_band must be a multiple of 10, at most 10000")
        if any(most is not None and most < 1 for most in (self.max_runs_per_day, self.max_merges_per_day)):
            raise ValueError("max_runs_per_day and max_merges_per_day must be at least 1, or null")
        if self.epsilon_budget is not None and self.epsilon_budget <= 0:
            raise ValueError("epsilon_budget must be above 0, or null")
        must_be = "unsealed_updates must be false with"
        if self.unsealed_updates and (self.privacy != "none" or self.epsilon_budget is not None):
            raise ValueError(f"{must_be} privacy or epsilon_budget: no round trains in private")
        if self.max_attack_auc is not None and not 0.5 < self.max_attack_auc <= 1:
            raise ValueError("max_attack_auc must be above 0.5 and at most 1, or null")
        if self.max_attack_auc is not None and self.unsealed_updates:
            raise ValueError(f"{must_be} max_attack_auc: no round's update is attacked first")
        if self.vectors_kept_days != "unlimited" and not 0 <= self.vectors_kept_days <= MOST_DAYS:
            raise ValueError(f"vectors_kept_days must be 0 to {MOST_DAYS}, or unlimited")
        if self.recipes != "any" and not all(re.fullmatch("[0-9a-f]{64}", text) for text in self.recipes):
            raise ValueError("recipes must be digests of 64 hexadecimal digits, as 'fedsteph recipe' prints them")

    @classmethod
    def of_simulation(cls, names: tuple[str, ...]) -> Policy:
        """What a simulated site without a policy of its own has: its owner holds all the data anyway."""
        return cls(
            targets=names,
            min_patients=1,
            min_events=1,
            min_pairs=1,
            unsealed_updates=True,
            recipes="any",
            vectors_kept_days=0,  # the folder of a run that is over needs no copies
        )

    @property
    def kept_days(self) -> int:
        """``vectors_kept_days`` as an envelope states it."""
        return UNLIMITED if self.vectors_kept_days == "unlimited" else self.vectors_kept_days

    def require_keeping(self) -> None:
        """Raise KeepingPolicyError if no recipient may keep the vector, and so none could use it as a file."""
        if self.kept_days == 0:
            raise KeepingPolicyError(
                "a vector that may not be kept is of no use as a file",
                where="policy.vectors_kept_days",
                remedy="Set it above 0, or share in a run",
            )

    def require_unsealed(self) -> None:
        """Raise UnsealedPolicyError if the server may read nothing of what is trained here."""
        if not self.unsealed_updates:
            raise UnsealedPolicyError(
                "policy.unsealed_updates is false",
                where="policy.unsealed_updates",
                remedy="Leave it so, unless the server may read this site's model in every round",
            )

    def weight(self, patients: int) -> int:
        """How much this site counts in an average: its patients' band's lower end; if it tells none, the smallest."""
        if "patients" not in self.metrics:
            return self.count_band
        return max(self.count_band, patients // self.count_band * self.count_band)

    def require_recipe(self, recipe: Recipe) -> None:
        """Raise RecipePolicyError if the site trains reviewed recipes only, and this is none of them."""
        if self.recipes != "any" and digest(recipe) not in self.recipes:
            raise RecipePolicyError(
                f"the recipe {digest(recipe)} is not among policy.recipes",
                where="policy.recipes",
                remedy="Look at the federation's config.yaml with 'fedsteph recipe'; add its digest if you agree",
            )

    def require_size(self, patients: int, events: int) -> None:
        """Raise SizePolicyError if the site is too small for its vector to leave."""
        if patients < self.min_patients or events < self.min_events:
            raise SizePolicyError(
                f"there are {patients} patients with {events} events; the policy asks for at least "
                f"{self.min_patients} and {self.min_events}",
                where="policy.min_patients and policy.min_events",
            )

    def require_privacy(self, trained: Privacy) -> None:
        """Raise PrivacyPolicyError if the policy asks for differential privacy, and the site trains without."""
        if self.privacy not in ("none", trained):
            raise PrivacyPolicyError(
                f"asks for {self.privacy}, and this site's 'privacy' is {trained}",
                where="policy.privacy",
                remedy="Set privacy: dp-sgd and dp_sgd.epsilon in site.yaml; nothing is shared until then",
            )

    def require_target(self, target: str) -> None:
        """Raise TargetPolicyError if this site's vector may not go there."""
        if target not in self.targets:
            raise TargetPolicyError(
                f"{target} is not among policy.targets",
                where="policy.targets",
                remedy="Add it if that site may receive this site's vector",
            )

    def band(self, metric: Metric, count: int) -> str | None:
        """A count as its band, 37 -> '30-39' and 7 -> 'below 10'; null where it may not leave."""
        return band(count, self.count_band) if metric in self.metrics else None

    def c_index(self, value: float | None, n_pairs: int) -> float | None:
        """A C-index, rounded; null where it may not leave, is undefined, or too few patients stand behind it."""
        kept = "c_index" not in self.metrics or n_pairs < self.min_pairs
        return None if value is None or kept else round(value, self.c_index_decimals)
