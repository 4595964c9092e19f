"""How good degraded and restored speech are, utterance by utterance. Knows arrays; no models, no files."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float

from miipher2.evaluation.metrics.feature_error import Features, feature_errors, ratios
from miipher2.evaluation.metrics.registry import METRICS, VALUES, begin, check_names, measure, missing_library
from miipher2.evaluation.metrics.signals import Sounds, Voice

DISTANCES = ("log_mel", "log_spectral_distance")
RANKING = ("log_mel", "dnsmos_ovrl", "distillmos")  # what tells the worst utterances; then any other metric

# A system under evaluation: the name of an utterance in, its restored wave out.
System = Callable[[str], np.ndarray]


@dataclass(frozen=True)
class Item:
    """One utterance to evaluate, clean (where there is such a recording) and degraded, at one rate and equally long.

    `labels` say what it is, such as `speaker`; an utterance may have several of a sort, or none.
    """

    name: str
    clean: Float[np.ndarray, "time"] | None
    degraded: Float[np.ndarray, "degraded_time"]
    features: Features | None = None
    labels: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class Row:
    """One utterance's metrics, named `group/name`; `reason` says what went wrong, and is empty where nothing did.

    A row that is not counted lacks a wave or a sound reference, and is left out of every mean. `skipped` says why a
    metric is not among the values of a row.
    """

    name: str
    seconds: float
    values: dict[str, float]
    reason: str = ""
    is_counted: bool = True
    skipped: Mapping[str, str] = field(default_factory=dict)
    labels: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class Evaluation:
    """Metrics of a set of utterances; `systems` in the order given, the last one being the result that counts."""

    utterances: tuple[Row, ...]
    systems: tuple[str, ...]
    sample_rate_hz: int
    unavailable: Mapping[str, str] = field(default_factory=dict)  # metric -> why no utterance has it

    @property
    def speech(self) -> tuple[str, ...]:
        """Return the names of what is compared with clean speech: `degraded`, then the systems."""
        return ("degraded", *self.systems)

    def metrics(self) -> dict[str, dict[str, float | int]]:
        """Return the means over the counted utterances, and the ratios of those means.

        A metric's means are of the utterances for which every system has it, so that they can be compared.
        `features` holds mean squared errors and their ratio cleaned / degraded, and the same of absolute errors under
        `l1_`; `improvement` is the share by which the last system lowers the distance of the degraded speech. A ratio
        to an error of zero does not exist and is left out.

        Raises:
            ValueError: no utterance could be evaluated; names the reasons.
        """
        counted, failed = self.worst_first(), sum(not row.is_counted for row in self.utterances)
        if not counted:
            reasons = "; ".join(f"{row.name}: {row.reason}" for row in self.failures()[:3])
            raise ValueError(f"none of {failed} utterances could be evaluated: {reasons}")
        grouped: dict[str, dict[str, float | int]] = {"utterances": {"evaluated": len(counted), "failed": failed}}
        for metric in dict.fromkeys(metric for row in counted for metric in row.values):
            group, name = metric.split("/")
            if not name.endswith("ratio"):
                rows = counted if group not in VALUES else self.paired(group)
                values = [row.values[metric] for row in rows if metric in row.values]
                if not values:
                    continue
                grouped.setdefault(group, {})[name] = math.fsum(values) / len(values)
        if "features" in grouped:
            grouped["features"] |= ratios(grouped["features"])
        for group in DISTANCES:
            if self.systems and grouped.get(group, {}).get("degraded", 0.0) > 0.0:
                grouped[group]["improvement"] = 1.0 - grouped[group][self.systems[-1]] / grouped[group]["degraded"]
        return grouped

    def rows(self) -> list[dict[str, str | float]]:
        """Return one flat row for each utterance, in the order evaluated: the lines of a CSV file.

        Every row has every key; a metric that could not be computed is an empty string.
        """
        columns = list(dict.fromkeys(metric for row in self.utterances for metric in row.values))
        sorts = list(dict.fromkeys(sort for row in self.utterances for sort in row.labels))
        rows: list[dict[str, str | float]] = [{"name": row.name, "seconds": row.seconds} for row in self.utterances]
        for line, row in zip(rows, self.utterances, strict=True):
            line |= {metric: row.values.get(metric, "") for metric in columns}
            line |= {sort: "+".join(row.labels.get(sort, ())) for sort in sorts}
            skipped = {**self.unavailable, **row.skipped}
            line |= {"skipped": "; ".join(f"{metric}: {reason}" for metric, reason in skipped.items())}
            line |= {"counted": "yes" if row.is_counted else "no", "reason": row.reason}
        return rows

    def paired(self, group: str) -> tuple[Row, ...]:
        """Return the counted utterances, in order, that have a metric's value for degraded speech and every system."""
        wanted = [f"{group}/{name}" for name in self.speech]
        return tuple(row for row in self.utterances if row.is_counted and all(key in row.values for key in wanted))

    def skips(self) -> dict[str, dict[str, int]]:
        """Return for every metric that was skipped how many measurements each reason cost; 0: all of them."""
        found: dict[str, dict[str, int]] = {name: {reason: 0} for name, reason in self.unavailable.items()}
        for row in self.utterances:
            for metric, reason in row.skipped.items():
                counts = found.setdefault(metric.partition("/")[0], {})
                counts[reason] = counts.get(reason, 0) + 1
        return found

    def failures(self) -> tuple[Row, ...]:
        """Return the utterances with which something went wrong, also those that still count."""
        return tuple(row for row in self.utterances if row.reason)

    def worst_first(self) -> tuple[Row, ...]:
        """Return the counted utterances, those on which the last system is worst by `ranked_by` first."""
        counted = [row for row in self.utterances if row.is_counted]
        if (metric := self.ranked_by) is None:
            return tuple(sorted(counted, key=lambda row: row.name))
        key, worse_by = f"{metric}/{self.speech[-1]}", VALUES[metric].worse_by
        return tuple(sorted(counted, key=lambda row: (-worse_by(row.values[key]), row.name)))

    @property
    def ranked_by(self) -> str | None:
        """The metric that tells which utterances are worst: log-mel distance, without clean recordings DNSMOS.

        None where no metric could be had for every counted utterance and system.
        """
        counted = sum(row.is_counted for row in self.utterances)
        names = [*RANKING, *(name for name, value in VALUES.items() if value.better != "zero")]
        return next((name for name in names if counted and len(self.paired(name)) == counted), None)

    def spread(self, count: int) -> tuple[str, ...]:
        """Return the names of at most `count` utterances from the worst to the best, evenly spaced between them."""
        ordered = self.worst_first()
        places = np.linspace(0, len(ordered) - 1, min(count, len(ordered)))
        return tuple(ordered[round(place)].name for place in places)


