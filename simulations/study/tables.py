"""Formats a study's results as Markdown for people and as CSV for programs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from fedsteph.client.evaluation.metrics import METRICS, further_rows, number
from fedsteph.client.methods.task import LOCAL_BECAUSE
from fedsteph.common.report.csv_text import csv_text
from fedsteph.simulations.markdown import table_lines
from fedsteph.simulations.study.costs import INSTANCES
from fedsteph.simulations.study.frontier import frontier_table
from fedsteph.simulations.study.study_results import Comparison, Level, StudyResults, TargetRow


def markdown(results: StudyResults) -> str:
    """The whole study as Markdown."""
    seeds, folds = results["seeds"], results["folds"]
    lines = ["# fedsteph benchmark", ""]
    lines.append(
        f"{len(results['targets'])} targets, {folds} folds, seeds {', '.join(map(str, seeds))}. C-index: Harrell's; "
        "mean and standard deviation over folds, each fold's C the mean over seeds; intervals resample patients."
        + (_TOGETHER if len(seeds) > 1 else "")
    )
    lines += ["", "## C-index", "", *table_lines(*c_index_table(results))]
    for reference in results["against"]:
        table = table_lines(*difference_table(results, reference))
        lines += ["", f"## Against {_title(results, reference)}", "", *table]
    if (frontier := frontier_table(results))[1]:
        lines += ["", "## Privacy against utility", "", *table_lines(*frontier), "", _FRONTIER]
    lines += ["", "## Further metrics", "", *table_lines(*further_table(results)), "", _FURTHER]
    lines += ["", "## Costs", "", *table_lines(*cost_table(results)), "", _COSTS]
    lines += ["", "## Reading", "", *(f"- {sentence}" for sentence in sentences(results)), ""]
    return "\n".join(lines)


_TOGETHER = (
    " Together: the C-index of the mean risk of all seeds, each seed's risk standardised over the fold's test patients."
)
_FURTHER = (
    "Means over targets, folds and seeds where they are defined. Brier: integrated over the years with follow-up, 0 is "
    "best. Gap: mean predicted minus observed probability of an event within 3 years; error: mean absolute gap of four "
    "groups by predicted risk. SAR: share of the target's task vector in the subspace of the merged one (energy 0.95; "
    "mean over matrices; of the mean merge, where each slide has its own)."
)
_FRONTIER = (
    "Each site attacks its own vector as its recipient could; AUC (0.5 is guessing) and true positives at 1% false "
    "alarms are of the attack that does best in a row, which tries to tell the members of reference models, trained on "
    "halves of the patients, by the other models: means over the sites that share, with the 95% interval of such a "
    "mean, and the largest of one site. Epsilon: what the training reports at delta = n^-1.1, the largest of a site; "
    "shown by attack: the largest lower bound, at 95% confidence and delta 1e-5. `frontier.svg` draws this."
)
_COSTS = (
    f"GFLOPs: one prediction on {INSTANCES:,} instances, 2 per multiply-add of matrix products, element-wise work left "
    "out. Seconds: training beyond the base models, with inner models and rounds where the method needs them, mean "
    "over folds. Network: sealed vectors of all sources to the server and on to one target; for averaging, all rounds "
    "of all sites for one model."
)


def overview_table(results: StudyResults) -> tuple[list[str], list[list[str]]]:
    """Header and body: each row's mean C-index over targets and, against the first reference, how it does."""
    header = ["method", "mean C-index (95% interval)"]
    if results["against"]:
        header += [f"minus {_title(results, results['against'][0])} (95% interval)", "targets won", "worst target"]
    body = []
    for row, whole in results["overall"].items():
        cells = [_title(results, row), f"{number(whole['mean'])} ({_interval(whole['interval_95'])})"]
        for found in [whole["against"].get(reference) for reference in results["against"][:1]]:
            cells += ["-", "-", "-"] if found is None else _against_first(found)
        body.append(cells)
    return header, body


