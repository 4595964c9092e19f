"""Measures degraded and restored speech utterance by utterance. Knows arrays; no models and no files."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float

from miipher2.evaluation.metrics.asr import POCKETSPHINX, UNKNOWN, Asr
from miipher2.evaluation.metrics.feature_error import Features, error_ratios, feature_errors
from miipher2.evaluation.metrics.registry import METRICS, VALUES, check_names, measure, missing_library, start
from miipher2.evaluation.metrics.signals import Signal, SignalPair
from miipher2.evaluation.metrics.words import describe

DISTANCES = ("log_mel", "log_spectral_distance")
RANKING = ("log_mel", "dnsmos_ovrl", "distillmos")  # the first of them that all utterances have, then any other metric

# A system under evaluation: from the name of an utterance to its restored wave.
System = Callable[[str], np.ndarray]


@dataclass(frozen=True)
class Utterance:
    """One utterance to evaluate, clean (where there is such a recording) and degraded, of one rate and length.

    `labels` describe it, such as `speaker`; each may have several values, or none. `transcript` is "" where there is
    none.
    """

    name: str
    clean: Float[np.ndarray, "time"] | None
    degraded: Float[np.ndarray, "degraded_time"]
    features: Features | None = None
    labels: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    transcript: str = ""


@dataclass(frozen=True)
class Row:
    """The metrics of one utterance, named `metric/system`; `reason` says what went wrong, if anything.

    A row that is not counted lacks a wave or a usable reference, and is left out of every mean. `skipped` has the
    reason for each metric that is missing. `words` has what was recognised in each recording, by the names of columns.
    """

    name: str
    seconds: float
    values: dict[str, float]
    reason: str = ""
    is_counted: bool = True
    skipped: Mapping[str, str] = field(default_factory=dict)
    labels: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    words: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Evaluation:
    """The metrics of a set of utterances.

    Args:
        systems: in order; the last one is the result that counts.
        unavailable: the reason for each metric that cannot be measured on this machine.
        asr: what recognised the words, by name and in full.
    """

    rows: tuple[Row, ...]
    systems: tuple[str, ...]
    sample_rate_hz: int
    unavailable: Mapping[str, str] = field(default_factory=dict)
    asr: tuple[str, str] = ("", "")

    @property
    def compared(self) -> tuple[str, ...]:
        """Return the names of all that is compared with clean speech: `degraded`, then the systems."""
        return ("degraded", *self.systems)

    def means(self) -> dict[str, dict[str, float | int]]:
        """Return the means over the counted utterances, and the ratios of those means.

        A metric's means are over the utterances for which every system has it, so that systems can be compared.
        `features` holds mean squared errors and their ratio cleaned / degraded, and under `l1_` the same of absolute
        errors; `improvement` is the share by which the last system reduces the distance of the degraded speech. A ratio
        to an error of zero is left out.

        Raises:
            ValueError: no utterance could be evaluated; names the reasons.
        """
        counted, failed = self.worst_first(), sum(not row.is_counted for row in self.rows)
        if not counted:
            reasons = "; ".join(f"{row.name}: {row.reason}" for row in self.failures()[:3])
            raise ValueError(f"none of {failed} utterances could be evaluated: {reasons}")
        means: dict[str, dict[str, float | int]] = {"utterances": {"evaluated": len(counted), "failed": failed}}
        for key in dict.fromkeys(key for row in counted for key in row.values):
            metric, system = key.split("/")
            if system.endswith("ratio"):
                continue
            rows = counted if metric not in VALUES else self.paired(metric)
            if values := [row.values[key] for row in rows if key in row.values]:
                means.setdefault(metric, {})[system] = math.fsum(values) / len(values)
        if "features" in means:
            means["features"] |= error_ratios(means["features"])
        for metric in DISTANCES:
            if self.systems and means.get(metric, {}).get("degraded", 0.0) > 0.0:
                means[metric]["improvement"] = 1.0 - means[metric][self.systems[-1]] / means[metric]["degraded"]
        return means

    def csv_rows(self) -> list[dict[str, str | float]]:
        """Return one flat row for each utterance, in order; all have the same keys, a missing metric is empty."""
        columns = list(dict.fromkeys(key for row in self.rows for key in row.values))
        label_names = list(dict.fromkeys(name for row in self.rows for name in row.labels))
        word_names = list(dict.fromkeys(name for row in self.rows for name in row.words))
        lines: list[dict[str, str | float]] = []
        for row in self.rows:
            line: dict[str, str | float] = {"name": row.name, "seconds": row.seconds}
            line |= {key: row.values.get(key, "") for key in columns}
            line |= {name: "+".join(row.labels.get(name, ())) for name in label_names}
            line |= {name: row.words.get(name, "") for name in word_names}
            skipped = {**self.unavailable, **row.skipped}
            line |= {"skipped": "; ".join(f"{metric}: {reason}" for metric, reason in skipped.items())}
            lines.append(line | {"counted": "yes" if row.is_counted else "no", "reason": row.reason})
        return lines

    def paired(self, metric: str) -> tuple[Row, ...]:
        """Return the counted utterances, in order, that have a metric for degraded speech and for every system."""
        keys = [f"{metric}/{name}" for name in self.compared]
        return tuple(row for row in self.rows if row.is_counted and all(key in row.values for key in keys))

    def asr_line(self) -> str:
        """Return what recognised the words, and what they were compared with; "" where no words were measured."""
        words = [row.words for row in self.rows if row.is_counted and row.words]
        if not words:
            return ""
        transcripts = sum(bool(each["words_transcript"]) for each in words)
        parts = [f"the transcripts of {transcripts}"] if transcripts else []
        if rest := len(words) - transcripts:
            parts.append(f"the words that it recognises in the clean recordings of {rest}")
        return f"recognised by {self.asr[1]}; compared with {' and '.join(parts)} utterances"

    def skip_counts(self) -> dict[str, dict[str, int]]:
        """Return for each skipped metric how many measurements each reason cost; 0 stands for all of them."""
        counts: dict[str, dict[str, int]] = {name: {reason: 0} for name, reason in self.unavailable.items()}
        for row in self.rows:
            for key, reason in row.skipped.items():
                reasons = counts.setdefault(key.partition("/")[0], {})
                reasons[reason] = reasons.get(reason, 0) + 1
        return counts

    def failures(self) -> tuple[Row, ...]:
        """Return the utterances with which something went wrong, also those that still count."""
        return tuple(row for row in self.rows if row.reason)

    def worst_first(self) -> tuple[Row, ...]:
        """Return the counted utterances, those on which the last system is worst by `ranking_metric` first."""
        counted = [row for row in self.rows if row.is_counted]
        if (metric := self.ranking_metric) is None:
            return tuple(sorted(counted, key=lambda row: row.name))
        key, worsening = f"{metric}/{self.compared[-1]}", VALUES[metric].worsening
        return tuple(sorted(counted, key=lambda row: (-worsening(row.values[key]), row.name)))

    @property
    def ranking_metric(self) -> str | None:
        """The metric that ranks utterances: log-mel distance, or without clean recordings DNSMOS.

        None where no metric exists for every counted utterance and system.
        """
        counted = sum(row.is_counted for row in self.rows)
        names = [*RANKING, *(name for name, value in VALUES.items() if value.better != "zero")]
        return next((name for name in names if counted and len(self.paired(name)) == counted), None)

    def spread(self, count: int) -> tuple[str, ...]:
        """Return the names of at most `count` utterances from the worst to the best, evenly spaced by rank."""
        ranked = self.worst_first()
        ranks = np.linspace(0, len(ranked) - 1, min(count, len(ranked)))
        return tuple(ranked[round(rank)].name for rank in ranks)


def evaluate(
    utterances: Iterable[Utterance],
    systems: Mapping[str, System],
    sample_rate_hz: int,
    metrics: Sequence[str] = DISTANCES,
    max_delay_seconds: float = 0.1,
    asr: Asr = POCKETSPHINX,
) -> Evaluation:
    """Measure degraded and restored speech, against clean speech where there is some, utterance by utterance.

    An utterance that cannot be evaluated (different lengths, values that are not finite, silence, a system that raises
    ValueError) becomes a row with the reason. A system that returns silence is listed, and counts.

    Args:
        utterances: consumed one by one.
        systems: by name, restored waves at `sample_rate_hz`; the final system is the last.
        sample_rate_hz: of every wave.
        metrics: names in `metrics.registry.METRICS`; one whose library is missing is reported as unavailable.
        max_delay_seconds: how late or early a system may be, for metrics that align.
        asr: recognises the words, for `characters`.

    Raises:
        ValueError: there are no utterances, two have the same name, a system has a reserved name, a metric is unknown.
    """
    check_names(metrics)
    if reserved := {"degraded", "clean", "improvement"} & set(systems):
        raise ValueError(f"a system is named '{reserved.pop()}', which is reserved; should have another name")
    unavailable = {name: reason for name in metrics if (reason := missing_library(name, asr))}
    available = [name for name in metrics if name not in unavailable]
    available.sort(key=lambda name: METRICS[name].start is not None)  # what runs beside the others is waited for last
    rows: dict[str, Row] = {}
    for utterance in utterances:
        if utterance.name in rows:
            raise ValueError(f"two utterances are named '{utterance.name}'; should have different names")
        rows[utterance.name] = _evaluate_one(utterance, systems, sample_rate_hz, available, max_delay_seconds, asr)
    if not rows:
        raise ValueError("there are no utterances to evaluate; the split of the manifest should hold some")
    recogniser = (asr.name, asr.description) if "characters" in available else ("", "")
    return Evaluation(tuple(rows.values()), tuple(systems), sample_rate_hz, unavailable, recogniser)


def _evaluate_one(
    utterance: Utterance,
    systems: Mapping[str, System],
    sample_rate_hz: int,
    metrics: Sequence[str],
    max_delay_seconds: float,
    asr: Asr,
) -> Row:
    reference = utterance.degraded if utterance.clean is None else utterance.clean
    seconds = len(reference) / sample_rate_hz
    try:
        _check(reference, reference)
        if not reference.any():
            raise ValueError("silent" if utterance.clean is None else "silent, no reference")
    except ValueError as error:
        name = "degraded" if utterance.clean is None else "clean"
        return Row(utterance.name, seconds, {}, f"{name}: {error}", is_counted=False, labels=utterance.labels)
    values: dict[str, float] = {}
    skipped: dict[str, str] = {}
    failures: list[str] = []
    remarks: list[str] = []
    language = "".join(utterance.labels.get("language", ()))
    if language in UNKNOWN and "characters" in metrics:
        language = asr.detect(Signal(reference, sample_rate_hz).at_16k)
    about = (sample_rate_hz, language, utterance.transcript, asr)
    clean = None if utterance.clean is None else Signal(utterance.clean, *about)
    signals: dict[str, Signal] = {}
    for name, system in {"degraded": lambda _name: utterance.degraded, **systems}.items():
        try:
            wave = system(utterance.name)
            _check(wave, reference)
        except ValueError as error:
            failures.append(f"{name}: {error}")
            continue
        signals[name] = Signal(wave, *about)
        if not wave.any():
            # Silent input tells nothing about a system; silent output does.
            (failures if name == "degraded" else remarks).append(f"{name}: silent")

    def add(metric: str, name: str, pair: SignalPair) -> None:
        measured, reasons = measure(metric, pair)
        values.update({f"{key}/{name}": value for key, value in measured.items()})
        skipped.update({f"{key}/{name}": reason for key, reason in reasons.items()})

    absolute = [name for name in metrics if METRICS[name].is_absolute(utterance.transcript)]
    for metric in metrics if clean is not None else absolute:
        for signal in (*([] if clean is None else [clean]), *signals.values()):
            start(metric, signal)
    if clean is not None:
        for metric in absolute:
            add(metric, "clean", SignalPair(None, clean))
    for name, signal in signals.items():
        pair = SignalPair(clean, signal, max_delay_seconds)
        for metric in metrics:
            add(metric, name, pair)
        if clean is not None and any(METRICS[metric].libraries for metric in metrics):
            values[f"delay_ms/{name}"] = 1000.0 * pair.delay_samples / sample_rate_hz
    try:
        errors = {} if utterance.features is None else feature_errors(utterance.features)
        values |= {f"features/{name}": error for name, error in errors.items()}
    except ValueError as error:
        failures.append(str(error))
    reason = "; ".join(failures + remarks)
    words = describe(signals if clean is None else {"clean": clean, **signals})
    return Row(utterance.name, seconds, values, reason, not failures, skipped, utterance.labels, words)


def _check(wave: np.ndarray, reference: np.ndarray) -> None:
    """Raise ValueError where a wave cannot be compared with `reference`."""
    if wave.ndim != 1 or len(wave) == 0:
        raise ValueError(f"a wave of shape {wave.shape}; should be one channel that holds audio")
    if len(wave) != len(reference):
        raise ValueError(f"{len(wave)} values; clean has {len(reference)}")
    if not (finite := np.isfinite(wave)).all():
        raise ValueError(f"{wave[~finite][0]} at value {int(np.argmin(finite))}; should be finite")
