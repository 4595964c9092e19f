"""The evaluation as one self-contained HTML page: numbers, spectrograms on one colour scale, audio players.

The page's layout and wording are in `report.html.jinja`; here is what the template cannot compute.
"""

import base64
import math
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from jaxtyping import Float

from miipher2.atomic_io import write_atomically
from miipher2.audio.io import write_audio
from miipher2.evaluation.evaluate import DISTANCES, Evaluation, System, Utterance
from miipher2.evaluation.metrics.registry import VALUES
from miipher2.evaluation.spectrogram_image import (
    SPECTROGRAM_FLOOR_DB,
    SPECTROGRAM_SIZE,
    colour_scale,
    encode_png,
    spectrogram_image,
)
from miipher2.evaluation.summary import Interval, Line, Summary

# Mail and code hosts still accept such a page. Where it would be larger, the excerpts are shortened.
MAX_PAGE_BYTES = 12_000_000
MAX_EXAMPLES, MAX_WORST, EXCERPT_SECONDS = 8, 10, 10.0
SMALL_SPECTROGRAM = (128, 293)  # of the worst utterances, in the proportions of the others
MAX_TABLE_ROWS, MAX_DOTS = 200, 400
CHARTED = ("character_error", "estoi", "speaker_cosine", "dnsmos_ovrl", "distillmos", "pesq", "pitch_error")
LABELLED = ("character_error", "estoi", "speaker_cosine", "dnsmos_ovrl")
MARKS = {"lost": "✗", "unsure": "?", "kept": "✓", "not measured": ""}
SYSTEM_NAMES = {"pre_trained": "Pre-trained vocoder", "fine_tuned": "Fine-tuned vocoder"}


@dataclass(frozen=True)
class Example:
    """One utterance to look at and listen to: `clean` (where there is one), `degraded` and systems, by name."""

    name: str
    waves: Mapping[str, Float[np.ndarray, "time"]]


def write_report(
    path: Path | str,
    summary: Summary,
    examples: Sequence[Example],
    *,
    worst: Sequence[Example] = (),
    title: str = "Speech restoration",
    about: Mapping[str, str] | None = None,
) -> None:
    """Write the page completely or not at all; equal input gives equal bytes.

    Args:
        examples: at most 8; where the page would exceed 12 MB, only the beginning of each is shown.
        worst: at most 10, with smaller pictures.
        about: facts about the run: term → text.

    Raises:
        ValueError: there are too many examples, one has no degraded wave, or no utterance could be evaluated.
    """
    path, evaluation = Path(path), summary.evaluation
    _check(examples, MAX_EXAMPLES)
    _check(worst, MAX_WORST)
    content = _content(summary) | {"title": title, "about": about or {}}
    template = _template()
    seconds = EXCERPT_SECONDS
    while True:
        cards = {
            "examples": [_card(example, evaluation, seconds, SPECTROGRAM_SIZE) for example in examples],
            "worst_examples": [_card(example, evaluation, seconds, SMALL_SPECTROGRAM) for example in worst],
        }
        page = template.render(content, **cards, excerpt_seconds=seconds).encode(errors="backslashreplace")
        if len(page) <= MAX_PAGE_BYTES or seconds < 1.0:
            break
        seconds *= 0.9 * MAX_PAGE_BYTES / len(page)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, page)


def select_examples(
    evaluation: Evaluation, utterances: Mapping[str, Utterance], systems: Mapping[str, System], count: int
) -> tuple[list[Example], list[Example]]:
    """Return `count` utterances from the worst to the best with all systems, and the worst ten with the last system."""

    def example(name: str, labels: Sequence[str]) -> Example:
        clean = utterances[name].clean
        waves = {} if clean is None else {"clean": clean}
        waves["degraded"] = utterances[name].degraded
        return Example(name, waves | {label: systems[label](name) for label in labels})

    return (
        [example(name, evaluation.systems) for name in evaluation.spread(count)],
        [example(row.name, evaluation.systems[-1:]) for row in evaluation.worst_first()[:MAX_WORST]],
    )


def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "system_name": lambda name: SYSTEM_NAMES.get(name, name.replace("_", " ").capitalize()),
        "metric_name": lambda name: VALUES[name].label,
        "metric_title": lambda name: VALUES[name].title,
        "number": lambda value, decimals: f"{value:.{decimals}f}",
        "percent": lambda share: f"{100 * share:+.0f} %".replace("-", "−"),
    }
    return environment.get_template("report.html.jinja")


