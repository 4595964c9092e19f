"""`miipher2 demo`: its messages and pictures; and the page in a real browser, where one is installed."""

import base64
import importlib.util
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest
from chromium import BROWSER, TEXT, Chromium
from PIL import Image
from tiny_weights import publish_all

from miipher2.audio.io import write_audio
from miipher2.cli.main import main
from miipher2.rng import stream

# As a shell starts a process in the background: without SIGINT.
START = "import signal, sys; signal.signal(signal.SIGINT, signal.SIG_IGN); "
START += "from miipher2.cli.main import main; sys.exit(main(sys.argv[1:]))"


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recordings") / "höre mich an.flac"
    write_audio(path, (0.1 * stream(0, "speech").standard_normal((2, 44_100))).astype(np.float32), 44_100)
    return path


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Return the address at which `miipher2 demo` serves."""
    root = tmp_path_factory.mktemp("weights")
    publish_all(root, "hubert", absolute=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = ["demo", "--adapter", root / "adapter", "--vocoder", root / "vocoder", "--port", port]
    (root / "temporary").mkdir()
    process = subprocess.Popen(
        [sys.executable, "-c", START, *map(str, words)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(root / "temporary")},
    )
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line == f"http://127.0.0.1:{port}/ shows the page; Ctrl-C stops it\n"
    yield line.split()[0]
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 0
    assert list((root / "temporary").iterdir()) == []  # uploads and results are gone


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Chromium]:
    browser = Chromium(tmp_path / "profile")
    yield browser
    browser.close()


RECORDING, RESTORATION = (f"document.querySelector('#{name} textarea').value" for name in ("recording", "restoration"))
CHOOSER = "#before input[type=file]"


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="no chromium here; apt-get install chromium")
def test_recording_is_played_and_shown_before_and_after(
    address: str, recording: Path, browser: Chromium, tmp_path: Path
) -> None:
    browser("Page.navigate", url=address)
    browser.wait_for(f"document.querySelector('{CHOOSER}')?.isConnected")
    browser.choose_file(CHOOSER, recording)
    assert browser.wait_for(RECORDING) == "höre mich an.flac: 1.00 s, 44100 Hz, 2 channels"
    browser.click("#restore")
    description = r"höre mich an_restored\.wav: 1\.00 s, 16000 Hz, 2 channels; in .* s, .* x real time, on cpu in fp32"
    assert re.fullmatch(description, browser.wait_for(RESTORATION))
    pictures = "Array.from(document.querySelectorAll('#mel_before img, #mel_after img'))"
    browser.wait_for(f"{pictures}.filter(one => one.naturalWidth == 640).length == 2")
    after = browser.wait_for("document.querySelector('#after a[download]')?.href")
    duration = f"new Promise(go => {{ var a = new Audio('{after}'); a.onloadedmetadata = () => go(a.duration); }})"
    assert browser.evaluate(duration) == 1.0
    shot = tmp_path / "page.png"
    shot.write_bytes(base64.b64decode(browser("Page.captureScreenshot")["data"]))
    assert len(np.unique(np.asarray(Image.open(shot).convert("L")))) > 100
    hosts = {urlsplit(url).hostname for url in browser.requests if urlsplit(url).scheme not in ("data", "blob")}
    assert hosts == {"127.0.0.1"}  # no font, script or telemetry from elsewhere
    assert browser.errors == []


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="no chromium here; apt-get install chromium")
def test_error_names_a_recording_that_cannot_be_restored(address: str, browser: Chromium, tmp_path: Path) -> None:
    browser("Page.navigate", url=address)
    browser.wait_for(f"document.querySelector('{CHOOSER}')?.isConnected")
    browser.click("#restore")
    browser.wait_for(f"{TEXT}.includes('There is no recording yet')")
    (tmp_path / "not audio.wav").write_bytes(b"not audio")
    browser.choose_file(CHOOSER, tmp_path / "not audio.wav")
    assert browser.wait_for(RECORDING).startswith("not audio.wav: cannot be read as sound")
    browser.click("#restore")
    browser.wait_for(f"{TEXT}.includes('not audio.wav: cannot be read as sound')")
    assert browser.evaluate(RESTORATION) == ""


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="no chromium here; apt-get install chromium")
def test_speech_is_recorded_in_the_page(address: str, browser: Chromium) -> None:
    """Chromium's fake microphone beeps."""
    browser("Page.navigate", url=address)
    browser.wait_for(f"document.querySelector('{CHOOSER}')?.isConnected")
    browser.click("#before button[aria-label*='icrophone'], #before .source-selection button:nth-child(2)")
    browser.wait_for("document.querySelector('#before .record-button')?.isConnected")
    browser.click("#before .record-button")
    browser.evaluate("new Promise(go => setTimeout(go, 1500))")
    browser.click("#before .stop-button")
    assert re.fullmatch(r"audio\.wav: [12]\.\d\d s, \d+ Hz, .*", browser.wait_for(RECORDING))
    browser.click("#restore")
    assert "x real time" in browser.wait_for(RESTORATION)


@pytest.mark.slow
def test_used_port_is_reported(tmp_path: Path) -> None:
    publish_all(tmp_path, "hubert", absolute=True)
    with socket.socket() as used:
        used.bind(("127.0.0.1", 0))
        used.listen()
        words = ["demo", "--adapter", tmp_path / "adapter", "--vocoder", tmp_path / "vocoder"]
        words += ["--port", used.getsockname()[1]]
        command = [sys.executable, "-c", START, *map(str, words)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 2
    assert "cannot listen there; should be an address of this host" in done.stderr.splitlines()[-1]


@pytest.mark.filterwarnings("ignore")  # gradio's own
@pytest.mark.parametrize("samples", [1, 4_000])
def test_pictures_share_one_scale_and_accept_any_length(samples: int) -> None:
    from miipher2.cli.demo import log_mel_picture

    wave = (0.1 * stream(0, "wave").standard_normal(samples)).astype(np.float32)
    picture, peak_db = log_mel_picture(wave, 16_000, "Before")
    again, same = log_mel_picture(wave, 16_000, "Before", peak_db)
    assert picture.shape == (320, 640, 3)
    assert same == peak_db
    np.testing.assert_array_equal(again, picture)
    quieter, _ = log_mel_picture(0.1 * wave, 16_000, "Before", peak_db)
    assert quieter[100:200, 100:500].mean() < picture[100:200, 100:500].mean()


def test_mistakes_are_reported_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    find = importlib.util.find_spec
    for words, message in [
        (["--port", "0"], "--port 0: should be from 1 to 65535"),
        (["--adapter", str(tmp_path)], "--vocoder is missing"),
        (["--adapter", str(tmp_path), "--vocoder", str(tmp_path)], "config.yaml: missing"),
    ]:
        assert main(["demo", *words]) == 2
        assert message in capsys.readouterr().err
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "gradio" else find(name))
    assert main(["demo"]) == 2
    assert capsys.readouterr().err.endswith("is not installed: uv sync --extra demo\n")
