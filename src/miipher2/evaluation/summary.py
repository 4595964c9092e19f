"""The evaluation as a table with intervals, in all and by labels, and the gate on content and speaker."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass

from miipher2.evaluation.bootstrap import Bootstrap, Interval
from miipher2.evaluation.evaluate import Evaluation, Row
from miipher2.evaluation.metrics.registry import VALUES


@dataclass(frozen=True)
class Line:
    """One metric of one system over the utterances of a label; `difference` is to the degraded speech, paired.

    Where a metric is best at zero, the difference is of distances from zero.
    """

    sort: str
    label: str
    metric: str
    system: str
    count: int
    value: Interval
    difference: Interval | None

    def flat(self) -> dict[str, str | int | float]:
        """Return the line of a CSV file."""
        difference = self.difference or Interval(0.0, 0.0, 0.0)
        return {
            "sort": self.sort,
            "label": self.label,
            "metric": self.metric,
            "system": self.system,
            "count": self.count,
            **{name: float(f"{value:.6g}") for name, value in asdict(self.value).items()},
            **{
                f"difference_{name}": float(f"{value:.6g}") if self.difference else ""
                for name, value in asdict(difference).items()
            },
        }


@dataclass(frozen=True)
class Verdict:
    """What the gate says of one system and metric.

    `lost`: the mean loss passes the limit. `unsure`: it does not, but the interval of the loss does. `kept`: neither.
    `not measured`: no utterance has the metric for every system.
    """

    system: str
    metric: str
    limit: float
    state: str
    loss: Interval | None


def table(evaluation: Evaluation, chance: Bootstrap) -> list[Line]:
    """Return a line for each metric and system over all utterances, then over those of each label."""
    lines = list(_lines("all", "all", evaluation, evaluation.utterances, chance))
    for sort in dict.fromkeys(sort for row in evaluation.utterances for sort in row.labels):
        labels = sorted({label for row in evaluation.utterances for label in row.labels.get(sort, ())})
        for label in labels:
            rows = [row for row in evaluation.utterances if label in row.labels.get(sort, ())]
            lines += _lines(sort, label, evaluation, rows, chance)
    return lines


def gate(evaluation: Evaluation, lines: Iterable[Line], limits: Mapping[str, float]) -> list[Verdict]:
    """Return for each system whether it keeps content and speaker, compared with the degraded speech.

    Args:
        limits: metric → the largest mean loss, in the metric's unit, that is let pass.

    Raises:
        ValueError: a limit is for a metric that is not known, or is negative.
    """
    for metric, limit in limits.items():
        if metric not in VALUES or limit < 0:
            raise ValueError(f"gate.{metric}={limit}: should be a loss of at least 0 of one of {', '.join(VALUES)}")
    overall = {(line.metric, line.system): line for line in lines if line.sort == "all"}
    return [
        _verdict(overall.get((metric, system)), system, metric, limit)
        for system in evaluation.systems
        for metric, limit in limits.items()
    ]


def _verdict(line: Line | None, system: str, metric: str, limit: float) -> Verdict:
    if line is None or line.difference is None:
        return Verdict(system, metric, limit, "not measured", None)
    ends = sorted(VALUES[metric].worse_by(end) for end in (line.difference.low, line.difference.high))
    loss = Interval(VALUES[metric].worse_by(line.difference.mean), *ends)
    state = "lost" if loss.mean > limit else "unsure" if loss.high > limit else "kept"
    return Verdict(system, metric, limit, state, loss)


def _lines(sort: str, label: str, evaluation: Evaluation, rows: Sequence[Row], chance: Bootstrap) -> Iterable[Line]:
    wanted = {row.name for row in rows}
    for metric, about in VALUES.items():
        paired = [row for row in evaluation.paired(metric) if row.name in wanted]
        if not paired:
            continue
        if all(f"{metric}/clean" in row.values for row in paired):
            clean = chance.interval([row.values[f"{metric}/clean"] for row in paired])
            yield Line(sort, label, metric, "clean", len(paired), clean, None)
        before = [row.values[f"{metric}/degraded"] for row in paired]
        for system in evaluation.speech:
            values = [row.values[f"{metric}/{system}"] for row in paired]
            size = abs if about.better == "zero" else float
            differences = [size(value) - size(old) for value, old in zip(values, before, strict=True)]
            difference = None if system == "degraded" else chance.interval(differences)
            yield Line(sort, label, metric, system, len(paired), chance.interval(values), difference)