def evaluate(
    items: Iterable[Item],
    systems: Mapping[str, System],
    sample_rate_hz: int,
    metrics: Sequence[str] = DISTANCES,
    max_delay_seconds: float = 0.1,
) -> Evaluation:
    """Measure degraded and restored speech, against clean speech where there is some, utterance by utterance.

    An utterance that cannot be evaluated (unequal lengths, values that are not finite, silence, a system that raises
    ValueError) becomes a row with the reason, and the others go on. A system that answers with silence is listed, and
    counts.

    Args:
        items: consumed one by one, each let go of after its row.
        systems: name → restored wave at `sample_rate_hz`, the final system last; none is named "degraded".
        sample_rate_hz: the rate of every wave.
        metrics: of `metrics.registry.METRICS`; one whose library is missing is noted as unavailable.
        max_delay_seconds: how late or early a system may be, for metrics that align.

    Raises:
        ValueError: there are no items, two have one name, a system has a name that metrics use, a metric is unknown.
    """
    check_names(metrics)
    if taken := {"degraded", "clean", "improvement"} & set(systems):
        raise ValueError(f"a system is named '{taken.pop()}', which metrics use; give it another name")
    unavailable = {name: reason for name in metrics if (reason := missing_library(name))}
    measured = [name for name in metrics if name not in unavailable]
    rows: dict[str, Row] = {}
    for item in items:
        if item.name in rows:
            raise ValueError(f"two utterances are named '{item.name}'; every utterance needs its own name")
        rows[item.name] = _evaluate_one(item, systems, sample_rate_hz, measured, max_delay_seconds)
    if not rows:
        raise ValueError("there are no utterances to evaluate; name a split of the manifest that holds some")
    return Evaluation(tuple(rows.values()), tuple(systems), sample_rate_hz, unavailable)


