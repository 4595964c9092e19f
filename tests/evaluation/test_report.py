"""The report: one page that holds everything, on one colour scale, in order, below its size, whole or absent."""

import base64
import io
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import soundfile
from PIL import Image

from miipher2.evaluation.bootstrap import Bootstrap
from miipher2.evaluation.evaluate import Evaluation, Features, Item, Row, evaluate
from miipher2.evaluation.outputs import Findings
from miipher2.evaluation.report import PAGE_BYTES, write_report
from miipher2.evaluation.report_examples import SMALL, Example
from miipher2.evaluation.spectrogram_image import COLOURS, SPECTROGRAM_SIZE, spectrogram_image
from miipher2.evaluation.summary import table
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


def evaluated(made: dict[str, dict[str, np.ndarray]], with_features: bool = True) -> Evaluation:
    items = [
        Item(name, one["clean"], one["degraded"], features() if with_features else None) for name, one in made.items()
    ]
    systems = {label: lambda name, label=label: made[name][label] for label in ("pre_trained", "fine_tuned")}
    return evaluate(items, systems, RATE_HZ)


@pytest.fixture(scope="module")
def made() -> dict[str, dict[str, np.ndarray]]:
    return {f"u{i}": waves(f"u{i}", error=0.01 * (i + 1)) for i in range(4)}


