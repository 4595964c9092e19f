"""Update the tables of docs/results.md from the results of the stage `evaluate` in exp/results/.

uv run dvc repro && uv run python benchmarks/results_table.py
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from miipher2.config.paths import ROOT
from miipher2.evaluation.markdown import format_table

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
    details = json.loads((results / "evaluate_details.json").read_text())
    words = f"Words {details['words']}.\n\n" if details.get("words") else ""
    table = format_table(results / "evaluate_table.csv")
    return f"{table}\n{words}{_gate(details['gate'])}\n{_skipped(details['skipped'])}"


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
