"""The summary of an evaluation: means with bootstrap intervals, in all and by label, the gate; CSV and JSON files."""

import csv
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import bootstrap

from miipher2.evaluation.evaluate import Evaluation, Row
from miipher2.evaluation.metrics.registry import SUBJECTS, VALUES
from miipher2.rng import stream

STATES = ("lost", "unsure", "kept", "not measured")  # of the gate, the worst first


@dataclass(frozen=True)
class Interval:
    """A mean and the ends of its confidence interval; of a single value, both ends are the mean."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Bootstrap:
    """How intervals are computed: the number of resamples, the confidence and the seed."""

    resamples: int
    confidence: float
    seed: int

    def interval(self, values: Sequence[float]) -> Interval:
        """Return the percentile interval of the mean; every call resamples the same utterances.

        For the difference between two systems, pass the difference for each utterance.
        """
        numbers = np.asarray(values, np.float64)
        mean = float(numbers.mean())
        if len(numbers) < 2:
            return Interval(mean, mean, mean)
        ends = bootstrap(
            (numbers,),
            np.mean,
            n_resamples=self.resamples,
            confidence_level=self.confidence,
            method="percentile",
            rng=stream(self.seed, "bootstrap"),
        ).confidence_interval
        return Interval(mean, float(ends.low), float(ends.high))


@dataclass(frozen=True)
class Line:
    """One metric of one system over the utterances with one label.

    Args:
        label_name, label: such as "language" and "en"; both "all" for all utterances.
        difference: paired, to the degraded speech; of distances from zero where a metric is best at zero.
    """

    label_name: str
    label: str
    metric: str
    system: str
    count: int
    value: Interval
    difference: Interval | None

    @property
    def direction(self) -> str:
        """Return "better" or "worse" where the interval of the difference excludes 0, else "even"."""
        if self.difference is None:
            return "even"
        worsening = VALUES[self.metric].worsening
        low, high = sorted((worsening(self.difference.low), worsening(self.difference.high)))
        return "worse" if low > 0 else "better" if high < 0 else "even"

    def csv_row(self) -> dict[str, str | int | float]:
        """Return the line of a CSV file."""
        return {
            "sort": self.label_name,
            "label": self.label,
            "metric": self.metric,
            "system": self.system,
            "count": self.count,
            **_rounded(self.value),
            **{f"difference_{name}": value for name, value in _rounded(self.difference).items()},
        }


@dataclass(frozen=True)
class Verdict:
    """The gate's result for one system and metric.

    `state` is "lost" where the mean loss exceeds the limit, "unsure" where only the interval of the loss does, else
    "kept"; "not measured" where no utterance has the metric for every system, which is said of the last system alone.
    """

    system: str
    metric: str
    limit: float
    state: str
    loss: Interval | None


@dataclass(frozen=True)
class Summary:
    """An evaluation with its means and the gate's verdicts; `confidence` is that of the intervals."""

    evaluation: Evaluation
    lines: Sequence[Line] = ()
    verdicts: Sequence[Verdict] = ()
    confidence: float = 0.95

    def overall(self) -> list[Line]:
        """Return the lines over all utterances."""
        return [line for line in self.lines if line.label_name == "all"]

    def gate_states(self, system: str) -> dict[str, tuple[str, ...]]:
        """Return which of words, speaker and quality a system has lost, might have lost, keeps, or have no measure.

        A subject is as its worst metric is, and not measured only where none of its metrics is.
        """
        states: dict[str, tuple[str, ...]] = {}
        for subject in SUBJECTS:
            found = {
                verdict.state
                for verdict in self.verdicts
                if verdict.system == system and VALUES[verdict.metric].subject == subject
            }
            if found:
                worst = min(found, key=STATES.index)
                states[worst] = (*states.get(worst, ()), subject)
        return {state: states[state] for state in STATES if state in states}

    def metrics(self) -> dict[str, dict[str, float | int]]:
        """Return the means, how many limits of the gate each system exceeds, and how many measurements were skipped."""
        metrics = self.evaluation.means()
        if self.verdicts:
            lost = [verdict.system for verdict in self.verdicts if verdict.state == "lost"]
            metrics["gate_lost"] = {system: lost.count(system) for system in self.evaluation.systems}
        all_measurements = len(self.evaluation.rows) * len(self.evaluation.compared)
        skipped = self.evaluation.skip_counts()
        if skipped:
            metrics["skipped"] = {name: sum(skipped[name].values()) or all_measurements for name in sorted(skipped)}
        return metrics

    def text(self) -> str:
        """Return the means over all utterances, the skipped metrics and the gate, for a terminal."""
        lines = [
            f"{'metric':<24}{'better':<8}{'system':<22}{'n':>4}{'mean':>10}  interval            difference to degraded"
        ]
        for line in self.overall():
            decimals = VALUES[line.metric].decimals
            mean, low, high = (
                f"{number:.{decimals}f}" for number in (line.value.mean, line.value.low, line.value.high)
            )
            change = ""
            if line.difference is not None:
                difference = line.difference
                change = f"{difference.mean:+.{decimals}f} [{difference.low:+.3g}, {difference.high:+.3g}]"
                change += f"  {line.direction}" if line.direction != "even" else ""
            interval = f"[{low}, {high}]"
            lines.append(
                f"{line.metric:<24}{VALUES[line.metric].better:<8}{line.system:<22}{line.count:>4}{mean:>10}  "
                f"{interval:<20}{change}".rstrip()
            )
        lines += [f"words: {self.evaluation.asr_line()}"] if self.evaluation.asr_line() else []
        for name, reasons in self.evaluation.skip_counts().items():
            lines += [f"skipped: {name}: {reason}{f' ({n}x)' if n else ''}" for reason, n in reasons.items()]
        for verdict in self.verdicts:
            loss = "" if verdict.loss is None else f" (loss {verdict.loss.mean:+.3g}, at most {verdict.limit:g})"
            lines.append(f"gate: {verdict.system}: {verdict.metric} {verdict.state}{loss}")
        for system in self.evaluation.systems[-1:]:
            states = self.gate_states(system)
            text = "; ".join(f"{', '.join(subjects)} {state}" for state, subjects in states.items())
            lines += [f"gate: {system} against degraded: {text}"] if states else []
        return "\n".join(lines) + "\n"


