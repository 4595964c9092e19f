"""The evaluation as one HTML page that needs nothing else: numbers, spectrograms on one colour scale, audio players."""

import base64
import html
import math
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from string import Template

import numpy as np
from jaxtyping import Float

from miipher2 import audio
from miipher2.evaluate import Evaluation, Row
from miipher2.pictures import SPECTROGRAM_FLOOR_DB, colours, png, spectrogram
from miipher2.report_tables import (
    distributions,
    gate_table,
    interval_table,
    label_tables,
    skipped_table,
    worst_table,
)
from miipher2.results import Findings

# Mail and code hosts still take such a page. Only the length of the excerpts gives way.
PAGE_BYTES = 8_000_000
EXAMPLES, EXCERPT_SECONDS = 8, 10.0
TABLE_ROWS, DOTS = 200, 400
LABELS = {"pre_trained": "Pre-trained vocoder", "fine_tuned": "Fine-tuned vocoder"}
Metrics = Mapping[str, Mapping[str, float | int]]


@dataclass(frozen=True)
class Example:
    """One utterance to look at and listen to: `clean`, `degraded` or a system → wave, in the order shown."""

    name: str
    waves: Mapping[str, Float[np.ndarray, "time"]]


def write_report(
    path: Path | str,
    findings: Findings,
    examples: Sequence[Example],
    *,
    title: str = "Speech restoration",
    about: Mapping[str, str] | None = None,
) -> None:
    """Write the page whole or not at all; equal input gives equal bytes.

    Args:
        examples: at most 8; where the page would pass 8 MB, the beginning of each is shown.
        about: more to say about the run: label → text.

    Raises:
        ValueError: there are too many examples, one has no clean wave, or no utterance could be evaluated.
    """
    path, evaluation = Path(path), findings.evaluation
    if len(examples) > EXAMPLES:
        raise ValueError(f"{path}: {len(examples)} examples; should be at most {EXAMPLES}")
    for example in examples:
        if "clean" not in example.waves or len({wave.shape for wave in example.waves.values()}) != 1:
            shapes = {label: wave.shape for label, wave in example.waves.items()}
            raise ValueError(f"{path}: example '{example.name}' has {shapes}; should have 'clean', all as long as it")
    texts = _texts(evaluation, title, about or {}) | {
        "intervals": interval_table(findings, _label),
        "confidence": f"{100 * findings.confidence:g}",
        "gate": gate_table(findings, _label),
        "labels": label_tables(findings, _label),
        "skipped": skipped_table(evaluation),
        "distributions": distributions(evaluation, _label),
        "worst": worst_table(evaluation),
    }
    template = Template((files("miipher2") / "report_template.html").read_text(encoding="utf-8"))
    seconds = EXCERPT_SECONDS
    while True:
        shown = "".join(_example(example, evaluation, seconds) for example in examples)
        page = template.substitute(texts, examples=shown, excerpt=f"{seconds:.1f}").encode()
        if len(page) <= PAGE_BYTES or seconds < 1.0:
            break
        seconds *= 0.9 * PAGE_BYTES / len(page)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(page)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _flac(wave: np.ndarray, sample_rate_hz: int) -> str:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "wave.flac"
        audio.write(path, np.ascontiguousarray(wave, dtype=np.float32), sample_rate_hz)
        return base64.b64encode(path.read_bytes()).decode()


def _example(example: Example, evaluation: Evaluation, seconds: float) -> str:
    rate_hz = evaluation.sample_rate_hz
    values = {row.name: row.values for row in evaluation.utterances}.get(example.name, {})
    waves = {label: wave[: max(1, round(seconds * rate_hz))] for label, wave in example.waves.items()}
    figures = ""
    for label, wave in waves.items():
        picture = png(spectrogram(wave, rate_hz, waves["clean"]))
        distance = f"<small>log-mel {values[f'log_mel/{label}']:.3f}</small>" if f"log_mel/{label}" in values else ""
        alt = f"Spectrogram of {html.escape(example.name)}, {_label(label)}"
        figures += (
            f'<figure><figcaption><span>{_label(label)}</span>{distance}</figcaption><div class="picture">'
            f'<img alt="{alt}" src="data:image/png;base64,{picture}"><i></i></div><div class="axis"><span>0–'
            f"{rate_hz / 2000:g} kHz</span><span>{len(wave) / rate_hz:.2f} s</span></div><audio controls "
            f'preload="metadata" src="data:audio/flac;base64,{_flac(wave, rate_hz)}"></audio></figure>\n'
        )
    name = html.escape(example.name)
    return f'<article class="example card"><h3>{name}</h3><div class="panels">{figures}</div></article>\n'


def _texts(evaluation: Evaluation, title: str, about: Mapping[str, str]) -> dict[str, str]:
    """Return what fills the template, but for the examples."""
    metrics = evaluation.metrics()
    counted, failed = metrics["utterances"]["evaluated"], metrics["utterances"]["failed"]
    return {
        "title": html.escape(title),
        "subtitle": f"{counted} utterances evaluated, {failed} failed · {evaluation.sample_rate_hz / 1000:g} kHz",
        "tiles": _tiles(metrics),
        "means": _means(metrics, evaluation),
        "features": _features(metrics),
        "strips": _strips(evaluation),
        "failures": _failures(evaluation),
        "table": _table(evaluation),
        "rows": str(TABLE_ROWS),
        "colours": ", ".join(f"rgb({red} {green} {blue})" for red, green, blue in colours(9)),
        "floor": f"{SPECTROGRAM_FLOOR_DB:g}".replace("-", "−"),
        "about": "".join(f"<dt>{html.escape(term)}</dt><dd>{html.escape(text)}</dd>" for term, text in about.items()),
    }


