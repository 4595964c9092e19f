"""The evaluate stage: restores held-out pairs with the published weights, measures them, and writes the report."""

import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import numpy as np

from miipher2.audio.io import read_audio
from miipher2.audio.resample import resample
from miipher2.config.paths import ROOT
from miipher2.config.schema import EvaluateConfig
from miipher2.config.schema_data import SAMPLE_RATE_HZ
from miipher2.data.eval_pairs import Pair, read_pairs
from miipher2.data.prepared import PreparedData
from miipher2.evaluation.evaluate import System, Utterance, evaluate
from miipher2.evaluation.metrics.asr import POCKETSPHINX, load_asr
from miipher2.evaluation.metrics.baseline import spectral_subtraction
from miipher2.evaluation.metrics.feature_error import Features
from miipher2.evaluation.progress import progress
from miipher2.evaluation.report import select_examples, write_report
from miipher2.evaluation.summary import Bootstrap, summarise, write_results, wrote
from miipher2.inference.restorer import Restorer

RESULTS = ROOT / "exp" / "results"
REPORT = ROOT / "exp" / "report" / "index.html"
BASELINE = "spectral_subtraction"
TRAINED = ("pre_trained", "fine_tuned")  # keys of the configuration; the last is the result that counts


def run_evaluation(config: EvaluateConfig) -> None:
    """Restore and measure the held-out utterances; write metrics, the summary, a row for each of them, and the page."""
    asr = load_asr(config.asr.model, config.asr.compute_type) if "characters" in config.metrics else POCKETSPHINX
    restorers = {
        name: Restorer.from_published(
            config.adapter, getattr(config, name), root=ROOT, device=config.device, level="model", precision="fp32"
        )
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
    utterances = {
        pair.name: _utterance(pair, final, config.snr_bands_db)
        for pair in progress(held_out.values(), len(held_out), "features")
    }
    systems: dict[str, System] = {BASELINE: lambda name: spectral_subtraction(utterances[name].degraded)}
    for name, folder in check_systems(config.systems).items():
        systems[name] = output_reader(ROOT / folder, utterances, final.sample_rate_hz, config.max_delay_seconds)
    for name, restorer in restorers.items():  # lazily: an error is then that utterance's alone
        systems[name] = partial(_restore, restorer, held_out)
    shown = progress(utterances.values(), len(utterances), "measured")
    evaluation = evaluate(shown, systems, final.sample_rate_hz, config.metrics, config.max_delay_seconds, asr)
    method = Bootstrap(config.bootstrap_resamples, config.confidence, config.seed)
    summary = summarise(evaluation, method, config.gate)
    paths = write_results(RESULTS, summary)
    examples, worst = select_examples(evaluation, utterances, systems, config.report_examples)
    about = {
        "Utterances": f"{len(utterances)} of the split {config.split} in {config.prepared}",
        "Encoder and adapter": config.adapter,
        "Vocoders": f"{config.pre_trained}, {config.fine_tuned}",
        "Command": "uv run dvc repro evaluate",
    }
    title = "Miipher-2: restored held-out speech"
    write_report(REPORT, summary, examples, worst=worst, title=title, about=about)
    sys.stdout.write(summary.text() + wrote([*paths, REPORT]))
    for row in evaluation.failures():
        sys.stderr.write(f"{row.name}: {row.reason}\n")


def check_systems(systems: Mapping[str, str]) -> Mapping[str, str]:
    """Return the folders of other systems by name.

    Raises:
        ValueError: one is not a folder, or has a reserved name.
    """
    for name, folder in systems.items():
        if "/" in name or not name.isprintable():
            raise ValueError(f"evaluate.systems: the name {name!r} should have no / or line break")
        if name in ("clean", "degraded", "improvement", BASELINE, *TRAINED):
            raise ValueError(f"evaluate.systems.{name}: the name '{name}' is reserved; should be another one")
        if not (ROOT / folder).is_dir():
            raise ValueError(f"evaluate.systems.{name}={folder}: {ROOT / folder} should be a folder")
    return systems


def output_reader(
    folder: Path, utterances: Mapping[str, Utterance], sample_rate_hz: int, max_delay_seconds: float
) -> System:
    """Return a system that reads another system's output: below `folder`, with the utterance's path, at any rate.

    It may be a WAV file where the utterance is none, and longer or shorter by the largest delay.
    """

    def read(name: str) -> np.ndarray:
        path = folder / name
        wave, rate_hz = read_audio(path if path.is_file() else path.with_suffix(".wav"))
        wave, samples = resample(wave, rate_hz, sample_rate_hz), len(utterances[name].degraded)
        if abs(len(wave) - samples) > max_delay_seconds * sample_rate_hz:
            raise ValueError(f"{len(wave) / sample_rate_hz:.2f} s; degraded has {samples / sample_rate_hz:.2f} s")
        return _fit(wave, samples)

    return read


def _restore(restorer: Restorer, held_out: Mapping[str, Pair], name: str) -> np.ndarray:
    return restorer(held_out[name].degraded, SAMPLE_RATE_HZ)


def _utterance(pair: Pair, restorer: Restorer, snr_bands_db: list[float]) -> Utterance:
    """Return a pair at the output rate, with its normalised features."""
    features = Features(
        clean=restorer.normalised_features(pair.clean, adapted=False),
        degraded=restorer.normalised_features(pair.degraded, adapted=False),
        cleaned=restorer.normalised_features(pair.degraded, adapted=True),
    )
    degraded = resample(pair.degraded, SAMPLE_RATE_HZ, restorer.sample_rate_hz)
    degraded = _fit(degraded, len(pair.target))
    return Utterance(pair.name, pair.target, degraded, features, pair.labels(snr_bands_db), pair.transcript)


def _fit(wave: np.ndarray, samples: int) -> np.ndarray:
    """Return a wave padded or cut to a length; resampling rounds lengths."""
    return np.pad(wave, (0, max(0, samples - len(wave))))[:samples]