def _content(summary: Summary) -> dict[str, Any]:
    """Return all that the page shows except for title, facts and examples."""
    evaluation, means = summary.evaluation, summary.evaluation.means()
    rows, overall = evaluation.worst_first(), summary.overall()
    ranking_keys = [f"{evaluation.ranking_metric}/{name}" for name in evaluation.compared]
    other_keys = [f"log_spectral_distance/{evaluation.compared[-1]}", "features/ratio"]
    values = [row.values[key] for row in rows for key in ranking_keys] if evaluation.ranking_metric else []
    distances = [row.values[f"log_mel/{name}"] for row in evaluation.paired("log_mel") for name in evaluation.compared]
    return {
        "evaluation": evaluation,
        "means": means,
        "tiles": _tiles(summary),
        "distances": [metric for metric in DISTANCES if metric in means],
        "interval_systems": [
            name for name in ("clean", *evaluation.compared) if any(line.system == name for line in overall)
        ],
        "interval_rows": [
            {"value": VALUES[metric], "cells": {line.system: _cell(line) for line in overall if line.metric == metric}}
            | {"count": next(line.count for line in overall if (line.metric, line.system) == (metric, "degraded"))}
            for metric in dict.fromkeys(line.metric for line in overall)
        ],
        "confidence": f"{100 * summary.confidence:g}",
        "verdicts": [(each, each.loss and _formatted(each.loss, 3, "+")) for each in summary.verdicts],
        "labelled": LABELLED,
        "label_tables": _label_tables(summary),
        "distance_chart": _chart(evaluation, "log_mel", 0.0, _axis_end(distances)) if distances else None,
        "charts": [chart for metric in CHARTED if (chart := _chart(evaluation, metric)) is not None],
        "worst_metrics": [metric for metric in (*CHARTED[:5], "log_mel") if evaluation.paired(metric)],
        "worst_rows": rows[:MAX_WORST],
        "table_rows": rows[:MAX_TABLE_ROWS],
        "max_table_rows": MAX_TABLE_ROWS,
        "ranking_keys": ranking_keys if evaluation.ranking_metric else [],
        "other_keys": [key for key in other_keys if any(key in row.values for row in rows)],
        "bar_end": _axis_end(values) if values else 1.0,
        "failures": evaluation.failures()[:MAX_TABLE_ROWS],
        "decimals": {name: value.decimals for name, value in VALUES.items()},
        "colours": ", ".join(f"rgb({red} {green} {blue})" for red, green, blue in colour_scale(9)),
        "floor_db": f"{SPECTROGRAM_FLOOR_DB:g}".replace("-", "−"),
    }


def _tiles(summary: Summary) -> list[dict[str, str]]:
    """Return the gate's verdict on the last system against degraded speech, in all and for each metric."""
    system = summary.evaluation.compared[-1]
    states, name = summary.gate_states(system), SYSTEM_NAMES.get(system, system.replace("_", " ").capitalize())
    if not states:
        return [{"value": "–", "text": f"{name}: no limits were set for a gate", "direction": "even"}]
    worst, *others = states
    rest = "".join(f"; {', '.join(states[state])} {state}" for state in others)
    direction = {"lost": "worse", "kept": "better"}.get(worst, "even")
    headline = f"{MARKS[worst]} {', '.join(states[worst])} {worst}".strip()
    tiles = [{"value": headline, "text": f"{name} against degraded speech{rest}", "direction": direction}]
    lines = {(line.metric, line.system): line for line in summary.overall()}
    for verdict in (each for each in summary.verdicts if each.system == system):
        value = VALUES[verdict.metric]
        text = f"{value.label}, {value.better} is better: {verdict.state}"
        line = lines.get((verdict.metric, system))
        if line is None:
            tiles.append({"value": "–", "text": text, "direction": "even"})
            continue
        means = (lines[verdict.metric, "degraded"].value.mean, line.value.mean)
        numbers = " → ".join(f"{mean:.{value.decimals}f}" for mean in means)
        tiles.append({"value": numbers, "text": text, "direction": line.direction})
    return tiles