def _tiles(metrics: Metrics) -> str:
    tiles = []
    if "ratio" in metrics.get("features", {}):
        tiles.append((f"{metrics['features']['ratio']:.2f}", "feature error, cleaned / degraded"))
    for group, name in (("log_mel", "log-mel distance"), ("log_spectral_distance", "log-spectral distance")):
        if "improvement" in metrics[group]:
            tiles.append((_percent(-metrics[group]["improvement"]), f"{name}, restored against degraded"))
    tiles.append((str(metrics["utterances"]["evaluated"]), f"utterances, {metrics['utterances']['failed']} failed"))
    return "".join(f'<div class="tile card"><b>{value}</b><span>{text}</span></div>' for value, text in tiles)


def _means(metrics: Metrics, evaluation: Evaluation) -> str:
    rows = "<tr><th>Speech</th><th>Log-mel distance</th><th>Log-spectral distance, dB</th></tr>"
    for place, name in enumerate(evaluation.speech):
        rows += f"<tr><td>{_key(place)}{_label(name)}</td>"
        for group in ("log_mel", "log_spectral_distance"):
            value, before = metrics[group][name], metrics[group]["degraded"]
            change = _percent(value / before - 1.0) if place and before > 0.0 else ""
            rows += f"<td>{value:.3f}<small>{change}</small></td>"
        rows += "</tr>"
    return rows


def _features(metrics: Metrics) -> str:
    if "features" not in metrics:
        return ""
    rows = "<tr><th>Features</th><th>degraded</th><th>cleaned</th><th>cleaned / degraded</th></tr>"
    for kind, label in (("", "Squared error"), ("l1_", "Absolute error")):
        found = [metrics["features"].get(f"{kind}{name}") for name in ("degraded", "cleaned", "ratio")]
        cells = "".join("<td>–</td>" if value is None else f"<td>{value:.3f}</td>" for value in found)
        rows += f"<tr><td>{label}</td>{cells}</tr>"
    return f'<div class="card scroll"><table>{rows}</table></div>'


def _strips(evaluation: Evaluation) -> str:
    counted, widest = evaluation.worst_first(), _axis_end(evaluation)
    step, strips = math.ceil(len(counted) / DOTS), ""
    for place, name in enumerate(evaluation.speech):
        values = [row.values[f"log_mel/{name}"] for row in counted]
        strips += f'<div class="strip s{place % 4}"><div>{_key(place)}{_label(name)}</div><div class="track">'
        for i in range(0, len(values), step):
            # Three heights, so that neighbours do not hide each other.
            style = f"left:{100 * values[i] / widest:.2f}%;top:{(0.35, 0.9, 1.45)[i // step % 3]}rem"
            strips += f'<i style="{style}" title="{html.escape(counted[i].name)}: {values[i]:.3f}"></i>'
        mean = sum(values) / len(values)
        strips += f'<b style="left:{100 * mean / widest:.2f}%" title="mean {mean:.3f}"></b></div></div>'
    axis = "".join(f"<span>{share * widest:.2f}</span>" for share in (0.0, 0.25, 0.5, 0.75, 1.0))
    return strips + f'<div class="strip"><div></div><div class="axis">{axis}</div></div>'


def _axis_end(evaluation: Evaluation) -> float:
    """Return a number of which quarters are round, at or above every log-mel distance."""
    largest = max(row.values[f"log_mel/{name}"] for row in evaluation.worst_first() for name in evaluation.speech)
    return 0.4 * max(1, math.ceil(largest / 0.4))


def _failures(evaluation: Evaluation) -> str:
    rows = "".join(
        f'<tr><td>{html.escape(row.name)}</td><td class="reason">{html.escape(row.reason)}</td>'
        f"<td>{'counted' if row.is_counted else 'not counted'}</td></tr>"
        for row in evaluation.failures()[:TABLE_ROWS]
    )
    return f'<div class="card scroll"><table>{rows}</table></div>' if rows else "<p>None.</p>"


def _table(evaluation: Evaluation) -> str:
    names, widest = evaluation.speech, _axis_end(evaluation)
    heads = "".join(f"<th>{_label(name)}<br>log-mel</th>" for name in names)
    heads += f"<th>{_label(names[-1])}<br>log-spectral, dB</th><th>feature error<br>cleaned / degraded</th>"
    rows = "".join(_table_row(row, names, widest) for row in evaluation.worst_first()[:TABLE_ROWS])
    return f"<tr><th>Utterance</th><th>seconds</th>{heads}</tr>{rows}"


def _table_row(row: Row, names: Sequence[str], widest: float) -> str:
    cells = f"<td>{html.escape(row.name)}</td><td>{row.seconds:.2f}</td>"
    for place, name in enumerate(names):
        value = row.values[f"log_mel/{name}"]
        bar = f'<span class="bar s{place % 4}"><i style="width:{100 * value / widest:.1f}%"></i></span>'
        cells += f"<td>{value:.3f}{bar}</td>"
    ratio = row.values.get("features/ratio")
    cells += f"<td>{row.values[f'log_spectral_distance/{names[-1]}']:.2f}</td>"
    return f"<tr>{cells}<td>{'–' if ratio is None else f'{ratio:.2f}'}</td></tr>"


def _label(name: str) -> str:
    return html.escape(LABELS.get(name, name.replace("_", " ").capitalize()))


def _key(place: int) -> str:
    return f'<span class="key s{place % 4}"></span>'


def _percent(share: float) -> str:
    return f"{100 * share:+.0f} %".replace("-", "−")
