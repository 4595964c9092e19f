"""Tables of the page: metrics with intervals, the gate, results by label, what was skipped, dots, the worst."""

import html
import math
from collections.abc import Callable

from miipher2.evaluation.bootstrap import Interval
from miipher2.evaluation.evaluate import Evaluation
from miipher2.evaluation.metrics.registry import VALUES
from miipher2.evaluation.outputs import Findings
from miipher2.evaluation.summary import Line

SPREAD = ("estoi", "speaker_cosine", "pesq", "dnsmos_ovrl", "distillmos", "pitch_error")
BY_LABEL = ("log_mel", "estoi", "speaker_cosine", "dnsmos_ovrl")
WORST, DOTS = 10, 400
Label = Callable[[str], str]


def interval_table(findings: Findings, label: Label) -> str:
    """Return every metric's mean and difference to degraded, with intervals, a column for each system."""
    overall = [line for line in findings.lines if line.sort == "all"]
    if not overall:
        return ""
    systems = [name for name in ("clean", *findings.evaluation.speech) if any(line.system == name for line in overall)]
    rows = "<tr><th>Metric</th><th>n</th>" + "".join(f"<th>{label(name)}</th>" for name in systems) + "</tr>"
    for metric in dict.fromkeys(line.metric for line in overall):
        found = {line.system: line for line in overall if line.metric == metric}
        about = VALUES[metric]
        arrow = {"higher": "↑", "lower": "↓", "zero": "→ 0"}[about.better]
        rows += f"<tr><td>{html.escape(about.label)} {arrow}</td><td>{found['degraded'].count}</td>"
        rows += "".join(_cell(found.get(name)) for name in systems) + "</tr>"
    return f'<div class="card scroll"><table class="long intervals">{rows}</table></div>'


def gate_table(findings: Findings, label: Label) -> str:
    """Return what the gate says of each system."""
    if not findings.verdicts:
        return "<p>No limits were set.</p>"
    rows = "<tr><th>System</th><th>Metric</th><th>Limit</th><th>Mean loss</th><th>Verdict</th></tr>"
    for each in findings.verdicts:
        loss = "–" if each.loss is None else _numbers(each.loss, 3, signed=True)
        mark = {"lost": "✗", "kept": "✓"}.get(each.state, "?")
        rows += (
            f"<tr><td>{label(each.system)}</td><td>{html.escape(VALUES[each.metric].label)}</td><td>{each.limit:g}</td>"
            f'<td>{loss}</td><td class="verdict {each.state.replace(" ", "-")}">{mark} {each.state}</td></tr>'
        )
    return f'<div class="card scroll"><table>{rows}</table></div>'


def label_tables(findings: Findings, label: Label) -> str:
    """Return the means by kind of degradation, SNR, speaker and language, each folded away."""
    tables = ""
    for sort in dict.fromkeys(line.sort for line in findings.lines if line.sort != "all"):
        lines = [line for line in findings.lines if line.sort == sort and line.metric in BY_LABEL]
        heads = "".join(f"<th>{html.escape(VALUES[name].label)}</th>" for name in BY_LABEL)
        rows = f"<tr><th>{html.escape(sort)}</th><th>system</th><th>n</th>{heads}</tr>"
        for value in dict.fromkeys(line.label for line in lines):
            for system in findings.evaluation.speech:
                found = {line.metric: line for line in lines if line.label == value and line.system == system}
                count = max((line.count for line in found.values()), default=0)
                rows += f"<tr><td>{html.escape(value)}</td><td>{label(system)}</td><td>{count}</td>"
                rows += "".join(_cell(found.get(name)) for name in BY_LABEL) + "</tr>"
        tables += f"<details><summary>By {html.escape(sort)}</summary>"
        tables += f'<div class="card scroll"><table class="long intervals">{rows}</table></div></details>'
    return tables or "<p>The utterances carry no labels.</p>"


