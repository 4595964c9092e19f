"""The tables of docs/results.md are written from the evaluation's files by one command."""

from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import pytest

from miipher2.config.paths import ROOT
from miipher2.evaluation.evaluate import Evaluation, Row
from miipher2.evaluation.summary import Bootstrap, summarise, write_results


@pytest.fixture(scope="module")
def script() -> Any:
    spec = spec_from_file_location("results_table", ROOT / "benchmarks/results_table.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_tables_contain_every_metric_system_and_verdict(script: Any, tmp_path: Path) -> None:
    values = {"estoi/degraded": 0.75, "estoi/fine_tuned": 0.5, "dnsmos_ovrl/clean": 3.25}
    values |= {"dnsmos_ovrl/degraded": 2.0, "dnsmos_ovrl/fine_tuned": 2.5}
    evaluation = Evaluation((Row("u", 1.0, values),), ("fine_tuned",), 16_000, {"pesq": "pesq is not installed"})
    write_results(tmp_path, summarise(evaluation, Bootstrap(50, 0.95, 0), {"estoi": 0.05, "pesq": 0.1}))
    tables = script.format_tables(tmp_path)
    assert "| metric | n | clean | degraded | fine tuned |" in tables
    row = "| ESTOI ↑ | 1 | – | 0.750 (0.750 to 0.750) | 0.500 (0.500 to 0.500) [-0.250: -0.250 to -0.250] |"
    assert row in tables
    assert "| DNSMOS overall ↑ | 1 | 3.25 (3.25 to 3.25) | 2.00 (2.00 to 2.00) | 2.50" in tables
    assert "| fine_tuned | estoi | +0.250 (+0.250 to +0.250) | **lost** |" in tables
    assert "| fine_tuned | pesq | – | **not measured** |" in tables
    assert "Skipped: pesq: pesq is not installed (all)." in tables


def test_only_text_between_the_marks_is_replaced(script: Any) -> None:
    page = (ROOT / "docs/results.md").read_text()
    once = script.replace_tables(page, "new tables\n")
    assert once == script.replace_tables(once, "new tables\n")
    assert page.split(script.BEGIN)[0] == once.split(script.BEGIN)[0]
    assert page.split(script.END)[1] == once.split(script.END)[1]
    with pytest.raises(ValueError, match="once each"):
        script.replace_tables("no marks", "")


def test_means_of_a_voice_are_over_utterances_that_both_systems_have(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")

    def row(name: str, degraded: float, restored: float, **more: float) -> Row:
        return Row(name, 1.0, {"estoi/degraded": degraded, "estoi/restored": restored, **more})

    rows = (
        row("en/a_man_00", 0.75, 0.5),
        row("en/a_man_01", 0.25, 0.25, **{"pitch_error/degraded": 9.0}),  # the restored one has none: not compared
        row("a_woman_00", 0.5, 0.625, **{"pitch_error/degraded": 4.0, "pitch_error/restored": 2.0}),
    )
    evaluation = Evaluation(rows, ("restored",), 16_000)
    write_results(tmp_path, summarise(evaluation, Bootstrap(50, 0.95, 0)))
    lines = import_module("mini_model").format_voices(tmp_path).splitlines()
    assert lines[2:] == [
        "| a_man | – | 0.500 to 0.375 | – | – | – | – | – |",
        "| a_woman | – | 0.500 to 0.625 | – | 4.0 to 2.0 | – | – | – |",
    ]
