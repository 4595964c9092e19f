"""The table of an evaluation as Markdown, for pages and model cards."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

from miipher2.evaluation.metrics.registry import VALUES

COLUMNS = {"sort", "metric", "system", "count", "mean", "low", "high"}
COLUMNS |= {f"difference_{name}" for name in ("mean", "low", "high")}


def format_table(path: Path) -> str:
    """Return the means over all utterances of an `evaluate_table.csv`, with their intervals.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is of another form.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: missing; should be an evaluate_table.csv of the stage evaluate")
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            if missing := COLUMNS - set(reader.fieldnames or ()):
                raise ValueError(f"has no column {min(missing)}")
            lines = [line for line in reader if line["sort"] == "all"]
        if not lines:
            raise ValueError("has no line of all utterances")
        return _format(lines)
    except (ValueError, KeyError, TypeError, csv.Error) as error:
        raise ValueError(f"{path}: {error}; should be an evaluate_table.csv of the stage evaluate") from None


def _format(lines: Sequence[Mapping[str, str]]) -> str:
    names = list(dict.fromkeys(line["system"] for line in lines if line["system"] != "clean"))
    systems = ["clean", *names]
    table = f"| metric | n | {' | '.join(name.replace('_', ' ') for name in systems)} |\n"
    table += "|---" * (len(systems) + 2) + "|\n"
    for metric in dict.fromkeys(line["metric"] for line in lines):
        by_system = {line["system"]: line for line in lines if line["metric"] == metric}
        cells = " | ".join(_cell(by_system.get(name), VALUES[metric].decimals) for name in systems)
        table += f"| {VALUES[metric].title} | {by_system['degraded']['count']} | {cells} |\n"
    return table


def _cell(line: Mapping[str, str] | None, decimals: int) -> str:
    if line is None:
        return "–"
    mean, low, high = (f"{float(line[name]):.{decimals}f}" for name in ("mean", "low", "high"))
    cell = f"{mean} ({low} to {high})"
    if line["difference_mean"]:
        low, high = (f"{float(line[f'difference_{name}']):.{decimals}f}" for name in ("low", "high"))
        cell += f" [{float(line['difference_mean']):+.{decimals}f}: {low} to {high}]"
    return cell
