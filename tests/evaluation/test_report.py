"""The report: one self-contained page with one colour scale for an utterance, the worst first, below a size limit."""

import base64
import io
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import soundfile
from PIL import Image

from miipher2.evaluation.evaluate import Evaluation, Row, Utterance, evaluate
from miipher2.evaluation.metrics.feature_error import Features
from miipher2.evaluation.report import MAX_PAGE_BYTES, SMALL_SPECTROGRAM, Example, write_report
from miipher2.evaluation.spectrogram_image import COLOURS, SPECTROGRAM_SIZE, spectrogram_image
from miipher2.evaluation.summary import Bootstrap, Summary, summarise
from miipher2.rng import stream

RATE_HZ = 16_000
VOID = {"meta", "img", "br", "link", "input", "hr"}


def noise(name: str, seconds: float = 0.6, level: float = 0.1) -> np.ndarray:
    return (level * stream(0, name).standard_normal(round(seconds * RATE_HZ))).astype(np.float32)


def waves(name: str, seconds: float = 0.6, error: float = 0.02) -> dict[str, np.ndarray]:
    clean = noise(name, seconds)
    levels = {"degraded": 5 * error, "pre_trained": 2 * error, "fine_tuned": error}
    return {"clean": clean} | {label: clean + noise(name + label, seconds, level) for label, level in levels.items()}


def features() -> Features:
    clean = stream(0, "features").standard_normal((30, 4)).astype(np.float32)
    return Features(clean, clean + np.float32(0.4), clean + np.float32(0.2))


def evaluate_waves(waveforms: dict[str, dict[str, np.ndarray]], with_features: bool = True) -> Evaluation:
    utterances = [
        Utterance(name, each["clean"], each["degraded"], features() if with_features else None)
        for name, each in waveforms.items()
    ]
    systems = {label: lambda name, label=label: waveforms[name][label] for label in ("pre_trained", "fine_tuned")}
    return evaluate(utterances, systems, RATE_HZ)


@pytest.fixture(scope="module")
def waveforms() -> dict[str, dict[str, np.ndarray]]:
    return {f"u{i}": waves(f"u{i}", error=0.01 * (i + 1)) for i in range(4)}