def summarise(evaluation: Evaluation, method: Bootstrap, limits: Mapping[str, float] | None = None) -> Summary:
    """Return the summary of an evaluation.

    Args:
        limits: of the gate: metric → the largest acceptable mean loss against the degraded speech, in its unit.

    Raises:
        ValueError: a limit is negative or for an unknown metric.
    """
    lines = list(_lines("all", "all", evaluation, evaluation.rows, method))
    for label_name in dict.fromkeys(name for row in evaluation.rows for name in row.labels):
        for label in sorted({label for row in evaluation.rows for label in row.labels.get(label_name, ())}):
            rows = [row for row in evaluation.rows if label in row.labels.get(label_name, ())]
            lines += _lines(label_name, label, evaluation, rows, method)
    return Summary(evaluation, lines, apply_gate(evaluation, lines, limits or {}), method.confidence)


def apply_gate(evaluation: Evaluation, lines: Iterable[Line], limits: Mapping[str, float]) -> list[Verdict]:
    """Return for each system whether it keeps what the limits protect; see `summarise`."""
    for metric, limit in limits.items():
        if metric not in VALUES or limit < 0:
            raise ValueError(f"gate.{metric}={limit}; should be a loss of at least 0 of one of {', '.join(VALUES)}")
    overall = {(line.metric, line.system): line for line in lines if line.label_name == "all"}
    ordered = sorted(limits, key=list(VALUES).index)  # words first, then speaker, then quality
    verdicts = [
        _verdict(overall.get((metric, system)), system, metric, limits[metric])
        for system in evaluation.systems
        for metric in ordered
    ]
    return [each for each in verdicts if each.loss is not None or each.system == evaluation.systems[-1]]


def _rounded(interval: Interval | None) -> dict[str, float | str]:
    if interval is None:
        return {"mean": "", "low": "", "high": ""}
    return {name: float(f"{value:.6g}") for name, value in asdict(interval).items()}


def _verdict(line: Line | None, system: str, metric: str, limit: float) -> Verdict:
    if line is None or line.difference is None:
        return Verdict(system, metric, limit, "not measured", None)
    worsening = VALUES[metric].worsening
    ends = sorted(worsening(end) for end in (line.difference.low, line.difference.high))
    loss = Interval(worsening(line.difference.mean), *ends)
    state = "lost" if loss.mean > limit else "unsure" if loss.high > limit else "kept"
    return Verdict(system, metric, limit, state, loss)


def _lines(
    label_name: str, label: str, evaluation: Evaluation, rows: Sequence[Row], method: Bootstrap
) -> Iterable[Line]:
    names = {row.name for row in rows}
    for metric, value in VALUES.items():
        paired = [row for row in evaluation.paired(metric) if row.name in names]
        if not paired:
            continue
        if all(f"{metric}/clean" in row.values for row in paired):
            clean = method.interval([row.values[f"{metric}/clean"] for row in paired])
            yield Line(label_name, label, metric, "clean", len(paired), clean, None)
        before = [row.values[f"{metric}/degraded"] for row in paired]
        for system in evaluation.compared:
            after = [row.values[f"{metric}/{system}"] for row in paired]
            size = abs if value.better == "zero" else float
            changes = [size(new) - size(old) for new, old in zip(after, before, strict=True)]
            difference = None if system == "degraded" else method.interval(changes)
            yield Line(label_name, label, metric, system, len(paired), method.interval(after), difference)


def write_results(folder: Path, summary: Summary) -> list[Path]:
    """Write `evaluate.json`, `evaluate_details.json`, `evaluate.csv` and `evaluate_table.csv`; return their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    metrics: Any = {
        metric: {name: float(f"{value:.6g}") for name, value in values.items()}
        for metric, values in summary.metrics().items()
    }
    details = {
        "gate": [asdict(verdict) for verdict in summary.verdicts],
        "gate_states": {system: summary.gate_states(system) for system in summary.evaluation.systems},
        "words": summary.evaluation.asr_line(),
        "skipped": summary.evaluation.skip_counts(),
        "failures": {row.name: row.reason for row in summary.evaluation.failures()},
        "confidence": summary.confidence,
    }
    paths = [folder / "evaluate.json", folder / "evaluate_details.json"]
    for path, content in zip(paths, (metrics, details), strict=True):
        path.write_text(json.dumps(content, indent=2) + "\n")
    paths += write_rows(folder, summary.evaluation)
    if summary.lines:
        paths.append(_write_csv(folder / "evaluate_table.csv", [line.csv_row() for line in summary.lines]))
    return paths


def write_rows(folder: Path, evaluation: Evaluation) -> list[Path]:
    """Write `evaluate.csv` alone, for an evaluation without any counted utterance; return its path."""
    folder.mkdir(parents=True, exist_ok=True)
    return [_write_csv(folder / "evaluate.csv", evaluation.csv_rows())]


def wrote(paths: Iterable[Path]) -> str:
    """Return a line for each written file."""
    return "".join(f"wrote {path}\n" for path in paths)


def _write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    with path.open("w", newline="", encoding="utf-8", errors="backslashreplace") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return path
