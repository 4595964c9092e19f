"""The files of an evaluation: metrics for DVC, a row for each utterance, the summary, and the details."""

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from miipher2.evaluation.evaluate import Evaluation
from miipher2.evaluation.summary import Summary


def write_results(folder: Path, summary: Summary) -> None:
    """Write `evaluate.json`, `evaluate.csv`, `evaluate_table.csv` and `evaluate_details.json`."""
    folder.mkdir(parents=True, exist_ok=True)
    metrics: Any = {
        metric: {name: float(f"{value:.6g}") for name, value in values.items()}
        for metric, values in summary.metrics().items()
    }
    (folder / "evaluate.json").write_text(json.dumps(metrics, indent=2) + "\n")
    details = {
        "gate": [asdict(verdict) for verdict in summary.verdicts],
        "skipped": summary.evaluation.skip_counts(),
        "failures": {row.name: row.reason for row in summary.evaluation.failures()},
        "confidence": summary.confidence,
    }
    (folder / "evaluate_details.json").write_text(json.dumps(details, indent=2) + "\n")
    write_rows(folder, summary.evaluation)
    if summary.lines:
        _write_csv(folder / "evaluate_table.csv", [line.csv_row() for line in summary.lines])


def write_rows(folder: Path, evaluation: Evaluation) -> None:
    """Write `evaluate.csv` alone, for an evaluation without any counted utterance."""
    folder.mkdir(parents=True, exist_ok=True)
    _write_csv(folder / "evaluate.csv", evaluation.csv_rows())


def _write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
