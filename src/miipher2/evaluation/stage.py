"""The evaluate stage: wires held-out pairs, systems, metrics and the report."""

import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import numpy as np

from miipher2.audio.io import read_audio
from miipher2.audio.resample import resample
from miipher2.config.paths import ROOT
from miipher2.config.schema import EvaluateConfig
from miipher2.config.schema_data import SAMPLE_RATE_HZ
from miipher2.data.eval_pairs import Pair, read_pairs
from miipher2.data.prepared import PreparedData
from miipher2.evaluation.bootstrap import Bootstrap
from miipher2.evaluation.evaluate import Features, Item, System, evaluate
from miipher2.evaluation.metrics.baseline import spectral_subtraction
from miipher2.evaluation.outputs import Findings, write_results
from miipher2.evaluation.report import write_report
from miipher2.evaluation.report_examples import Example
from miipher2.evaluation.report_tables import WORST
from miipher2.evaluation.summary import gate, table
from miipher2.inference.restorer import Restorer

RESULTS = ROOT / "exp" / "results"
REPORT = ROOT / "exp" / "report" / "index.html"
BASELINE = "spectral_subtraction"
TRAINED = ("pre_trained", "fine_tuned")  # keys of the configuration; the last is the result that counts


def judge(config: EvaluateConfig) -> None:
    """Restore and measure the held-out utterances, and write metrics, tables, a row for each of them, and the page."""
    restorers = {
        name: Restorer.from_published(config.adapter, getattr(config, name), root=ROOT, device=config.device)
        for name in TRAINED
    }
    final = restorers["fine_tuned"]
    data = PreparedData.read(ROOT, config.prepared)
    held_out = {
        pair.name: pair
        for pair in read_pairs(
            data.speech.select(config.split),
            data.pools(ROOT, "test"),
            config.degradation,
            root=ROOT,
            seed=config.seed,
            count=config.utterances,
            sample_rate_hz=final.sample_rate_hz,
        )
    }
    items = {pair.name: _item(pair, final, config.snr_bands_db) for pair in held_out.values()}
    systems: dict[str, System] = {BASELINE: lambda name: spectral_subtraction(items[name].degraded)}
    systems |= {
        name: others(ROOT / folder, items, final.sample_rate_hz, config.max_delay_seconds)
        for name, folder in check_systems(config.systems).items()
    }
    systems |= {name: _restored(restorer, held_out) for name, restorer in restorers.items()}
    evaluation = evaluate(items.values(), systems, final.sample_rate_hz, list(config.metrics), config.max_delay_seconds)
    chance = Bootstrap(config.bootstrap_resamples, config.confidence, config.seed)
    lines = table(evaluation, chance)
    findings = Findings(evaluation, lines, gate(evaluation, lines, config.gate), chance.confidence)
    write_results(RESULTS, findings)

    def example(name: str, labels: Iterable[str]) -> Example:
        known = {"clean": held_out[name].target, "degraded": items[name].degraded}
        return Example(name, known | {label: systems[label](name) for label in labels})

    about = {
        "Utterances": f"{len(items)} of the split {config.split} in {config.prepared}",
        "Encoder and adapter": config.adapter,
        "Vocoders": f"{config.pre_trained}, {config.fine_tuned}",
        "Command": "uv run dvc repro evaluate",
    }
    write_report(
        REPORT,
        findings,
        [example(name, systems) for name in evaluation.spread(config.report_examples)],
        worst=[example(row.name, TRAINED[-1:]) for row in evaluation.worst_first()[:WORST]],
        title="Miipher-2: restored held-out speech",
        about=about,
    )
    sys.stdout.write(findings.text())
    for row in evaluation.failures():
        sys.stderr.write(f"{row.name}: {row.reason}\n")


def _restored(restorer: Restorer, held_out: dict[str, Pair]) -> Callable[[str], np.ndarray]:
    """Return what restores an utterance by its name, when it is asked to: an error is then that utterance's alone."""
    return lambda name: restorer(held_out[name].degraded, SAMPLE_RATE_HZ)


def check_systems(systems: Mapping[str, str]) -> Mapping[str, str]:
    """Return the other systems' folders by name.

    Raises:
        ValueError: one is no folder, or has the name of what is measured anyway.
    """
    for name, folder in systems.items():
        if name in ("clean", "degraded", "improvement", BASELINE, *TRAINED):
            raise ValueError(f"evaluate.systems.{name}: there is a system '{name}' already; give it another name")
        if not (ROOT / folder).is_dir():
            raise ValueError(f"evaluate.systems.{name}={folder}: {ROOT / folder} is no folder")
    return systems


def others(
    folder: Path, items: Mapping[str, Item], sample_rate_hz: int, max_delay_seconds: float
) -> Callable[[str], np.ndarray]:
    """Return what reads another system's output: the file below `folder` with an utterance's path, at any rate.

    It may be a WAV file where the utterance is none, and as much longer or shorter as a system may be late.
    """

    def read(name: str) -> np.ndarray:
        path = folder / name
        wave, rate_hz = read_audio(path if path.is_file() else path.with_suffix(".wav"))
        wave, wanted = resample(wave, rate_hz, sample_rate_hz), len(items[name].degraded)
        if abs(len(wave) - wanted) > max_delay_seconds * sample_rate_hz:
            raise ValueError(f"{len(wave) / sample_rate_hz:.2f} s; degraded has {wanted / sample_rate_hz:.2f} s")
        return _fit(wave, wanted)

    return read


def _item(pair: Pair, restorer: Restorer, snr_bands_db: list[float]) -> Item:
    """Return a pair at the output rate, with its features in the deviations of clean speech."""
    features = Features(
        clean=restorer.normalised_features(pair.clean, adapted=False),
        degraded=restorer.normalised_features(pair.degraded, adapted=False),
        cleaned=restorer.normalised_features(pair.degraded, adapted=True),
    )
    degraded = resample(pair.degraded, SAMPLE_RATE_HZ, restorer.sample_rate_hz)
    return Item(pair.name, pair.target, _fit(degraded, len(pair.target)), features, pair.labels(snr_bands_db))


def _fit(wave: np.ndarray, samples: int) -> np.ndarray:
    """Return a wave of so many values: rates that do not divide round the length by one."""
    return np.pad(wave, (0, max(0, samples - len(wave))))[:samples]
