"""Update the tables of docs/results.md from the results of the stage `evaluate` in exp/results/.

uv run dvc repro && uv run python benchmarks/results_table.py
"""

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from miipher2.config.paths import ROOT
from miipher2.evaluation.metrics.registry import VALUES

BEGIN, END = "<!-- tables: benchmarks/results_table.py -->", "<!-- end of tables -->"


def main() -> None:
    """Replace the text between the two marks."""
    page = ROOT / "docs" / "results.md"
    page.write_text(replace_tables(page.read_text(), format_tables(ROOT / "exp" / "results")))
    print(f"wrote {page}")


def replace_tables(text: str, tables: str, begin: str = BEGIN, end: str = END) -> str:
    """Return a page with other text between two marks.

    Raises:
        ValueError: the page does not have each mark once.
    """
    if text.count(begin) != 1 or text.count(end) != 1:
        raise ValueError(f"the page should have '{begin}' and '{end}' once each")
    before, rest = text.split(begin)
    return f"{before}{begin}\n\n{tables}\n{end}{rest.split(end)[1]}"


def format_tables(results: Path) -> str:
    """Return every metric with its intervals, the gate and the skipped metrics, as Markdown."""
    with (results / "evaluate_table.csv").open(newline="") as file:
        lines = [line for line in csv.DictReader(file) if line["sort"] == "all"]
    details = json.loads((results / "evaluate_details.json").read_text())
    words = f"Words {details['words']}.\n\n" if details.get("words") else ""
    return f"{_metrics(lines)}\n{words}{_gate(details['gate'])}\n{_skipped(details['skipped'])}"


def _metrics(lines: Sequence[Mapping[str, str]]) -> str:
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


def _gate(verdicts: Sequence[Mapping[str, Any]]) -> str:
    limits = ", ".join(f"{each['metric']} {each['limit']:g}" for each in {v["metric"]: v for v in verdicts}.values())
    table = f"The gate (what a system may lose against degraded: {limits}):\n\n"
    table += "| system | metric | mean loss | verdict |\n|---|---|---|---|\n"
    for each in verdicts:
        loss = each["loss"]
        text = "–" if loss is None else f"{loss['mean']:+.3f} ({loss['low']:+.3f} to {loss['high']:+.3f})"
        table += f"| {each['system']} | {each['metric']} | {text} | **{each['state']}** |\n"
    return table


def _skipped(skipped: Mapping[str, Mapping[str, int]]) -> str:
    each = [f"{name}: {why} ({n or 'all'})" for name, reasons in skipped.items() for why, n in reasons.items()]
    return f"Skipped: {'; '.join(each) or 'nothing'}.\n"


if __name__ == "__main__":
    main()
