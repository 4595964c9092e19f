"""The report in a real browser, where one is installed: it renders, decodes its pictures and sounds, without errors."""

import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from miipher2.evaluation.evaluate import Utterance, evaluate
from miipher2.evaluation.report import Example, write_report
from miipher2.evaluation.summary import Bootstrap, summarise
from miipher2.rng import stream

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
RATE_HZ = 16_000
# The page writes, once all is decoded, its number of pictures and sounds, and by how much it exceeds the window's
# width.
PROBE = """<script>
window.addEventListener("load", function () {
  var sounds = Array.from(document.querySelectorAll("audio"));
  Promise.all(sounds.map(function (sound) {
    return sound.readyState ? null : new Promise(function (done) { sound.onloadedmetadata = sound.onerror = done; });
  })).then(function () {
    document.body.dataset.probe = [
      Array.from(document.images).filter(function (image) { return [440, 293].includes(image.naturalWidth); }).length,
      sounds.filter(function (sound) { return Math.abs(sound.duration - 0.5) < 0.01; }).length,
      Math.max(0, document.documentElement.scrollWidth - innerWidth)].join(",");
  });
});
</script></body>"""


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    clean = {f"u{i}": (0.1 * stream(i, "clean").standard_normal(RATE_HZ // 2)).astype(np.float32) for i in range(3)}
    noise = (0.05 * stream(9, "noise").standard_normal(RATE_HZ // 2)).astype(np.float32)
    labels = {"degradation": ("noise",), "snr": ("5 to 10 dB",)}
    utterances = [Utterance(name, wave, wave + noise, labels=labels) for name, wave in clean.items()]
    evaluation = evaluate(utterances, {"restored": lambda name: clean[name] + 0.2 * noise}, RATE_HZ)
    summary = summarise(evaluation, Bootstrap(100, 0.95, 0), {"log_mel": 0.05})
    path = tmp_path_factory.mktemp("browser") / "index.html"
    waves = {"clean": clean["u0"], "degraded": clean["u0"] + noise, "restored": clean["u0"] + 0.2 * noise}
    write_report(path, summary, [Example("u0", waves)], worst=[Example("u0", waves)])
    return path


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="no chromium here; apt-get install chromium")
@pytest.mark.parametrize("width", [500, 1280])
def test_page_renders_and_plays_at_any_width(width: int, page: Path, tmp_path: Path) -> None:
    probed = tmp_path / "probed.html"
    probed.write_text(page.read_text().replace("</body>", PROBE))
    process = _browse("--dump-dom", "--virtual-time-budget=20000", f"--window-size={width},3000", f"file://{probed}")
    assert "CONSOLE" not in process.stderr
    (counts,) = re.findall(r'data-probe="([^"]*)"', process.stdout)
    assert counts == "6,6,0"
    picture = tmp_path / "page.png"
    _browse("--hide-scrollbars", f"--window-size={width},3000", f"--screenshot={picture}", f"file://{page}")
    assert len(np.unique(np.asarray(Image.open(picture).convert("L")))) > 100


def _browse(*words: str) -> subprocess.CompletedProcess[str]:
    assert BROWSER is not None
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", *words]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=180)