def _against_first(found: Comparison) -> list[str]:
    gap = f"{_signed(found['difference'])} ({_interval(found['interval_95'], signed=True)})"
    return [gap, f"{found['targets_won']} of {found['targets']}", _signed(found["worst_target"])]


def c_index_table(results: StudyResults) -> tuple[list[str], list[list[str]]]:
    """Header and body: C-index mean and standard deviation per row and target, and the mean over targets."""
    targets = results["targets"]
    several = any("together" in whole for whole in results["overall"].values())  # not so in earlier versions
    header = ["method", *targets, "mean", "95% interval", *(["together"] if several else [])]
    body = []
    for row, whole in results["overall"].items():
        cells = [_spread(targets[name]["rows"][row]) for name in targets]
        level = [number(whole["mean"]), _interval(whole["interval_95"])]
        joined = [number(whole["together"]["mean"] if "together" in whole else None)] if several else []
        body.append([_title(results, row), *cells, *level, *joined])
    return header, body


def difference_table(results: StudyResults, reference: str) -> tuple[list[str], list[list[str]]]:
    """Header and body: each row's difference in C-index to a reference over all targets."""
    body: list[dict[str, str]] = []
    for row, whole in results["overall"].items():
        if (found := whole["against"].get(reference)) is not None:
            cells = {
                "method": _title(results, row),
                "difference": _signed(found["difference"]),
                "95% interval": _interval(found["interval_95"], signed=True),
            }
            if "interval_95_targets" in found:
                cells["targets resampled too"] = _interval(found["interval_95_targets"], signed=True)
            cells |= {
                "targets won": f"{found['targets_won']} of {found['targets']}",
                "worst target": _signed(found["worst_target"]),
                "folds won": f"{found['folds_won']} of {found['folds']}",
            }
            if (joined := found.get("together")) is not None:
                gap, ends = joined["difference"], joined["interval_95"]
                cells["together"] = f"{_signed(gap)} ({_interval(ends, signed=True)})"
            body.append(cells)
    return list(body[0]) if body else ["method"], [[*cells.values()] for cells in body]


def further_table(results: StudyResults) -> tuple[list[str], list[list[str]]]:
    """Header and body: further metrics beside the C-index, per row."""
    rows = results["overall"]
    header, body = further_rows([(_title(results, row), whole["further"]) for row, whole in rows.items()])
    aligned = [number(whole["alignment"]) for whole in rows.values()]
    return [*header, "SAR"], [[*line, sar] for line, sar in zip(body, aligned, strict=True)]


def cost_table(results: StudyResults) -> tuple[list[str], list[list[str]]]:
    """Header and body: parameters, GFLOPs, seconds, memory and network bytes per row."""
    header = ["method", "learnable", "GFLOPs", "seconds", "peak MB", "network MB"]
    body = []
    for row, whole in results["overall"].items():
        costs = whole["costs"]
        sent = "all data" if costs["network_bytes"] is None else f"{costs['network_bytes'] / 1e6:.1f}"
        flops = "-" if costs["gigaflops"] is None else f"{costs['gigaflops']:.3g}"
        memory = f"{costs['peak_bytes'] / 1e6:.0f}"
        body.append([_title(results, row), f"{costs['learnable']:,}", flops, f"{costs['seconds']:.1f}", memory, sent])
    return header, body


def sentences(results: StudyResults) -> list[str]:
    """Sentences that interpret the differences, and list incomplete rows and failures."""
    found = []
    for row, whole in results["overall"].items():
        if results["rows"][row]["method"] not in ("steph", "deployed"):
            continue
        for reference, against in whole["against"].items():
            found.append(difference_sentence(_title(results, row), _title(results, reference), against))
    found += _stand_ins(results)
    for row, about in results["rows"].items():
        if not about["complete"]:
            found.append(f"{_title(results, row)} is left out: not all of its trainings could be done.")
    for failure in results["failures"]:
        found.append(f"FAILED: {failure['what']}, seed {failure['seed']}, fold {failure['fold']}: {failure['reason']}")
    return found