def skipped_table(evaluation: Evaluation) -> str:
    """Return which metrics were skipped, how often, and why."""
    rows = "".join(
        f'<tr><td>{html.escape(name)}</td><td>{count or "all"}</td><td class="text">{html.escape(reason)}</td></tr>'
        for name, reasons in evaluation.skips().items()
        for reason, count in reasons.items()
    )
    heads = '<tr><th>Metric</th><th>measurements</th><th class="text">Reason</th></tr>'
    return f'<div class="card scroll"><table>{heads}{rows}</table></div>' if rows else "<p>Nothing.</p>"


def distributions(evaluation: Evaluation, label: Label) -> str:
    """Return a strip of dots for each metric and system, a dot an utterance."""
    shown = ""
    for metric in SPREAD:
        rows = evaluation.paired(metric)
        if not rows:
            continue
        every = [row.values[f"{metric}/{name}"] for row in rows for name in evaluation.speech]
        low, high = min(every), max(every)
        width, step = (high - low) or 1.0, math.ceil(len(rows) / DOTS)
        shown += f'<h3>{html.escape(VALUES[metric].label)}</h3><div class="card strips">'
        for place, name in enumerate(evaluation.speech):
            values = [row.values[f"{metric}/{name}"] for row in rows]
            shown += f'<div class="strip s{place % 4}"><div><span class="key s{place % 4}"></span>{label(name)}</div>'
            shown += '<div class="track">'
            for i in range(0, len(values), step):
                style = f"left:{100 * (values[i] - low) / width:.2f}%;top:{(0.35, 0.9, 1.45)[i // step % 3]}rem"
                shown += f'<i style="{style}" title="{html.escape(rows[i].name)}: {values[i]:.3f}"></i>'
            mean = sum(values) / len(values)
            shown += f'<b style="left:{100 * (mean - low) / width:.2f}%" title="mean {mean:.3f}"></b></div></div>'
        axis = "".join(f"<span>{low + share * width:.2f}</span>" for share in (0.0, 0.25, 0.5, 0.75, 1.0))
        shown += f'<div class="strip"><div></div><div class="axis">{axis}</div></div></div>'
    return shown


def worst_table(evaluation: Evaluation) -> str:
    """Return the ten utterances on which the last system is worst, with what was done to them."""
    system = evaluation.speech[-1]
    metrics = [name for name in ("log_mel", *SPREAD[:5]) if evaluation.paired(name)]
    if not metrics:
        return ""
    heads = "".join(f"<th>{html.escape(VALUES[name].label)}</th>" for name in metrics)
    rows = f'<tr><th>Worst ten</th>{heads}<th class="text">degradation</th></tr>'
    for row in evaluation.worst_first()[:WORST]:
        rows += f"<tr><td>{html.escape(row.name)}</td>"
        for name in metrics:
            value, before = row.values.get(f"{name}/{system}"), row.values.get(f"{name}/degraded")
            decimals = VALUES[name].decimals
            rows += "<td>–</td>" if value is None else f"<td>{value:.{decimals}f}"
            rows += (
                "" if value is None else f"<small>{'–' if before is None else f'{before:.{decimals}f}'}</small></td>"
            )
        done = [*row.labels.get("degradation", ()), *row.labels.get("snr", ())]
        rows += f'<td class="text">{html.escape(", ".join(done))}</td></tr>'
    return f'<div class="card scroll"><table class="long">{rows}</table></div>'


def _cell(line: Line | None) -> str:
    if line is None:
        return "<td>–</td>"
    decimals = VALUES[line.metric].decimals
    change = "" if line.difference is None else _change(line)
    return f"<td>{_numbers(line.value, decimals)}{change}</td>"


def _change(line: Line) -> str:
    assert line.difference is not None
    worse = VALUES[line.metric].worse_by
    ends = sorted((worse(line.difference.low), worse(line.difference.high)))
    kind = "worse" if ends[0] > 0 else "better" if ends[1] < 0 else "even"
    return f'<em class="{kind}">{_numbers(line.difference, VALUES[line.metric].decimals, signed=True)}</em>'


def _numbers(value: Interval, decimals: int, signed: bool = False) -> str:
    sign = "+" if signed else ""
    mean, low, high = (f"{each:{sign}.{decimals}f}".replace("-", "−") for each in (value.mean, value.low, value.high))
    return f"{mean} <small>{low} … {high}</small>"