def _label_tables(summary: Summary) -> dict[str, list[dict[str, Any]]]:
    """Return for each label name a row for each label and system."""
    tables: dict[str, list[dict[str, Any]]] = {}
    for line in summary.lines:
        if line.label_name != "all":
            rows = tables.setdefault(line.label_name, [])
            if line.metric in LABELLED and line.system != "clean":
                key = {"label": line.label, "system": line.system}
                row = next((row for row in rows if key.items() <= row.items()), None)
                if row is None:
                    rows.append(row := key | {"count": 0, "cells": {}})
                row["count"] = max(row["count"], line.count)
                row["cells"][line.metric] = _cell(line)
    return tables


def _chart(
    evaluation: Evaluation, metric: str, low: float | None = None, high: float | None = None
) -> dict[str, Any] | None:
    """Return a strip of dots for each system, one dot for each utterance; None where no utterance has the metric."""
    rows = evaluation.paired(metric)
    if not rows:
        return None
    values = [row.values[f"{metric}/{name}"] for row in rows for name in evaluation.compared]
    low = min(values) if low is None else low
    width = ((max(values) if high is None else high) - low) or 1.0
    step = math.ceil(len(rows) / MAX_DOTS)
    strips = []
    for system in evaluation.compared:
        values = [row.values[f"{metric}/{system}"] for row in rows]
        dots = [
            # Three heights, so that neighbours do not hide each other.
            {
                "x": 100 * (values[i] - low) / width,
                "y": (0.35, 0.9, 1.45)[i // step % 3],
                "row": rows[i],
                "value": values[i],
            }
            for i in range(0, len(values), step)
        ]
        mean = sum(values) / len(values)
        strips.append({"system": system, "dots": dots, "mean": mean, "x": 100 * (mean - low) / width})
    axis = [f"{low + share * width:.2f}" for share in (0.0, 0.25, 0.5, 0.75, 1.0)]
    return {"metric": metric, "strips": strips, "axis": axis}


def _axis_end(values: Sequence[float]) -> float:
    """Return a number with round quarters, at or above every value."""
    return 0.4 * max(1, math.ceil(max(values) / 0.4))


def _cell(line: Line) -> dict[str, Any]:
    """Return a mean and its change against degraded, formatted, and whether the change is better, worse or neither."""
    decimals = VALUES[line.metric].decimals
    cell: dict[str, Any] = {"mean": _formatted(line.value, decimals), "change": None}
    if line.difference is not None:
        cell |= {"change": _formatted(line.difference, decimals, "+"), "direction": line.direction}
    return cell


def _formatted(interval: Interval, decimals: int, sign: str = "") -> list[str]:
    numbers = (interval.mean, interval.low, interval.high)
    return [f"{number:{sign}.{decimals}f}".replace("-", "−") for number in numbers]


def _check(examples: Sequence[Example], most: int) -> None:
    if len(examples) > most:
        raise ValueError(f"{len(examples)} examples; should be at most {most}")
    for example in examples:
        if "degraded" not in example.waves or len({wave.shape for wave in example.waves.values()}) != 1:
            shapes = {label: wave.shape for label, wave in example.waves.items()}
            raise ValueError(f"example '{example.name}' has {shapes}; should have 'degraded', all of its length")


def _card(example: Example, evaluation: Evaluation, seconds: float, size: tuple[int, int]) -> dict[str, Any]:
    """Return the pictures and sounds of an utterance's first seconds."""
    rate_hz, metric = evaluation.sample_rate_hz, evaluation.ranking_metric
    row = next((row for row in evaluation.rows if row.name == example.name), None)
    waves = {name: wave[: max(1, round(seconds * rate_hz))] for name, wave in example.waves.items()}
    reference = next(iter(waves.values()))
    panels = [
        {
            "system": name,
            "value": None if row is None or metric is None else row.values.get(f"{metric}/{name}"),
            "png": encode_png(spectrogram_image(wave, rate_hz, reference, size)),
            "flac": _encode_flac(wave, rate_hz),
            "seconds": len(wave) / rate_hz,
        }
        for name, wave in waves.items()
    ]
    return {"name": example.name, "panels": panels}


def _encode_flac(wave: np.ndarray, sample_rate_hz: int) -> str:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "wave.flac"
        write_audio(path, np.ascontiguousarray(wave, dtype=np.float32), sample_rate_hz)
        return base64.b64encode(path.read_bytes()).decode()
