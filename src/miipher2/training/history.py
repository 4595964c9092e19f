"""history.csv: one row for each step that was logged or validated, and the same text for the checkpoint."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from miipher2.atomic_io import write_atomically


class History:
    """The metrics of a run so far.

    Args:
        columns: all metrics, in the order of the file.
        path: the file, written anew now and appended to; None keeps the text in memory alone.
        text: the file up to the step resumed from; "" on a fresh start.
    """

    def __init__(self, columns: Sequence[str], *, path: Path | None, text: str = "") -> None:
        self.columns, self.path = tuple(columns), path
        self.text = text or ",".join(("step", *columns)) + "\n"
        if path is not None:
            write_atomically(path, self.text.encode())

    def append(self, step: int, metrics: dict[str, float]) -> None:
        """Add one step's metrics; without any, do nothing."""
        if not metrics:
            return
        unknown = sorted(set(metrics) - set(self.columns))
        assert not unknown, f"metrics {unknown} are not among the recipe's metric_names"
        row = io.StringIO()
        cells = [f"{metrics[name]:.9g}" if name in metrics else "" for name in self.columns]
        csv.writer(row, lineterminator="\n").writerow([step, *cells])
        self.text += row.getvalue()
        if self.path is not None:
            with self.path.open("a") as file:
                file.write(row.getvalue())