def without_pre_trained(waveforms: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {label: waveforms[label] for label in ("clean", "degraded", "fine_tuned")}


@pytest.fixture(scope="module")
def page(waveforms: dict, tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("report") / "waveforms" / "evaluate.html"
    examples = [Example(name, waveforms[name]) for name in ("u3", "u0")]
    worst = [Example(name, without_pre_trained(waveforms[name])) for name in ("u3", "u2")]
    write_report(
        path,
        Summary(evaluate_waves(waveforms)),
        examples,
        worst=worst,
        title="A <title>",
        about={"Adapter & co": "exp/<a>"},
    )
    return path.read_text(encoding="utf-8")


class Tags(HTMLParser):
    """Collects attributes, and checks that elements are closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def sources(self, tag: str, media_type: str) -> list[bytes]:
        prefix = f"data:{media_type};base64,"
        texts = [attributes["src"] or "" for name, attributes in self.elements if name == tag]
        assert all(text.startswith(prefix) for text in texts)
        return [base64.b64decode(text.removeprefix(prefix), validate=True) for text in texts]


def test_page_is_well_formed_and_self_contained(page):
    tags = Tags(page)
    links = [
        (tag, key) for tag, attributes in tags.elements for key in attributes if key in ("href", "srcset", "action")
    ]
    assert links == []
    assert "http" not in page.replace("http-equiv", "")
    assert "url(" not in page
    assert "{{" not in page
    assert "{%" not in page


def test_every_wave_of_an_example_can_be_played_unchanged(page, waveforms):
    players = Tags(page).sources("audio", "audio/flac")
    assert len(players) == 8 + 6
    expected = [(name, label) for name in ("u3", "u0") for label in waveforms[name]]
    expected += [(name, label) for name in ("u3", "u2") for label in without_pre_trained(waveforms[name])]
    for data, (name, label) in zip(players, expected, strict=True):
        played, rate_hz = soundfile.read(io.BytesIO(data), dtype="float32")
        assert rate_hz == RATE_HZ
        np.testing.assert_allclose(played, waveforms[name][label], atol=1 / 32_768)


def test_every_wave_of_an_example_has_its_spectrogram(page, waveforms):
    pictures = Tags(page).sources("img", "image/png")
    sizes = [Image.open(io.BytesIO(data)).size for data in pictures]
    assert sizes == [SPECTROGRAM_SIZE[::-1]] * 8 + [SMALL_SPECTROGRAM[::-1]] * 6
    first = np.asarray(Image.open(io.BytesIO(pictures[1])).convert("P"))
    clean, degraded = waveforms["u3"]["clean"], waveforms["u3"]["degraded"]
    assert len(np.unique(first)) > 10
    shown = np.asarray(Image.open(io.BytesIO(pictures[1])))
    np.testing.assert_array_equal(shown, spectrogram_image(degraded, RATE_HZ, clean))


def test_pictures_of_one_utterance_share_a_colour_scale():
    clean = noise("a")
    loud = spectrogram_image(clean, RATE_HZ, clean)
    quiet = spectrogram_image(0.1 * clean, RATE_HZ, clean)
    assert loud.max() == COLOURS - 1
    steps = (loud.astype(int) - quiet.astype(int))[quiet > 0]
    # 20 dB of the 75 that 47 steps stand for, each rounded on its own.
    assert set(np.unique(steps)) <= {12, 13}


def test_high_frequencies_are_at_the_top_and_time_runs_to_the_right():
    time = np.arange(RATE_HZ) / RATE_HZ
    wave = np.where(time < 0.5, np.sin(2 * np.pi * 1_000 * time), np.sin(2 * np.pi * 7_000 * time)).astype(np.float32)
    picture = spectrogram_image(wave, RATE_HZ, wave)
    rows, columns = SPECTROGRAM_SIZE
    early, late = picture[:, columns // 4].argmax(), picture[:, 3 * columns // 4].argmax()
    assert early == pytest.approx(rows * 7 / 8, abs=2)
    assert late == pytest.approx(rows * 1 / 8, abs=2)


@pytest.mark.parametrize("wave", [np.zeros(RATE_HZ, np.float32), np.full(1, 0.5, np.float32)], ids=["silence", "short"])
def test_silence_and_a_single_value_have_a_spectrogram(wave):
    assert spectrogram_image(wave, RATE_HZ, noise("a")).shape == SPECTROGRAM_SIZE
    assert spectrogram_image(noise("a"), RATE_HZ, wave).shape == SPECTROGRAM_SIZE


def test_worst_utterances_come_first(page):
    table = page[page.index("Utterances, worst first") :]
    assert re.findall(r"<tr><td>(u\d)</td>", table) == ["u3", "u2", "u1", "u0"]


def test_page_shows_the_metrics(page, waveforms):
    metrics = evaluate_waves(waveforms).means()
    for value in (metrics["log_mel"]["degraded"], metrics["log_mel"]["fine_tuned"], metrics["features"]["ratio"]):
        assert f"{value:.3f}" in page
    assert f"−{100 * metrics['log_mel']['improvement']:.0f} %" in page


def test_first_cards_are_the_gates_verdict_with_what_got_worse_in_red(tmp_path):
    values = {
        "character_error": (0.11, 0.50, 0.30),  # degraded, the baseline, the last system
        "speaker_cosine": (0.70, 0.60, 0.69),
        "dnsmos_ovrl": (2.0, 2.0, 2.6),
        "log_mel": (2.0, 1.0, 1.0),
    }
    systems = ("degraded", "spectral_subtraction", "fine_tuned")
    rows = tuple(
        Row(
            f"u{i}",
            0.6,
            {f"{metric}/{system}": each[k] for metric, each in values.items() for k, system in enumerate(systems)},
        )
        for i in range(4)
    )
    limits = {"distillmos": 0.1, "dnsmos_ovrl": 0.1, "speaker_cosine": 0.05, "character_error": 0.05}
    summary = summarise(Evaluation(rows, systems[1:], RATE_HZ), Bootstrap(50, 0.95, 0), limits)
    write_report(tmp_path / "page.html", summary, [])
    text = (tmp_path / "page.html").read_text()
    tiles = re.findall(r'<div class="tile card (\w+)"><b>(.*?)</b><span>(.*?)</span></div>', text)
    assert tiles == [
        ("worse", "✗ words lost", "Fine-tuned vocoder against degraded speech; speaker, quality kept"),
        ("worse", "0.110 → 0.300", "Character error rate, lower is better: lost"),
        ("worse", "0.700 → 0.690", "Speaker cosine, higher is better: kept"),
        ("better", "2.00 → 2.60", "DNSMOS overall, higher is better: kept"),
        ("even", "–", "DistillMOS, higher is better: not measured"),
    ]
    assert text.index("Words, speaker, quality</h2>") < text.index("<h2>Distances</h2>")
    assert text.count("? not measured") == 1  # not for the baseline
    write_report(tmp_path / "page.html", summarise(summary.evaluation, Bootstrap(50, 0.95, 0)), [])
    assert "no limits were set for a gate" in (tmp_path / "page.html").read_text()


def test_text_from_outside_is_escaped(page):
    assert "<title>A &lt;title&gt;</title>" in page
    assert "<dt>Adapter &amp; co</dt><dd>exp/&lt;a&gt;</dd>" in page


def test_failures_are_listed_with_their_reason(tmp_path, waveforms):
    broken = waveforms | {"<cut>": waveforms["u0"] | {"degraded": waveforms["u0"]["degraded"][:-3]}}
    write_report(tmp_path / "page.html", Summary(evaluate_waves(broken)), [])
    text = (tmp_path / "page.html").read_text()
    Tags(text)
    assert "4 utterances evaluated, 1 failed" in text
    assert '<td>&lt;cut&gt;</td><td class="reason">degraded: 9597 values; clean has 9600</td><td>not counted' in text


def test_evaluation_without_features_has_a_page(tmp_path, waveforms):
    write_report(
        tmp_path / "page.html",
        Summary(evaluate_waves(waveforms, with_features=False)),
        [Example("u0", waveforms["u0"])],
    )
    text = (tmp_path / "page.html").read_text()
    Tags(text)
    assert "Squared error" not in text


@pytest.mark.slow
def test_long_examples_are_shortened_to_keep_the_page_below_its_limit(tmp_path):
    long = {f"u{i}": waves(f"u{i}", seconds=12.0) for i in range(10)}
    evaluation = evaluate_waves(long)
    path = tmp_path / "page.html"
    examples = [Example(name, each) for name, each in long.items()]
    worst = [Example(name, without_pre_trained(each)) for name, each in long.items()]
    write_report(path, Summary(evaluation), examples[:8], worst=worst)
    assert MAX_PAGE_BYTES / 2 < path.stat().st_size <= MAX_PAGE_BYTES
    text = path.read_text()
    (shown,) = re.findall(r"([\d.]+)\ss are shown", text)
    excerpt = soundfile.info(io.BytesIO(Tags(text).sources("audio", "audio/flac")[0]))
    assert excerpt.duration == pytest.approx(float(shown), abs=0.06)
    with pytest.raises(ValueError, match="9 examples; should be at most 8"):
        write_report(path, Summary(evaluation), [Example("u0", long["u0"])] * 9)


def test_equal_input_gives_equal_bytes(tmp_path, waveforms):
    for name in ("first", "second"):
        write_report(tmp_path / name, Summary(evaluate_waves(waveforms)), [Example("u0", waveforms["u0"])])
    assert (tmp_path / "first").read_bytes() == (tmp_path / "second").read_bytes()


def test_interrupted_write_leaves_the_old_page_and_no_temporary_file(tmp_path, waveforms, monkeypatch):
    path = tmp_path / "page.html"
    path.write_text("the old page")

    def disk_full(_descriptor: int) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr("miipher2.atomic_io.os.fsync", disk_full)
    with pytest.raises(OSError, match="no space left"):
        write_report(path, Summary(evaluate_waves(waveforms)), [])
    assert path.read_text() == "the old page"
    assert [entry.name for entry in tmp_path.iterdir()] == ["page.html"]


def test_page_without_clean_recordings_ranks_by_quality(tmp_path, waveforms):
    rows = tuple(
        Row(f"u{i}", 0.6, {"dnsmos_ovrl/degraded": 2.0, "dnsmos_ovrl/fine_tuned": 3.0 - 0.25 * i}) for i in range(4)
    )
    evaluation = Evaluation(rows, ("fine_tuned",), RATE_HZ)
    assert [row.name for row in evaluation.worst_first()] == ["u3", "u2", "u1", "u0"]
    waves = {name: {label: each[label] for label in ("degraded", "fine_tuned")} for name, each in waveforms.items()}
    shown = [Example("u3", waves["u3"])]
    write_report(tmp_path / "page.html", summarise(evaluation, Bootstrap(50, 0.95, 0)), shown, worst=shown)
    text = (tmp_path / "page.html").read_text()
    assert len(Tags(text).sources("audio", "audio/flac")) == 4
    assert "By DNSMOS overall of Fine-tuned vocoder." in text
    assert "<h2>Distances</h2>" not in text
    assert "Log-mel distance ↓</h3>" not in text
    assert re.findall(r"<tr><td>(u\d)</td>", text[text.index("Utterances, worst first") :]) == ["u3", "u2", "u1", "u0"]


def test_metric_that_an_utterance_lacks_does_not_rank_them():
    values = {"dnsmos_ovrl/degraded": 2.0, "distillmos/degraded": 3.0}
    short = Row("short", 0.1, {"distillmos/degraded": 1.0}, skipped={"dnsmos_ovrl/degraded": "0.10 s"})
    assert Evaluation((Row("a", 1.0, values), short), (), RATE_HZ).ranking_metric == "distillmos"
    assert Evaluation((Row("a", 1.0, {}), short), (), RATE_HZ).ranking_metric is None


def test_example_needs_a_degraded_wave_and_equal_lengths(tmp_path, waveforms):
    path: Path = tmp_path / "page.html"
    each = waveforms["u0"]
    with pytest.raises(ValueError, match=r"example 'u0' has .*should have 'degraded'"):
        write_report(path, Summary(evaluate_waves(waveforms)), [Example("u0", {"clean": each["clean"]})])
    with pytest.raises(ValueError, match=r"example 'u0' has .*\(9599,\).*all of its length"):
        write_report(
            path, Summary(evaluate_waves(waveforms)), [Example("u0", each | {"degraded": each["degraded"][:-1]})]
        )
    assert not path.exists()
