"""How far degraded and restored speech are from clean speech. Knows arrays and functions; no models, no files."""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import Tensor
from torchaudio.functional import melscale_fbanks

# The mel distance of HiFi-GAN (arXiv:2010.05646), and what the vocoder is trained with.
MELS, MEL_FLOOR = 80, 1e-5
# Of a full-scale sine. Below it is the rounding noise of 16-bit files, which no listener hears.
SPECTRAL_FLOOR_DB = -100.0

# A system under evaluation: the name of an utterance in, its restored wave out.
System = Callable[[str], np.ndarray]


@dataclass(frozen=True)
class Features:
    """The encoder's normalised features of one utterance: of clean speech, of degraded speech, and cleaned."""

    clean: Float[np.ndarray, "frame dim"]
    degraded: Float[np.ndarray, "degraded_frame degraded_dim"]
    cleaned: Float[np.ndarray, "cleaned_frame cleaned_dim"]


@dataclass(frozen=True)
class Item:
    """One utterance to evaluate, clean and degraded at one sample rate, aligned and equally long."""

    name: str
    clean: Float[np.ndarray, "time"]
    degraded: Float[np.ndarray, "degraded_time"]
    features: Features | None = None


@dataclass(frozen=True)
class Row:
    """One utterance's metrics, named `group/name`; `reason` says what went wrong, and is empty where nothing did.

    A row that is not counted lacks a metric or a sound reference, and is left out of every mean.
    """

    name: str
    seconds: float
    values: dict[str, float]
    reason: str = ""
    is_counted: bool = True


@dataclass(frozen=True)
class Evaluation:
    """Metrics of a set of utterances; `systems` in the order given, the last one being the result that counts."""

    utterances: tuple[Row, ...]
    systems: tuple[str, ...]
    sample_rate_hz: int

    @property
    def speech(self) -> tuple[str, ...]:
        """Return the names of what is compared with clean speech: `degraded`, then the systems."""
        return ("degraded", *self.systems)

    def metrics(self) -> dict[str, dict[str, float | int]]:
        """Return the means over the counted utterances, and the ratios of those means.

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
                values = [row.values[metric] for row in counted if metric in row.values]
                grouped.setdefault(group, {})[name] = math.fsum(values) / len(values)
        if "features" in grouped:
            grouped["features"] |= _ratios(grouped["features"])
        for group in ("log_mel", "log_spectral_distance"):
            if self.systems and grouped[group]["degraded"] > 0.0:
                grouped[group]["improvement"] = 1.0 - grouped[group][self.systems[-1]] / grouped[group]["degraded"]
        return grouped

    def rows(self) -> list[dict[str, str | float]]:
        """Return one flat row for each utterance, in the order evaluated: the lines of a CSV file.

        Every row has every key; a metric that could not be computed is an empty string.
        """
        columns = list(dict.fromkeys(metric for row in self.utterances for metric in row.values))
        rows: list[dict[str, str | float]] = [{"name": row.name, "seconds": row.seconds} for row in self.utterances]
        for line, row in zip(rows, self.utterances, strict=True):
            line |= {metric: row.values.get(metric, "") for metric in columns}
            line |= {"counted": "yes" if row.is_counted else "no", "reason": row.reason}
        return rows

    def failures(self) -> tuple[Row, ...]:
        """Return the utterances with which something went wrong, also those that still count."""
        return tuple(row for row in self.utterances if row.reason)

    def worst_first(self) -> tuple[Row, ...]:
        """Return the counted utterances by the last system's log-mel distance to clean, the largest first."""
        metric = f"log_mel/{self.speech[-1]}"
        counted = [row for row in self.utterances if row.is_counted]
        return tuple(sorted(counted, key=lambda row: (-row.values[metric], row.name)))

    def spread(self, count: int) -> tuple[str, ...]:
        """Return the names of at most `count` utterances from the worst to the best, evenly spaced between them."""
        ordered = self.worst_first()
        places = np.linspace(0, len(ordered) - 1, min(count, len(ordered)))
        return tuple(ordered[round(place)].name for place in places)


def evaluate(items: Iterable[Item], systems: Mapping[str, System], sample_rate_hz: int) -> Evaluation:
    """Measure degraded and restored speech against clean speech, utterance by utterance.

    Nothing is aligned or scaled. An utterance that cannot be evaluated (unequal lengths, values that are not finite,
    silence, a system that raises ValueError) becomes a row with the reason, and the others go on. A system that answers
    with silence is listed, and counts.

    Args:
        items: consumed one by one, each let go of after its row.
        systems: name → restored wave at `sample_rate_hz`, the final system last; none is named "degraded".
        sample_rate_hz: the rate of every wave.

    Raises:
        ValueError: there are no items, two have one name, or a system has a name that metrics use.
    """
    if taken := {"degraded", "improvement"} & set(systems):
        raise ValueError(f"a system is named '{taken.pop()}', which metrics use; give it another name")
    rows: dict[str, Row] = {}
    for item in items:
        if item.name in rows:
            raise ValueError(f"two utterances are named '{item.name}'; every utterance needs its own name")
        rows[item.name] = _evaluate_one(item, systems, sample_rate_hz)
    if not rows:
        raise ValueError("there are no utterances to evaluate; name a split of the manifest that holds some")
    return Evaluation(tuple(rows.values()), tuple(systems), sample_rate_hz)


