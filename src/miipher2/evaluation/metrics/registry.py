"""The metrics by name: the values of each, which direction is better, what it requires, and why it is skipped."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec

from miipher2.evaluation.metrics import libraries, words
from miipher2.evaluation.metrics.asr import POCKETSPHINX, Asr
from miipher2.evaluation.metrics.signals import Signal, SignalPair, SkippedMetric
from miipher2.evaluation.metrics.spectral import band_share_db, log_mel_distance, log_spectral_distance

SUBJECTS = ("words", "speaker", "quality")  # in the order in which they count


@dataclass(frozen=True)
class Value:
    """One number of a metric; `better` is "lower", "higher", or "zero" where the sign is a direction.

    `subject` is what it tells about, one of `SUBJECTS`.
    """

    label: str
    better: str
    decimals: int = 2
    subject: str = "quality"

    @property
    def title(self) -> str:
        """Return the label with an arrow to what is better."""
        return f"{self.label} {({'higher': '↑', 'lower': '↓', 'zero': '→ 0'})[self.better]}"

    def worsening(self, difference: float) -> float:
        """Return a difference with the sign that makes positive worse."""
        return -difference if self.better == "higher" else difference


@dataclass(frozen=True)
class Metric:
    """How some values are measured, and what that requires; `start` begins slow work in other threads."""

    measure: Callable[[SignalPair], dict[str, float]]
    values: dict[str, Value]
    libraries: tuple[str, ...] = ()
    needs_clean: bool = True
    min_seconds: float = 0.0
    start: Callable[[Signal], None] | None = None
    takes_transcript: bool = False  # instead of a clean recording

    def is_absolute(self, transcript: str) -> bool:
        """Return whether it measures a recording alone; then the clean one is measured too."""
        return not self.needs_clean or (self.takes_transcript and bool(transcript))


def _log_mel(pair: SignalPair) -> dict[str, float]:
    rate_hz = pair.measured.sample_rate_hz
    return {"log_mel": log_mel_distance(pair.reference.wave, pair.measured.wave, rate_hz)}


def _log_spectral_distance(pair: SignalPair) -> dict[str, float]:
    rate_hz = pair.measured.sample_rate_hz
    return {"log_spectral_distance": log_spectral_distance(pair.reference.wave, pair.measured.wave, rate_hz)}


def _bands(pair: SignalPair) -> dict[str, float]:
    """Return how much larger the share of power above 4 and 8 kHz is than in the clean recording, in dB."""
    rate_hz = pair.measured.sample_rate_hz
    return {
        f"above_{hz // 1000}_khz": band_share_db(pair.measured.wave, rate_hz, hz)
        - band_share_db(pair.reference.wave, rate_hz, hz)
        for hz in (4000, 8000)
        if rate_hz > 2 * hz
    }


# In the order of tables: words, speaker, quality, distances.
METRICS = {
    "characters": Metric(
        words.word_errors,
        {
            "character_error": Value("Character error rate", "lower", 3, "words"),
            "word_error": Value("Word error rate", "lower", 3, "words"),
        },
        (POCKETSPHINX.name, "jiwer"),
        min_seconds=0.5,
        start=words.start,
        takes_transcript=True,
    ),
    "estoi": Metric(libraries.estoi, {"estoi": Value("ESTOI", "higher", 3, "words")}, ("pystoi",), min_seconds=0.4),
    "speaker": Metric(
        libraries.speaker,
        {"speaker_cosine": Value("Speaker cosine", "higher", 3, "speaker")},
        ("resemblyzer", "webrtcvad", "librosa"),
        min_seconds=0.5,
    ),
    "pitch": Metric(
        libraries.pitch,
        {
            "pitch_error": Value("Pitch error, cents (median)", "lower", 1, "speaker"),
            "voicing_error": Value("Voicing error, share of frames", "lower", 3, "speaker"),
        },
        ("pyworld",),
        min_seconds=0.1,
    ),
    "dnsmos": Metric(
        libraries.dnsmos,
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
        libraries.distillmos,
        {"distillmos": Value("DistillMOS", "higher")},
        ("distillmos",),
        needs_clean=False,
        min_seconds=0.5,
    ),
    "pesq": Metric(libraries.pesq, {"pesq": Value("PESQ-WB", "higher")}, ("pesq",), min_seconds=0.25),
    "si_sdr": Metric(libraries.si_sdr, {"si_sdr": Value("SI-SDR, dB", "higher")}, ("torchmetrics",)),
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
}
VALUES = {name: value for metric in METRICS.values() for name, value in metric.values.items()}


def check_names(names: Sequence[str]) -> None:
    """Check that all metrics exist.

    Raises:
        ValueError: one does not.
    """
    if unknown := [name for name in names if name not in METRICS]:
        raise ValueError(f"metric '{unknown[0]}': unknown; should be one of {', '.join(METRICS)}")


def missing_library(name: str, asr: Asr = POCKETSPHINX) -> str:
    """Return the reason why a metric cannot be measured on this machine, or ""."""
    libraries = [each for each in METRICS[name].libraries if each != POCKETSPHINX.name or asr is POCKETSPHINX]
    missing = [library for library in libraries if find_spec(library) is None]
    return f"{missing[0]} is not installed; uv sync --extra metrics" if missing else ""


def start(name: str, signal: Signal) -> None:
    """Start the slow work that a metric needs of a recording; `measure` then waits only for its end."""
    metric = METRICS[name]
    if metric.start is not None and not _unsuitable(metric, signal):
        metric.start(signal)


def measure(name: str, pair: SignalPair) -> tuple[dict[str, float], dict[str, str]]:
    """Return the values of a metric, and the reason for each value that is missing.

    Values have nine digits: the last bits of a sum depend on the address of an array in memory (ESTOI's do).
    """
    metric = METRICS[name]
    reason = missing_library(name, pair.measured.asr)
    if not reason and pair.clean is None and not metric.is_absolute(pair.measured.transcript):
        reason = "there is no clean recording"
    reason = reason or _unsuitable(metric, pair.measured)
    values: dict[str, float] = {}
    if not reason:
        try:
            values = metric.measure(pair)
        except SkippedMetric as skipped:
            reason = str(skipped)
    finite = {key: float(f"{value:.9g}") for key, value in values.items() if math.isfinite(value)}
    return finite, {key: reason or _missing(key, values, pair) for key in metric.values if key not in finite}


def _unsuitable(metric: Metric, signal: Signal) -> str:
    """Return the reason why a metric cannot be measured on a recording, or ""."""
    seconds = len(signal.wave) / signal.sample_rate_hz
    if seconds < metric.min_seconds:
        return f"{seconds:.2f} s; should be at least {metric.min_seconds:g} s"
    return "silent" if metric.libraries and not signal.wave.any() else ""


def _missing(key: str, values: dict[str, float], pair: SignalPair) -> str:
    """Return the reason why one value is missing although the metric was measured."""
    if key in values:
        return f"the result is {values[key]}"
    if key == "pitch_error":
        return f"fewer than {libraries.MIN_VOICED_FRAMES} frames are voiced in both"
    if key == "word_error":
        return f"'{pair.measured.language}' is written without spaces between words"
    return f"{pair.measured.sample_rate_hz} Hz has no such frequencies"
