"""What an evaluation found, as files: metrics for DVC, a row for each utterance, the table with intervals, the rest."""

import csv
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from miipher2.evaluation.evaluate import Evaluation
from miipher2.evaluation.metrics.registry import VALUES
from miipher2.evaluation.summary import Line, Verdict


@dataclass(frozen=True)
class Findings:
    """An evaluation with its table and what the gate says; `confidence` is that of the table's intervals."""

    evaluation: Evaluation
    lines: Sequence[Line] = ()
    verdicts: Sequence[Verdict] = ()
    confidence: float = 0.95

    def metrics(self) -> dict[str, dict[str, float | int]]:
        """Return the means, for each system how many limits of the gate it broke, and how much was skipped.

        A metric that no utterance can have counts every measurement that was due.
        """
        metrics = self.evaluation.metrics()
        lost = dict.fromkeys(self.evaluation.systems, 0)
        for verdict in self.verdicts:
            lost[verdict.system] += verdict.state == "lost"
        if self.verdicts:
            metrics["gate_lost"] = dict(lost)
        due = len(self.evaluation.utterances) * len(self.evaluation.speech)
        skipped = {name: sum(counts.values()) or due for name, counts in self.evaluation.skips().items()}
        if skipped:
            metrics["skipped"] = dict(sorted(skipped.items()))
        return metrics

    def text(self) -> str:
        """Return the table over all utterances, the gate and what was skipped, for a terminal."""
        overall = [line for line in self.lines if line.sort == "all"]
        lines = [f"{'metric':<24}{'system':<22}{'n':>4}{'mean':>10}  interval            difference to degraded"]
        for line in overall:
            decimals = VALUES[line.metric].decimals
            ends = f"[{line.value.low:.{decimals}f}, {line.value.high:.{decimals}f}]"
            change = line.difference
            told = "" if change is None else f"{change.mean:+.{decimals}f} [{change.low:+.3g}, {change.high:+.3g}]"
            mean = f"{line.value.mean:.{decimals}f}"
            lines.append(f"{line.metric:<24}{line.system:<22}{line.count:>4}{mean:>10}  {ends:<20}{told}".rstrip())
        lines += [f"gate: {each.system}: {each.metric} {each.state}" for each in self.verdicts]
        for name, reasons in self.evaluation.skips().items():
            lines += [f"skipped: {name}: {reason}{f' ({n}x)' if n else ''}" for reason, n in reasons.items()]
        return "\n".join(lines) + "\n"


def write_results(folder: Path, findings: Findings) -> None:
    """Write `evaluate.json`, `evaluate.csv`, `evaluate_table.csv` and `evaluate_details.json`."""
    folder.mkdir(parents=True, exist_ok=True)
    metrics: Any = {
        group: {name: float(f"{value:.6g}") for name, value in values.items()}
        for group, values in findings.metrics().items()
    }
    (folder / "evaluate.json").write_text(json.dumps(metrics, indent=2) + "\n")
    details = {
        "gate": [asdict(verdict) for verdict in findings.verdicts],
        "skipped": findings.evaluation.skips(),
        "failures": {row.name: row.reason for row in findings.evaluation.failures()},
        "confidence": findings.confidence,
    }
    (folder / "evaluate_details.json").write_text(json.dumps(details, indent=2) + "\n")
    write_rows(folder, findings.evaluation)
    if findings.lines:
        _write_csv(folder / "evaluate_table.csv", [line.flat() for line in findings.lines])


def write_rows(folder: Path, evaluation: Evaluation) -> None:
    """Write `evaluate.csv` alone: all that there is where no utterance could be evaluated."""
    folder.mkdir(parents=True, exist_ok=True)
    _write_csv(folder / "evaluate.csv", evaluation.rows())


def _write_csv(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
