"""Rules that make two spellings of one ID equal: names of slides in a table and in a folder seldom agree to the letter.

No rule holds unless the site file names it, under ``data.match``.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from fedsteph.client.data.problems import Problem
from fedsteph.client.data.settings import Rule

_ENDING = re.compile(r"(\.(svs|tiff?|ndpi|mrxs|scn|bif|vms|vsi|czi|dcm|isyntax|png|jpe?g|h5|hdf5|pth?|np[yz]))+$", re.I)
_UUID = re.compile(r"[._-]?[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$", re.I)
_DASHES = dict.fromkeys(map(ord, "\u2010\u2011\u2012\u2013\u2014\u2212\ufe63\uff0d"), "-")
_MOST_RULES = 3

# In the order in which they are applied.
_RULES: Mapping[Rule, Callable[[str], str]] = {
    "unicode": lambda name: unicodedata.normalize("NFC", name),
    "spaces": lambda name: " ".join(name.replace("\u200b", "").replace("\ufeff", "").split()),
    "dashes": lambda name: name.translate(_DASHES),
    "endings": lambda name: _ENDING.sub("", name),
    "uuid": lambda name: _UUID.sub("", name),
    "point_zero": lambda name: re.sub(r"(?<=\d)\.0$", "", name),
    "zeros": lambda name: re.sub(r"^0+(?=[0-9]+(\.0)?$)", "", name),
    "case": str.casefold,
}
_SPOKEN: Mapping[Rule, str] = {
    "unicode": "in one Unicode form (NFC)",
    "spaces": "with single ordinary spaces",
    "dashes": "with ordinary hyphens",
    "endings": "without the endings of slide and feature files",
    "uuid": "without the UUID at the end",
    "point_zero": "without '.0' at the end",
    "zeros": "without leading zeros",
    "case": "in any letter case",
}


def same(name: str, rules: Collection[Rule]) -> str:
    """The form that all spellings of ``name`` share under the rules; the name itself without rules."""
    for rule, apply in _RULES.items():
        if rule in rules:
            name = apply(name)
    return name


def by_form(names: Iterable[str], rules: Collection[Rule]) -> tuple[dict[str, str], list[tuple[str, str]]]:
    """The names by their form under the rules, and the pairs of names that would become one."""
    found: dict[str, str] = {}
    pairs = [(other, name) for name in sorted(names) if (other := found.setdefault(same(name, rules), name)) != name]
    return found, pairs


@dataclass(frozen=True)
class Match:
    """Rules under which names agree that do not agree to the letter."""

    rules: tuple[Rule, ...]
    pairs: Mapping[str, str]  # the name on the one side -> the name on the other side
    of: int  # names on the one side without an equal on the other

    def problem(self, where: str, kind: str) -> Problem:
        """The error that names the rules, how many match, and an example; ``kind`` is ``slides`` or ``patients``."""
        many = f"all {self.of}" if len(self.pairs) == self.of else f"{len(self.pairs)} of {self.of}"
        what = f"{many} {kind} that agree to the letter with none match {self._spoken}"
        key = f"data: {{match: [{', '.join(self.rules)}]}}"
        remedy = f"If they are the same, add --fix to 'fedsteph data check', or write '{key}' into site.yaml"
        return Problem("error", where, what, remedy, self.rules)

    @property
    def _spoken(self) -> str:
        """What the rules do, and an example."""
        one, other = next(iter(self.pairs.items()))
        cut = {found[0] for name in (*self.pairs, *self.pairs.values()) if (found := _ENDING.search(name))}
        ending = f"without {' and '.join(map(repr, sorted(cut)[:3]))}"
        told = [ending if rule == "endings" and cut else _SPOKEN[rule] for rule in self.rules]
        return f"{' and '.join(told)}: '{one}' is '{other}'"


def find_match(names: Collection[str], others: Collection[str], given: Collection[Rule] = ()) -> Match | None:
    """The fewest rules, at most three, under which the most of ``names`` have one equal each among ``others``.

    None, if no rules bring two names together, or if they would make one of two names on the same side.

    Args:
        given: rules that hold already; names that have an equal under them keep it.
    """
    forms = {same(name, given) for name in names}, {same(name, given) for name in others}
    alone = forms[0] ^ forms[1]
    left = {name for name in names if same(name, given) in alone}
    if not left:
        return None
    useful = [rule for rule in _RULES if rule not in given and any(_changes(rule, name) for name in alone)]
    best: Match | None = None
    for n_rules in range(1, _MOST_RULES + 1):
        for rules in combinations(useful, n_rules):
            found = _matched(names, others, (*given, *rules), left)
            if found is not None and len(found.pairs) > (len(best.pairs) if best else 0):
                best = found
        if best is not None and len(best.pairs) == len(left):
            break
    return best


def _changes(rule: Rule, name: str) -> bool:
    """Whether a rule does anything, by itself or once the others have been applied."""
    others = [other for other in _RULES if other != rule]
    return same(name, (rule,)) != name or same(name, (*others, rule)) != same(name, others)


def _matched(names: Collection[str], others: Collection[str], rules: Sequence[Rule], left: set[str]) -> Match | None:
    mine, mine_twice = by_form(names, rules)
    its, its_twice = by_form(others, rules)
    if mine_twice or its_twice:
        return None
    pairs = {name: its[form] for form, name in sorted(mine.items()) if name in left and form in its}
    return Match(tuple(rules), pairs, len(left)) if pairs else None