def log_mel_distance(clean: Float[np.ndarray, "time"], other: Float[np.ndarray, "time"], sample_rate_hz: int) -> float:
    """Return the mean absolute difference of two waves' log-mel spectrograms (natural logarithm)."""
    filters = _mel_filters(sample_rate_hz)
    mels = [(filters.T @ _magnitude(wave, sample_rate_hz)).clamp(min=MEL_FLOOR).log() for wave in (clean, other)]
    return float((mels[0] - mels[1]).abs().mean())


def log_spectral_distance(
    clean: Float[np.ndarray, "time"], other: Float[np.ndarray, "time"], sample_rate_hz: int
) -> float:
    """Return the log-spectral distance in dB: root mean square over frequencies, mean over frames.

    Source: Gray and Markel 1976, "Distance measures for speech processing".
    """
    full_scale = _window_samples(sample_rate_hz) / 4  # of a sine of amplitude 1 under a Hann window
    floor = full_scale * 10.0 ** (SPECTRAL_FLOOR_DB / 20.0)
    levels = [20.0 * _magnitude(wave, sample_rate_hz).clamp(min=floor).log10() for wave in (clean, other)]
    return float((levels[0] - levels[1]).square().mean(dim=0).sqrt().mean())


def feature_errors(features: Features) -> dict[str, float]:
    """Return squared and absolute feature errors against clean, and the ratios cleaned / degraded.

    Raises:
        ValueError: the three arrays differ in shape, or hold values that are not finite.
    """
    arrays = {"clean": features.clean, "degraded": features.degraded, "cleaned": features.cleaned}
    for name, array in arrays.items():
        if array.shape != features.clean.shape:
            raise ValueError(f"{name} features have the shape {array.shape}; clean has {features.clean.shape}")
        if not np.isfinite(array).all():
            raise ValueError(f"{name} features hold values that are not finite")
    errors: dict[str, float] = {}
    for name in ("degraded", "cleaned"):
        difference = np.asarray(arrays[name], np.float64) - np.asarray(features.clean, np.float64)
        errors[name] = float(np.square(difference).mean())
        errors[f"l1_{name}"] = float(np.abs(difference).mean())
    return errors | _ratios(errors)


def _evaluate_one(item: Item, systems: Mapping[str, System], sample_rate_hz: int) -> Row:
    seconds = len(item.clean) / sample_rate_hz
    values: dict[str, float] = {}
    failures: list[str] = []
    remarks: list[str] = []
    try:
        _check(item.clean, item.clean)
        if not item.clean.any():
            raise ValueError("silent, no reference")
    except ValueError as error:
        return Row(item.name, seconds, {}, f"clean: {error}", is_counted=False)
    for name, system in {"degraded": lambda _name: item.degraded, **systems}.items():
        try:
            wave = system(item.name)
            _check(wave, item.clean)
        except ValueError as error:
            failures.append(f"{name}: {error}")
            continue
        values[f"log_mel/{name}"] = log_mel_distance(item.clean, wave, sample_rate_hz)
        values[f"log_spectral_distance/{name}"] = log_spectral_distance(item.clean, wave, sample_rate_hz)
        if not wave.any():
            # Silence handed in says nothing about a system; silence handed out does.
            (failures if name == "degraded" else remarks).append(f"{name}: silent")
    try:
        errors = {} if item.features is None else feature_errors(item.features)
        values |= {f"features/{name}": error for name, error in errors.items()}
    except ValueError as error:
        failures.append(str(error))
    return Row(item.name, seconds, values, "; ".join(failures + remarks), is_counted=not failures)


def _check(wave: np.ndarray, clean: np.ndarray) -> None:
    """Raise ValueError where a wave cannot be measured against `clean`."""
    if wave.ndim != 1 or len(wave) == 0:
        raise ValueError(f"a wave of shape {wave.shape}; should be one channel that holds audio")
    if len(wave) != len(clean):
        raise ValueError(f"{len(wave)} values; clean has {len(clean)}")
    if not (finite := np.isfinite(wave)).all():
        raise ValueError(f"{wave[~finite][0]} at value {int(np.argmin(finite))}; should be finite")


def _ratios(errors: Mapping[str, float | int]) -> dict[str, float]:
    return {
        f"{kind}ratio": errors[f"{kind}cleaned"] / errors[f"{kind}degraded"]
        for kind in ("", "l1_")
        if errors[f"{kind}degraded"] > 0.0
    }


def _magnitude(wave: Float[np.ndarray, "time"], sample_rate_hz: int) -> Float[Tensor, "frequency frame"]:
    """Return the magnitude spectrogram in double precision, a frame every quarter of a window."""
    samples = _window_samples(sample_rate_hz)
    window = torch.hann_window(samples, dtype=torch.float64)
    values = torch.from_numpy(np.asarray(wave, np.float64))
    # Zeros at the ends, not a reflection, so that a wave shorter than half a window has a spectrogram too.
    return torch.stft(values, samples, samples // 4, window=window, pad_mode="constant", return_complex=True).abs()


def _window_samples(sample_rate_hz: int) -> int:
    """Return the power of two from 40 ms up: 1024 for 16 to 24 kHz, 2048 for 48 kHz."""
    return 2 ** math.ceil(math.log2(0.04 * sample_rate_hz))


@lru_cache(maxsize=4)
def _mel_filters(sample_rate_hz: int) -> Float64[Tensor, "frequency mel"]:
    frequencies = _window_samples(sample_rate_hz) // 2 + 1
    filters = melscale_fbanks(frequencies, 0.0, sample_rate_hz / 2, MELS, sample_rate_hz, "slaney", "slaney")
    return filters.double()
