"""The metrics by name: what each gives, which way is better, what it needs, and why it is skipped where it is."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec

from miipher2.evaluation.metrics import libraries as judges
from miipher2.evaluation.metrics.signals import Skipped, Sounds, Voice
from miipher2.evaluation.metrics.spectral import band_share_db, log_mel_distance, log_spectral_distance


@dataclass(frozen=True)
class Value:
    """One number that a metric gives; `better` is lower, higher, or zero where the sign tells the direction."""

    label: str
    better: str
    decimals: int = 2

    def worse_by(self, difference: float) -> float:
        """Return a difference so that positive is worse."""
        return -difference if self.better == "higher" else difference


@dataclass(frozen=True)
class Metric:
    """How some values are measured, and what that needs; `begin` starts what takes long, in other processes."""

    measure: Callable[[Sounds], dict[str, float]]
    values: dict[str, Value]
    libraries: tuple[str, ...] = ()
    needs_clean: bool = True
    min_seconds: float = 0.0
    begin: Callable[[Voice], None] | None = None


def _log_mel(sounds: Sounds) -> dict[str, float]:
    return {"log_mel": log_mel_distance(sounds.reference.wave, sounds.other.wave, sounds.other.sample_rate_hz)}


def _log_spectral_distance(sounds: Sounds) -> dict[str, float]:
    rate_hz = sounds.other.sample_rate_hz
    return {"log_spectral_distance": log_spectral_distance(sounds.reference.wave, sounds.other.wave, rate_hz)}


def _bands(sounds: Sounds) -> dict[str, float]:
    """Return how much larger the share of power above 4 and 8 kHz is than in the clean recording, in dB."""
    rate_hz = sounds.other.sample_rate_hz
    return {
        f"above_{hz // 1000}_khz": band_share_db(sounds.other.wave, rate_hz, hz)
        - band_share_db(sounds.reference.wave, rate_hz, hz)
        for hz in (4000, 8000)
        if rate_hz > 2 * hz
    }


METRICS = {
    "log_mel": Metric(_log_mel, {"log_mel": Value("Log-mel distance", "lower", 3)}),
    "log_spectral_distance": Metric(
        _log_spectral_distance, {"log_spectral_distance": Value("Log-spectral distance, dB", "lower")}
    ),
    "bands": Metric(
        _bands,
        {
            "above_4_khz": Value("Power above 4 kHz against clean, dB", "zero"),
            "above_8_khz": Value("Power above 8 kHz against clean, dB", "zero"),
        },
    ),
    "si_sdr": Metric(judges.si_sdr, {"si_sdr": Value("SI-SDR, dB", "higher")}, ("torchmetrics",)),
    "estoi": Metric(judges.estoi, {"estoi": Value("ESTOI", "higher", 3)}, ("pystoi",), min_seconds=0.4),
    "pesq": Metric(judges.pesq, {"pesq": Value("PESQ-WB", "higher")}, ("pesq",), min_seconds=0.25),
    "pitch": Metric(
        judges.pitch,
        {
            "pitch_error": Value("Pitch error, cents (median)", "lower", 1),
            "voicing_error": Value("Voicing error, share of frames", "lower", 3),
        },
        ("pyworld",),
        min_seconds=0.1,
    ),
    "dnsmos": Metric(
        judges.dnsmos,
        {
            "dnsmos_ovrl": Value("DNSMOS overall", "higher"),
            "dnsmos_sig": Value("DNSMOS signal", "higher"),
            "dnsmos_bak": Value("DNSMOS background", "higher"),
            "dnsmos_p808": Value("DNSMOS P.808", "higher"),
        },
        ("speechmos", "onnxruntime", "librosa"),
        needs_clean=False,
        min_seconds=0.5,
    ),
    "distillmos": Metric(
        judges.distillmos,
        {"distillmos": Value("DistillMOS", "higher")},
        ("distillmos",),
        needs_clean=False,
        min_seconds=0.5,
    ),
    "speaker": Metric(
        judges.speaker,
        {"speaker_cosine": Value("Speaker cosine", "higher", 3)},
        ("resemblyzer", "webrtcvad", "librosa"),
        min_seconds=0.5,
    ),
    "characters": Metric(
        judges.characters,
        {"character_error": Value("Character error of a weak recogniser", "lower", 3)},
        ("pocketsphinx", "jiwer"),
        min_seconds=0.5,
        begin=judges.listen,
    ),
}
VALUES = {name: value for metric in METRICS.values() for name, value in metric.values.items()}


def check_names(names: Sequence[str]) -> None:
    """Raise ValueError where a metric is not known."""
    if unknown := [name for name in names if name not in METRICS]:
        raise ValueError(f"metric '{unknown[0]}' is not known; it should be one of {', '.join(METRICS)}")


def missing_library(name: str) -> str:
    """Return the reason why no file can have this metric, or ""."""
    missing = [library for library in METRICS[name].libraries if find_spec(library) is None]
    return f"{missing[0]} is not installed; uv sync --extra metrics" if missing else ""


def begin(name: str, voice: Voice) -> None:
    """Start what a metric needs of a recording and takes long; `measure` then waits for the rest of it only."""
    metric = METRICS[name]
    if metric.begin is not None and not _unfit(metric, voice):
        metric.begin(voice)


def measure(name: str, sounds: Sounds) -> tuple[dict[str, float], dict[str, str]]:
    """Return a metric's values, and for each of its values that cannot be had the reason.

    Values have nine digits: where an array lies in memory decides the last bits of a sum, in ESTOI's for one.
    """
    metric = METRICS[name]
    reason = missing_library(name)
    if not reason and metric.needs_clean and sounds.clean is None:
        reason = "there is no clean recording"
    reason = reason or _unfit(metric, sounds.other)
    values: dict[str, float] = {}
    if not reason:
        try:
            values = metric.measure(sounds)
        except Skipped as skipped:
            reason = str(skipped)
    kept = {key: float(f"{value:.9g}") for key, value in values.items() if math.isfinite(value)}
    skipped_values = {key: reason or _why(key, values, sounds) for key in metric.values if key not in kept}
    return kept, skipped_values


def _unfit(metric: Metric, voice: Voice) -> str:
    """Return the reason why a recording cannot have a metric, or ""."""
    seconds = len(voice.wave) / voice.sample_rate_hz
    if seconds < metric.min_seconds:
        return f"{seconds:.2f} s; it needs {metric.min_seconds:g} s"
    return "silent" if metric.libraries and not voice.wave.any() else ""


def _why(key: str, values: dict[str, float], sounds: Sounds) -> str:
    if key in values:
        return f"gives {values[key]}"
    if key == "pitch_error":
        return "hardly a frame is voiced in both"
    return f"{sounds.other.sample_rate_hz} Hz holds nothing so high"
