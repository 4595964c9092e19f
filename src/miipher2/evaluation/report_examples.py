"""Utterances to look at and to listen to: pictures on one colour scale, and players, as parts of the page."""

import base64
import html
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float

from miipher2.audio.io import write_audio
from miipher2.evaluation.evaluate import Evaluation
from miipher2.evaluation.metrics.registry import VALUES
from miipher2.evaluation.spectrogram_image import SPECTROGRAM_SIZE, encode_png, spectrogram_image

SMALL = (128, 293)  # of the worst utterances' pictures, in the shape of the others


@dataclass(frozen=True)
class Example:
    """One utterance to look at and listen to: `clean` (where there is one), `degraded` or a system → wave, as shown."""

    name: str
    waves: Mapping[str, Float[np.ndarray, "time"]]


def check(examples: Sequence[Example], most: int) -> None:
    """Check what is to be shown.

    Raises:
        ValueError: there are too many, or one has no degraded wave or waves of several lengths.
    """
    if len(examples) > most:
        raise ValueError(f"{len(examples)} examples; should be at most {most}")
    for example in examples:
        if "degraded" not in example.waves or len({wave.shape for wave in example.waves.values()}) != 1:
            shapes = {label: wave.shape for label, wave in example.waves.items()}
            raise ValueError(f"example '{example.name}' has {shapes}; should have 'degraded', all as long as it")


def cards(
    examples: Sequence[Example],
    evaluation: Evaluation,
    seconds: float,
    label: Callable[[str], str],
    size: tuple[int, int] = SPECTROGRAM_SIZE,
) -> str:
    """Return a card for each utterance, of which the first `seconds` are shown."""
    return "".join(_card(example, evaluation, seconds, label, size) for example in examples)


def _card(
    example: Example, evaluation: Evaluation, seconds: float, label: Callable[[str], str], size: tuple[int, int]
) -> str:
    rate_hz, metric = evaluation.sample_rate_hz, evaluation.ranked_by
    row = {row.name: row for row in evaluation.utterances}.get(example.name)
    waves = {name: wave[: max(1, round(seconds * rate_hz))] for name, wave in example.waves.items()}
    figures = ""
    for name, wave in waves.items():
        picture = encode_png(spectrogram_image(wave, rate_hz, next(iter(waves.values())), size))
        value = None if row is None or metric is None else row.values.get(f"{metric}/{name}")
        told = ""
        if metric is not None and value is not None:
            about = VALUES[metric]
            told = f"<small>{html.escape(about.label.removesuffix(' distance'))} {value:.{about.decimals}f}</small>"
        alt = f"Spectrogram of {html.escape(example.name)}, {label(name)}"
        figures += (
            f'<figure><figcaption><span>{label(name)}</span>{told}</figcaption><div class="picture">'
            f'<img alt="{alt}" src="data:image/png;base64,{picture}"><i></i></div><div class="axis"><span>0–'
            f"{rate_hz / 2000:g} kHz</span><span>{len(wave) / rate_hz:.2f} s</span></div><audio controls "
            f'preload="metadata" src="data:audio/flac;base64,{_flac(wave, rate_hz)}"></audio></figure>\n'
        )
    heading = f"<h3>{html.escape(example.name)}</h3>"
    return f'<article class="example card">{heading}<div class="panels">{figures}</div></article>\n'


def _flac(wave: np.ndarray, sample_rate_hz: int) -> str:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "wave.flac"
        write_audio(path, np.ascontiguousarray(wave, dtype=np.float32), sample_rate_hz)
        return base64.b64encode(path.read_bytes()).decode()
