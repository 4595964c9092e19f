"""What `dvc metrics diff` and `dvc plots diff` make of two evaluations: real dvc, the pipeline's own description."""

import csv
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from dvc_clone import REPOSITORY, Clone, commit, read_json

from miipher2.evaluation.evaluate import Evaluation, Row
from miipher2.evaluation.summary import Bootstrap, summarise, write_results

RESULTS = "exp/results"
SYSTEMS = ("degraded", "pre_trained", "fine_tuned")


def write(root: Path, fine_tuned: float, metrics: tuple[str, ...]) -> None:
    """Write the results of three utterances."""
    levels = dict(zip(SYSTEMS, (1.25, 1.0, fine_tuned), strict=True))
    rows = tuple(
        Row(
            f"en/u{i}.flac",
            1.0,
            {f"{metric}/{name}": level + 0.125 * i for metric in metrics for name, level in levels.items()},
            labels={"speaker": (f"s{i}",)},
        )
        for i in range(3)
    )
    evaluation = Evaluation(rows, SYSTEMS[1:], 16_000)
    write_results(root / RESULTS, summarise(evaluation, Bootstrap(50, 0.95, 0)))


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Clone:
    """Return a repository with results of one evaluation committed, and of another lying there."""
    clone = Clone(tmp_path_factory.mktemp("plots"))
    shutil.copytree(REPOSITORY / ".dvc/plots", clone.root / ".dvc/plots")
    shutil.copyfile(REPOSITORY / ".dvc/config", clone.root / ".dvc/config")
    stage = yaml.safe_load((REPOSITORY / "dvc.yaml").read_text())["stages"]["evaluate"]
    kept = {"cmd": "true", "metrics": stage["metrics"], "plots": stage["plots"]}
    (clone.root / "dvc.yaml").write_text(yaml.safe_dump({"stages": {"evaluate": kept}}, sort_keys=False))
    clone.run("git", "init", "-q", "-b", "main")
    write(clone.root, 0.75, ("log_mel", "log_spectral_distance", "estoi"))
    commit(clone, "one evaluation")
    write(clone.root, 0.5, ("log_mel", "log_spectral_distance"))  # and without a library
    return clone


def test_metrics_diff_shows_what_changed_and_nothing_else(two: Clone) -> None:
    found = json.loads(two.dvc("metrics", "diff", "--json"))[f"{RESULTS}/evaluate.json"]
    assert found["log_mel.fine_tuned"] == {"old": 0.875, "new": 0.625, "diff": -0.25}
    assert found["estoi.fine_tuned"] == {"old": 0.875, "new": None}
    assert not [name for name in found if name.endswith("degraded") and not name.startswith("estoi")]


def test_plots_diff_draws_both_revisions_of_both_plots(two: Clone) -> None:
    words = [sys.executable, "-m", "dvc", "plots", "diff", "HEAD", "--json"]
    found = json.loads(two.run(*words))
    assert "errors" not in found
    by_utterance, table_plot = (found["data"][f"{RESULTS}/{name}.csv"] for name in ("evaluate", "evaluate_table"))
    for (plot,) in (by_utterance, table_plot):
        assert sorted(plot["revisions"]) == ["HEAD", "workspace"]
        assert "<DVC_METRIC" not in json.dumps(plot["content"])
    bars: Any = by_utterance[0]["content"]
    # A name on a quantitative axis, as DVC's line plots have it, is drawn nowhere.
    assert bars["encoding"]["y"] | {"title": ""} == {"field": "name", "type": "nominal", "title": ""}
    assert bars["encoding"]["x"]["field"] == "log_mel/fine_tuned"
    drawn = {(row["rev"], row["name"]): float(row["log_mel/fine_tuned"]) for row in bars["data"]["values"]}
    assert drawn == {(rev, f"en/u{i}.flac"): 0.125 * i + low for rev, low in REVISIONS for i in range(3)}
    panels: Any = table_plot[0]["content"]
    assert panels["facet"]["field"] == "metric"
    assert panels["transform"] == [{"filter": "datum.sort === 'all'"}]
    values = [row for row in panels["data"]["values"] if row["sort"] == "all"]
    means = {(row["rev"], row["metric"], row["system"]): float(row["mean"]) for row in values}
    assert len(means) == len(values) == 3 * (3 + 2), "a point for each revision, metric and system"
    assert means["HEAD", "log_mel", "fine_tuned"] == 0.875
    assert means["workspace", "log_mel", "fine_tuned"] == 0.625
    used = {
        panels["spec"]["encoding"]["x"]["field"],
        *(each["encoding"]["y"]["field"] for each in panels["spec"]["layer"]),
    }
    assert used == {"system", "mean", "low"} <= values[0].keys()


REVISIONS = (("HEAD", 0.75), ("workspace", 0.5))


@pytest.mark.slow
def test_another_systems_output_reruns_the_evaluation_alone_and_shows_in_the_diffs(real_clone: Clone) -> None:
    names = [row["name"] for row in csv.DictReader((real_clone.root / f"{RESULTS}/evaluate.csv").open())]
    for name in names:
        (real_clone.root / "theirs" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(real_clone.root / name, real_clone.root / "theirs" / name)
    output = real_clone.experiment("+evaluate.systems.theirs=theirs")
    for stage in ("train_adapter", "pre_train_vocoder", "finetune_vocoder"):
        assert f"Stage '{stage}' didn't change, skipping" in output
    found = read_json(real_clone.root / f"{RESULTS}/evaluate.json")
    assert found["utterances"] == {"evaluated": len(names), "failed": 0}
    assert found["log_mel"]["theirs"] < 0.01 < found["log_mel"]["degraded"]
    assert real_clone.digest("exp/report/index.html").count(b"<span>Theirs</span>") == 1
    changed = json.loads(real_clone.dvc("metrics", "diff", "HEAD", "--json"))[f"{RESULTS}/evaluate.json"]
    assert changed["log_mel.theirs"] == {"old": None, "new": found["log_mel"]["theirs"]}
    assert "log_mel.fine_tuned" not in changed
    plots = json.loads(real_clone.dvc("plots", "diff", "HEAD", "--json"))
    assert "errors" not in plots
    values = plots["data"][f"{RESULTS}/evaluate_table.csv"][0]["content"]["data"]["values"]
    assert {row["rev"] for row in values if row["system"] == "theirs"} == {"workspace"}
