"""The evaluation as one HTML page that needs nothing else: numbers, spectrograms on one colour scale, audio players."""

import html
import math
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from string import Template

from miipher2.atomic_io import write_atomically
from miipher2.evaluation.evaluate import DISTANCES, Evaluation, Row
from miipher2.evaluation.metrics.registry import VALUES
from miipher2.evaluation.outputs import Findings
from miipher2.evaluation.report_examples import SMALL, Example, cards, check
from miipher2.evaluation.report_tables import (
    WORST,
    distributions,
    gate_table,
    interval_table,
    label_tables,
    skipped_table,
    worst_table,
)
from miipher2.evaluation.spectrogram_image import SPECTROGRAM_FLOOR_DB, colour_scale

# Mail and code hosts still take such a page. Only the length of the excerpts gives way.
PAGE_BYTES = 12_000_000
EXAMPLES, EXCERPT_SECONDS = 8, 10.0
TABLE_ROWS, DOTS = 200, 400
LABELS = {"pre_trained": "Pre-trained vocoder", "fine_tuned": "Fine-tuned vocoder"}
Metrics = Mapping[str, Mapping[str, float | int]]


def write_report(
    path: Path | str,
    findings: Findings,
    examples: Sequence[Example],
    *,
    worst: Sequence[Example] = (),
    title: str = "Speech restoration",
    about: Mapping[str, str] | None = None,
) -> None:
    """Write the page whole or not at all; equal input gives equal bytes.

    Args:
        examples: at most 8; where the page would pass 12 MB, the beginning of each is shown.
        worst: at most 10, with smaller pictures: clean and degraded speech, and the system that counts.
        about: more to say about the run: label → text.

    Raises:
        ValueError: there are too many examples, one has no degraded wave, or no utterance could be evaluated.
    """
    path, evaluation = Path(path), findings.evaluation
    check(examples, EXAMPLES)
    check(worst, WORST)
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
        shown = {
            "examples": cards(examples, evaluation, seconds, _label),
            "worst_examples": cards(worst, evaluation, seconds, _label, SMALL),
        }
        page = template.substitute(texts, **shown, excerpt=f"{seconds:.1f}").encode()
        if len(page) <= PAGE_BYTES or seconds < 1.0:
            break
        seconds *= 0.9 * PAGE_BYTES / len(page)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, page)


def _texts(evaluation: Evaluation, title: str, about: Mapping[str, str]) -> dict[str, str]:
    """Return what fills the template, but for the examples."""
    metrics = evaluation.metrics()
    counted, failed = metrics["utterances"]["evaluated"], metrics["utterances"]["failed"]
    return {
        "title": html.escape(title),
        "subtitle": f"{counted} utterances evaluated, {failed} failed · {evaluation.sample_rate_hz / 1000:g} kHz",
        "tiles": _tiles(metrics),
        "means": _means(metrics, evaluation) + _features(metrics),
        "ranking": _ranking(evaluation),
        "strips": _strips(evaluation),
        "failures": _failures(evaluation),
        "table": _table(evaluation),
        "rows": str(TABLE_ROWS),
        "colours": ", ".join(f"rgb({red} {green} {blue})" for red, green, blue in colour_scale(9)),
        "floor": f"{SPECTROGRAM_FLOOR_DB:g}".replace("-", "−"),
        "about": "".join(f"<dt>{html.escape(term)}</dt><dd>{html.escape(text)}</dd>" for term, text in about.items()),
    }


def _ranking(evaluation: Evaluation) -> str:
    """Return by what utterances are ordered, in words."""
    metric, system = evaluation.ranked_by, _label(evaluation.speech[-1])
    return "By name: no metric was had for all." if metric is None else f"By {_name(metric)} of {system}."


def _tiles(metrics: Metrics) -> str:
    tiles = []
    if "ratio" in metrics.get("features", {}):
        tiles.append((f"{metrics['features']['ratio']:.2f}", "feature error, cleaned / degraded"))
    for group in DISTANCES:
        if "improvement" in metrics.get(group, {}):
            text = f"{_name(group).removesuffix(', dB').lower()}, restored against degraded"
            tiles.append((_percent(-metrics[group]["improvement"]), text))
    for group in ("dnsmos_ovrl", "distillmos"):  # where nothing can be compared with a clean recording
        if group in metrics and not set(DISTANCES) & set(metrics):
            *_, restored = metrics[group].values()
            text = f"{_name(group)}, restored; degraded {metrics[group]['degraded']:.2f}"
            tiles.append((f"{restored:.2f}", text))
    tiles.append((str(metrics["utterances"]["evaluated"]), f"utterances, {metrics['utterances']['failed']} failed"))
    return "".join(f'<div class="tile card"><b>{value}</b><span>{text}</span></div>' for value, text in tiles)


