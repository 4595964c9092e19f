"""The evaluate stage: wires held-out pairs, restorers, metrics and the report."""

import csv
import json
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
from omegaconf import DictConfig, OmegaConf

from miipher2 import audio
from miipher2.config import ROOT
from miipher2.data.pairs import Pair, pairs
from miipher2.data.pools import RATE_HZ
from miipher2.data.prepared import Prepared
from miipher2.evaluate import Evaluation, Features, Item, evaluate
from miipher2.report import Example, write_report
from miipher2.restoring.restorer import Restorer

RESULTS = ROOT / "exp" / "results"
REPORT = ROOT / "exp" / "report" / "index.html"
SYSTEMS = ("pre_trained", "fine_tuned")  # keys of the configuration; the last is the result that counts


def judge(config: DictConfig) -> None:
    """Restore and measure the held-out utterances, and write metrics, one row for each of them, and the page."""
    restorers = {
        name: Restorer.from_published(config.adapter, config[name], root=ROOT, device=config.device) for name in SYSTEMS
    }
    final = restorers["fine_tuned"]
    data = Prepared.read(ROOT, config.prepared)
    held_out = {
        pair.name: pair
        for pair in pairs(
            data.speech.select(config.split),
            data.pools(ROOT, "test"),
            OmegaConf.to_container(config.degradation),
            root=ROOT,
            seed=config.seed,
            count=config.utterances,
            sample_rate_hz=final.sample_rate_hz,
        )
    }
    items = [_item(pair, final) for pair in held_out.values()]
    systems = {name: _system(restorer, held_out) for name, restorer in restorers.items()}
    evaluation = evaluate(items, systems, final.sample_rate_hz)
    _write_results(evaluation)
    degraded = {item.name: item.degraded for item in items}
    examples = [
        Example(
            name,
            {
                "clean": held_out[name].target,
                "degraded": degraded[name],
                **{label: system(name) for label, system in systems.items()},
            },
        )
        for name in evaluation.spread(config.report_examples)
    ]
    about = {
        "Utterances": f"{len(items)} of the split {config.split} in {config.prepared}",
        "Encoder and adapter": config.adapter,
        "Vocoders": f"{config.pre_trained}, {config.fine_tuned}",
        "Command": "uv run dvc repro evaluate",
    }
    write_report(REPORT, evaluation, examples, title="Miipher-2: restored held-out speech", about=about)
    for row in evaluation.failures():
        sys.stderr.write(f"{row.name}: {row.reason}\n")


def _system(restorer: Restorer, held_out: dict[str, Pair]) -> Callable[[str], np.ndarray]:
    """Return what restores an utterance by its name, when it is asked to: an error is then that utterance's alone."""
    return lambda name: restorer(held_out[name].degraded, RATE_HZ)


def _item(pair: Pair, restorer: Restorer) -> Item:
    """Return a pair at the output rate, with its features in the deviations of clean speech."""
    features = Features(
        clean=restorer.normalised_features(pair.clean, adapted=False),
        degraded=restorer.normalised_features(pair.degraded, adapted=False),
        cleaned=restorer.normalised_features(pair.degraded, adapted=True),
    )
    degraded = audio.resample(pair.degraded, RATE_HZ, restorer.sample_rate_hz)
    return Item(pair.name, pair.target, _fit(degraded, len(pair.target)), features)


def _fit(wave: np.ndarray, samples: int) -> np.ndarray:
    """Return a wave of so many values: rates that do not divide round the length by one."""
    return np.pad(wave, (0, max(0, samples - len(wave))))[:samples]


def _write_results(evaluation: Evaluation) -> None:
    RESULTS.mkdir(parents=True, exist_ok=True)
    metrics: Any = {
        group: {name: float(f"{value:.6g}") for name, value in values.items()}
        for group, values in evaluation.metrics().items()
    }
    (RESULTS / "evaluate.json").write_text(json.dumps(metrics, indent=2) + "\n")
    rows = evaluation.rows()
    with (RESULTS / "evaluate.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    sys.stdout.write(json.dumps(metrics, indent=2) + "\n")