def triple(made: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {label: made[label] for label in ("clean", "degraded", "fine_tuned")}


@pytest.fixture(scope="module")
def page(made: dict, tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("report") / "made" / "evaluate.html"
    examples = [Example(name, made[name]) for name in ("u3", "u0")]
    worst = [Example(name, triple(made[name])) for name in ("u3", "u2")]
    write_report(
        path, Findings(evaluated(made)), examples, worst=worst, title="A <title>", about={"Adapter & co": "exp/<a>"}
    )
    return path.read_text(encoding="utf-8")


class Tags(HTMLParser):
    """Collects attributes, and sees that every element is closed where it should be."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.found.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def sources(self, tag: str, kind: str) -> list[bytes]:
        prefix = f"data:{kind};base64,"
        texts = [attributes["src"] or "" for name, attributes in self.found if name == tag]
        assert all(text.startswith(prefix) for text in texts)
        return [base64.b64decode(text.removeprefix(prefix), validate=True) for text in texts]


def test_the_page_is_well_formed_and_asks_the_network_for_nothing(page):
    tags = Tags(page)
    links = [(tag, key) for tag, attributes in tags.found for key in attributes if key in ("href", "srcset", "action")]
    assert links == []
    assert "http" not in page.replace("http-equiv", "")
    assert "url(" not in page
    assert "$" not in re.sub(r'src="[^"]*"', "", page)


def test_every_wave_of_an_example_can_be_heard_as_it_is(page, made):
    players = Tags(page).sources("audio", "audio/flac")
    assert len(players) == 8 + 6
    expected = [(name, label) for name in ("u3", "u0") for label in made[name]]
    expected += [(name, label) for name in ("u3", "u2") for label in triple(made[name])]
    for data, (name, label) in zip(players, expected, strict=True):
        heard, rate_hz = soundfile.read(io.BytesIO(data), dtype="float32")
        assert rate_hz == RATE_HZ
        np.testing.assert_allclose(heard, made[name][label], atol=1 / 32_768)


def test_every_wave_of_an_example_has_its_spectrogram(page, made):
    pictures = Tags(page).sources("img", "image/png")
    sizes = [Image.open(io.BytesIO(data)).size for data in pictures]
    assert sizes == [SPECTROGRAM_SIZE[::-1]] * 8 + [SMALL[::-1]] * 6
    first = np.asarray(Image.open(io.BytesIO(pictures[1])).convert("P"))
    clean, degraded = made["u3"]["clean"], made["u3"]["degraded"]
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
def test_silence_and_a_single_value_have_a_picture(wave):
    assert spectrogram_image(wave, RATE_HZ, noise("a")).shape == SPECTROGRAM_SIZE
    assert spectrogram_image(noise("a"), RATE_HZ, wave).shape == SPECTROGRAM_SIZE


def test_the_worst_utterances_come_first(page):
    table = page[page.index("Utterances, worst first") :]
    assert re.findall(r"<tr><td>(u\d)</td>", table) == ["u3", "u2", "u1", "u0"]


def test_the_page_states_the_metrics(page, made):
    metrics = evaluated(made).metrics()
    for value in (metrics["log_mel"]["degraded"], metrics["log_mel"]["fine_tuned"], metrics["features"]["ratio"]):
        assert f"{value:.3f}" in page
    assert f"{metrics['features']['ratio']:.2f}</b>" in page
    assert f"−{100 * metrics['log_mel']['improvement']:.0f} %" in page


def test_words_from_outside_cannot_be_markup(page):
    assert "<title>A &lt;title&gt;</title>" in page
    assert "<dt>Adapter &amp; co</dt><dd>exp/&lt;a&gt;</dd>" in page


def test_failures_are_listed_with_their_reason(tmp_path, made):
    broken = made | {"<cut>": made["u0"] | {"degraded": made["u0"]["degraded"][:-3]}}
    write_report(tmp_path / "page.html", Findings(evaluated(broken)), [])
    text = (tmp_path / "page.html").read_text()
    Tags(text)
    assert "4 utterances evaluated, 1 failed" in text
    assert '<td>&lt;cut&gt;</td><td class="reason">degraded: 9597 values; clean has 9600</td><td>not counted' in text


def test_an_evaluation_without_features_has_a_page(tmp_path, made):
    write_report(tmp_path / "page.html", Findings(evaluated(made, with_features=False)), [Example("u0", made["u0"])])
    text = (tmp_path / "page.html").read_text()
    Tags(text)
    assert "Squared error" not in text


def test_eight_long_examples_and_the_worst_ten_stay_below_the_limit(tmp_path):
    long = {f"u{i}": waves(f"u{i}", seconds=12.0) for i in range(10)}
    evaluation = evaluated(long)
    path = tmp_path / "page.html"
    examples = [Example(name, one) for name, one in long.items()]
    worst = [Example(name, triple(one)) for name, one in long.items()]
    write_report(path, Findings(evaluation), examples[:8], worst=worst)
    assert PAGE_BYTES / 2 < path.stat().st_size <= PAGE_BYTES
    text = path.read_text()
    (shown,) = re.findall(r"([\d.]+)\ss are shown", text)
    heard = soundfile.info(io.BytesIO(Tags(text).sources("audio", "audio/flac")[0]))
    assert heard.duration == pytest.approx(float(shown), abs=0.06)
    with pytest.raises(ValueError, match="9 examples; should be at most 8"):
        write_report(path, Findings(evaluation), [Example("u0", long["u0"])] * 9)


def test_equal_input_gives_equal_bytes(tmp_path, made):
    for name in ("first", "second"):
        write_report(tmp_path / name, Findings(evaluated(made)), [Example("u0", made["u0"])])
    assert (tmp_path / "first").read_bytes() == (tmp_path / "second").read_bytes()


def test_an_interrupted_writing_leaves_the_old_page_and_no_rest(tmp_path, made, monkeypatch):
    path = tmp_path / "page.html"
    path.write_text("the old page")

    def disk_full(_descriptor: int) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr("miipher2.atomic_io.os.fsync", disk_full)
    with pytest.raises(OSError, match="no space left"):
        write_report(path, Findings(evaluated(made)), [])
    assert path.read_text() == "the old page"
    assert [entry.name for entry in tmp_path.iterdir()] == ["page.html"]


def test_without_clean_recordings_the_page_orders_by_quality_and_shows_what_there_is(tmp_path, made):
    rows = tuple(
        Row(f"u{i}", 0.6, {"dnsmos_ovrl/degraded": 2.0, "dnsmos_ovrl/fine_tuned": 3.0 - 0.25 * i}) for i in range(4)
    )
    evaluation = Evaluation(rows, ("fine_tuned",), RATE_HZ)
    assert [row.name for row in evaluation.worst_first()] == ["u3", "u2", "u1", "u0"]
    waves = {name: {label: one[label] for label in ("degraded", "fine_tuned")} for name, one in made.items()}
    lines = table(evaluation, Bootstrap(50, 0.95, 0))
    shown = [Example("u3", waves["u3"])]
    write_report(tmp_path / "page.html", Findings(evaluation, lines), shown, worst=shown)
    text = (tmp_path / "page.html").read_text()
    assert len(Tags(text).sources("audio", "audio/flac")) == 4
    assert "By DNSMOS overall of Fine-tuned vocoder." in text
    assert "<b>2.62</b><span>DNSMOS overall, restored; degraded 2.00</span>" in text
    assert "<h2>Means</h2>" not in text
    assert "Log-mel distance</h3>" not in text
    assert re.findall(r"<tr><td>(u\d)</td>", text[text.index("Utterances, worst first") :]) == ["u3", "u2", "u1", "u0"]


def test_a_metric_that_some_utterance_lacks_does_not_order_them():
    values = {"dnsmos_ovrl/degraded": 2.0, "distillmos/degraded": 3.0}
    short = Row("short", 0.1, {"distillmos/degraded": 1.0}, skipped={"dnsmos_ovrl/degraded": "0.10 s"})
    assert Evaluation((Row("a", 1.0, values), short), (), RATE_HZ).ranked_by == "distillmos"
    assert Evaluation((Row("a", 1.0, {}), short), (), RATE_HZ).ranked_by is None


def test_an_example_needs_a_degraded_wave_and_equal_lengths(tmp_path, made):
    path: Path = tmp_path / "page.html"
    one = made["u0"]
    with pytest.raises(ValueError, match=r"example 'u0' has .*should have 'degraded'"):
        write_report(path, Findings(evaluated(made)), [Example("u0", {"clean": one["clean"]})])
    with pytest.raises(ValueError, match=r"example 'u0' has .*\(9599,\).*all as long as it"):
        write_report(path, Findings(evaluated(made)), [Example("u0", one | {"degraded": one["degraded"][:-1]})])
    assert not path.exists()