def _evaluate_one(
    item: Item, systems: Mapping[str, System], sample_rate_hz: int, metrics: Sequence[str], max_delay_seconds: float
) -> Row:
    seconds = len(item.degraded if item.clean is None else item.clean) / sample_rate_hz
    reference = item.degraded if item.clean is None else item.clean
    values: dict[str, float] = {}
    skipped: dict[str, str] = {}
    failures: list[str] = []
    remarks: list[str] = []
    try:
        _check(reference, reference)
        if not reference.any():
            raise ValueError("silent, no reference" if item.clean is not None else "silent")
    except ValueError as error:
        named = "degraded" if item.clean is None else "clean"
        return Row(item.name, seconds, {}, f"{named}: {error}", is_counted=False, labels=item.labels)
    language = "".join(item.labels.get("language", ()))
    clean = None if item.clean is None else Voice(item.clean, sample_rate_hz, language)
    voices: dict[str, Voice] = {}
    for name, system in {"degraded": lambda _name: item.degraded, **systems}.items():
        try:
            wave = system(item.name)
            _check(wave, reference)
        except ValueError as error:
            failures.append(f"{name}: {error}")
            continue
        voices[name] = Voice(wave, sample_rate_hz, language)
        if not wave.any():
            # Silence handed in says nothing about a system; silence handed out does.
            (failures if name == "degraded" else remarks).append(f"{name}: silent")
    for metric in (name for name in metrics if clean is not None or not METRICS[name].needs_clean):
        for voice in (*([] if clean is None else [clean]), *voices.values()):
            begin(metric, voice)
    if clean is not None:
        for metric in (name for name in metrics if not METRICS[name].needs_clean):
            _take(values, skipped, "clean", metric, Sounds(None, clean))
    for name, voice in voices.items():
        sounds = Sounds(clean, voice, max_delay_seconds)
        for metric in metrics:
            _take(values, skipped, name, metric, sounds)
        if clean is not None and any(METRICS[metric].libraries for metric in metrics):
            values[f"delay_ms/{name}"] = 1000.0 * sounds.delay / sample_rate_hz
    try:
        errors = {} if item.features is None else feature_errors(item.features)
        values |= {f"features/{name}": error for name, error in errors.items()}
    except ValueError as error:
        failures.append(str(error))
    return Row(item.name, seconds, values, "; ".join(failures + remarks), not failures, skipped, item.labels)


def _take(values: dict[str, float], skipped: dict[str, str], name: str, metric: str, sounds: Sounds) -> None:
    """Measure one metric of one system."""
    found, reasons = measure(metric, sounds)
    values |= {f"{key}/{name}": value for key, value in found.items()}
    skipped |= {f"{key}/{name}": reason for key, reason in reasons.items()}


def _check(wave: np.ndarray, clean: np.ndarray) -> None:
    """Raise ValueError where a wave cannot be measured against `clean`."""
    if wave.ndim != 1 or len(wave) == 0:
        raise ValueError(f"a wave of shape {wave.shape}; should be one channel that holds audio")
    if len(wave) != len(clean):
        raise ValueError(f"{len(wave)} values; clean has {len(clean)}")
    if not (finite := np.isfinite(wave)).all():
        raise ValueError(f"{wave[~finite][0]} at value {int(np.argmin(finite))}; should be finite")