def _means(metrics: Metrics, evaluation: Evaluation) -> str:
    groups = [group for group in DISTANCES if group in metrics]
    if not groups:
        return ""
    rows = "<tr><th>Speech</th>" + "".join(f"<th>{_name(group)}</th>" for group in groups) + "</tr>"
    for place, name in enumerate(evaluation.speech):
        rows += f"<tr><td>{_key(place)}{_label(name)}</td>"
        for group in groups:
            value, before = metrics[group][name], metrics[group]["degraded"]
            change = _percent(value / before - 1.0) if place and before > 0.0 else ""
            rows += f"<td>{value:.3f}<small>{change}</small></td>"
        rows += "</tr>"
    return (
        '<h2>Means</h2>\n<p class="quiet">Distances to the clean recording over the counted utterances. Lower is '
        f'nearer.</p>\n<div class="card scroll"><table>{rows}</table></div>'
    )


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
    counted = evaluation.paired("log_mel")
    if not counted:
        return ""
    widest = _axis_end([row.values[f"log_mel/{name}"] for row in counted for name in evaluation.speech])
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
    strips += f'<div class="strip"><div></div><div class="axis">{axis}</div></div>'
    return f'<h3 class="gap">{_name("log_mel")}</h3><div class="card strips">{strips}</div>'


def _axis_end(values: Sequence[float]) -> float:
    """Return a number of which quarters are round, at or above every value."""
    return 0.4 * max(1, math.ceil(max(values) / 0.4))


def _failures(evaluation: Evaluation) -> str:
    rows = "".join(
        f'<tr><td>{html.escape(row.name)}</td><td class="reason">{html.escape(row.reason)}</td>'
        f"<td>{'counted' if row.is_counted else 'not counted'}</td></tr>"
        for row in evaluation.failures()[:TABLE_ROWS]
    )
    return f'<div class="card scroll"><table>{rows}</table></div>' if rows else "<p>None.</p>"


def _table(evaluation: Evaluation) -> str:
    rows, names, metric = evaluation.worst_first(), evaluation.speech, evaluation.ranked_by
    heads = "<tr><th>Utterance</th><th>seconds</th>"
    shown = [] if metric is None else [f"{metric}/{name}" for name in names]
    heads += "".join(f"<th>{_label(key.split('/')[1])}<br>{_name(key.split('/')[0])}</th>" for key in shown)
    others = [f"log_spectral_distance/{names[-1]}", "features/ratio"]
    others = [key for key in others if any(key in row.values for row in rows)]
    for key in others:
        group, name = key.split("/")
        ratio = "feature error<br>cleaned / degraded"
        heads += f"<th>{ratio if group == 'features' else f'{_label(name)}<br>{_name(group)}'}</th>"
    every = [row.values[key] for row in rows for key in shown]
    widest = _axis_end(every) if every else 1.0
    return f"{heads}</tr>" + "".join(_table_row(row, shown, others, widest) for row in rows[:TABLE_ROWS])


def _table_row(row: Row, shown: Sequence[str], others: Sequence[str], widest: float) -> str:
    cells = f"<td>{html.escape(row.name)}</td><td>{row.seconds:.2f}</td>"
    for place, key in enumerate(shown):
        width = 100 * max(0.0, row.values[key]) / widest
        bar = f'<span class="bar s{place % 4}"><i style="width:{width:.1f}%"></i></span>'
        cells += f"<td>{row.values[key]:.3f}{bar}</td>"
    for key in others:
        cells += f"<td>{row.values[key]:.2f}</td>" if key in row.values else "<td>–</td>"
    return f"<tr>{cells}</tr>"


def _name(metric: str) -> str:
    return html.escape(VALUES[metric].label)


def _label(name: str) -> str:
    return html.escape(LABELS.get(name, name.replace("_", " ").capitalize()))


def _key(place: int) -> str:
    return f'<span class="key s{place % 4}"></span>'


def _percent(share: float) -> str:
    return f"{100 * share:+.0f} %".replace("-", "−")
