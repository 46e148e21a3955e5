"""Writes a run's results as sentences and tables in Markdown (``summary.md``)."""

from __future__ import annotations

from pathlib import Path

from fedsteph.client.evaluation.metrics import further_rows
from fedsteph.client.report.target_sections import deployed_sentences, screening, title_of
from fedsteph.client.target.target_result import TargetResult
from fedsteph.common.vector.shared_part import description
from fedsteph.simulations.markdown import table_lines
from fedsteph.simulations.run.run_folder import RunFolder
from fedsteph.simulations.run.run_results import RESULTS_FILE, RunResults

SUMMARY_FILE = "summary.md"


def summary(folder: RunFolder, results: RunResults) -> str:
    """The whole run as Markdown."""
    lines = ["# fedsteph run", ""]
    for target, result in results.targets.items():
        rows = score_rows(result)
        lines += [f"## {target_title(target, result)}", ""]
        lines += table_lines(rows[0], rows[1:])
        lines += ["", *(f"- {sentence}" for sentence in target_sentences(result)), ""]
        further = [(title_of(key), row.further) for key, row in result.trained.items()]
        lines += ["Beyond the C-index, means over folds:", "", *table_lines(*further_rows(further)), ""]
    lines += ["## The run", "", *(f"- {sentence}" for sentence in run_sentences(folder, results)), ""]
    return "\n".join(lines)


def target_title(target: str, result: TargetResult) -> str:
    """The title of a target's table: site, patients, events and sources."""
    sources = "1 source" if len(result.sources) == 1 else f"{len(result.sources)} sources"
    return f"C-index at {target} ({result.n_patients} patients, {result.n_events} events, {sources})"


def score_rows(result: TargetResult) -> list[list[str]]:
    """A target's table of C-indices, header first, one row per method."""
    folds = len(result.steph.c_index)
    rows = [["method", *(f"fold {k}" for k in range(folds)), "mean", "95% interval"]]
    for key, method in result.methods.items():
        interval = method.interval_95
        spread = "undefined" if interval is None else f"{interval[0]:.3f}-{interval[1]:.3f}"
        rows.append([title_of(key), *map(_number, method.c_index), _number(method.mean), spread])
    return rows


def target_sentences(result: TargetResult) -> list[str]:
    """Sentences that interpret a target's table, whether STEPH is better or worse."""
    sentences = [] if result.too_small is None else [result.too_small]
    sentences += [result.trust.sentence, *(f"Red flag: {flag.sentence}" for flag in result.trust.flags)]
    if "oracle" in result.methods:
        sentences.append("The oracle ranks patients by the risk that their outcomes were drawn from.")
    if collapsed := ", ".join(map(str, result.steph.collapsed_folds)):
        sentences.append(f"STEPH collapsed (all kept weights 0) in fold {collapsed}.")
    gammas = ", ".join(f"{gamma:g}" for gamma in result.steph.gamma)
    reasons = "; ".join(dict.fromkeys(result.steph.gamma_reason))
    sentences.append(f"gamma per fold: {gammas} ({reasons}).")
    if result.kept:
        sentences.append(f"Kept from earlier runs or files: the vectors of {', '.join(result.kept)}.")
    if result.clinical is not None:
        sentences.append(result.clinical.sentence("deployed", result.methods))
    sentences += deployed_sentences(result)
    if result.final is not None:
        sentences.append(f"For the final model, {title_of(result.final.choice)} is taken: {result.final.reason}.")
    return [*sentences, *screening(result)]


def _privacy(folder: RunFolder) -> str:
    private = {site.name: site.file.dp_sgd for site in folder.sites if site.file.dp_sgd is not None}
    if not private:
        return "No task vector was trained with differential privacy."
    wanted = [
        f"{name} (noise {one.noise:g})" if one.epsilon is None else f"{name} (epsilon {one.epsilon:g})"
        for name, one in private.items()
    ]
    others = "all others without" if len(private) < len(folder.sites) else "and so all of them"
    return f"Trained with differential privacy: the task vectors of {', '.join(wanted)}; {others}."


def run_sentences(folder: RunFolder, results: RunResults) -> list[str]:
    """Sentences about failures, bytes sent, privacy, duration, and the files of the results."""
    seconds = ", ".join(f"{phase} {value:.1f} s" for phase, value in results.seconds.items())
    sentences = [f"FAILED: site {failure}" for failure in results.failures]
    sentences += [
        f"Sent between sites and server: {results.bytes / 1e6:.2f} MB; "
        f"task vectors in {description(folder.config.sharing)}.",
        _privacy(folder),
        f"Phases: {seconds}.",
        f"Results: {folder.path / RESULTS_FILE}, {folder.path / SUMMARY_FILE}.",
    ]
    for target, result in results.targets.items():
        if result.final is not None:
            final = Path(result.models, Path(result.final.path).name)
            sentences.append(f"Final model of {target}, trained on all of its patients: {final}")
        sentences.append(f"Models of {target}'s folds, for evaluation: {result.models}")
    return sentences


def _number(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.3f}"