def _stand_ins(results: StudyResults) -> Iterator[str]:
    """Sentences on the targets for which a row had nothing to merge, and shows the local model."""
    places: dict[tuple[str, str], dict[str, None]] = {}
    for cell in results["cells"]:
        if (why := cell["notes"].get(LOCAL_BECAUSE)) is not None:
            places.setdefault((cell["row"], why), {})[cell["target"]] = None
    for (row, why), targets in places.items():
        yield f"{_title(results, row)} is the local model on {', '.join(targets)}: {why}."


def results_csv(results: StudyResults) -> str:
    """CSV with one line per row and target, and one per row with target ``mean``."""
    header = ["row", "target", "c_index", "sd_folds", "sd_seeds", "reference", "difference", "low", "high"]
    header += ["low_targets", "high_targets", "together", "together_difference", "together_low", "together_high"]
    lines: list[list[object]] = []
    for row, whole in results["overall"].items():
        for target, about in results["targets"].items():
            one = about["rows"][row]
            place: list[object] = [row, target, one["mean"], one["sd"], one["seed_sd"]]
            lines += _csv_rows(place, one["against"], one.get("together"))
        lines += _csv_rows([row, "mean", whole["mean"], None, None], whole["against"], whole.get("together"))
    return csv_text([header, *lines])


def cells_csv(results: StudyResults) -> str:
    """CSV with one line per cell: scores, costs, and which model is shown."""
    place, costs = ["row", "target", "seed", "fold", "c_index"], ["alignment", "learnable", "seconds", "peak_bytes"]
    header = [*place, *METRICS, *costs, "gamma", "shown"]
    flat = ({**cell, **cell["metrics"], "gamma": cell["notes"].get("gamma")} for cell in results["cells"])
    return csv_text([header, *([one[key] for key in header] for one in flat)])


def difference_sentence(name: str, reference: str, found: Comparison) -> str:
    """Compare one row with another in a sentence."""
    gap, interval = found["difference"], found["interval_95"]
    if gap is None or interval is None:
        return f"{name} cannot be compared with {reference}."
    low, high = interval
    if abs(gap) < 5e-5:
        return f"{name} is as good as {reference} in the mean ({low:+.4f} to {high:+.4f})."
    better = "better" if gap > 0 else "worse"
    sure = "no difference is established" if low <= 0 <= high else "the interval leaves 0 out"
    return (
        f"{name} is {better} than {reference} by {abs(gap):.4f} in the mean ({low:+.4f} to {high:+.4f}: {sure}), "
        f"on {found['targets_won']} of {found['targets']} targets."
    )


def _csv_rows(place: list[object], against: dict[str, Comparison], joined: Level | None) -> list[list[object]]:
    mean = None if joined is None else joined["mean"]
    if not against:
        return [[*place, *[None] * 6, mean, None, None, None]]
    return [[*place, reference, *_csv_gap(about, mean)] for reference, about in against.items()]


def _csv_gap(about: Comparison, joined_mean: float | None) -> list[object]:
    joined: Mapping[str, Any] = about.get("together") or {}
    ends = [about["interval_95"], about.get("interval_95_targets"), joined.get("interval_95")]
    (low, high), of_targets, of_joined = (pair or (None, None) for pair in ends)
    return [about["difference"], low, high, *of_targets, joined_mean, joined.get("difference"), *of_joined]


def _title(results: StudyResults, row: str) -> str:
    return results["rows"][row]["title"]


def _spread(found: TargetRow) -> str:
    if found["mean"] is None:
        return "undefined"
    return f"{found['mean']:.3f}" if found["sd"] is None else f"{found['mean']:.3f}±{found['sd']:.3f}"


def _signed(value: float | None) -> str:
    return "-" if value is None else f"{value:+.3f}"


def _interval(interval: Sequence[float] | None, *, signed: bool = False) -> str:
    if interval is None:
        return "undefined"
    low, high = interval
    return f"{low:+.3f} to {high:+.3f}" if signed else f"{low:.3f}-{high:.3f}"
