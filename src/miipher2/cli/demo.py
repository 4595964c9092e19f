"""`miipher2 demo`: a page on which recordings are uploaded or recorded, restored, played and shown, on this machine."""

import argparse
import functools
import importlib.util
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from miipher2.cli.arguments import text
from miipher2.cli.restore import add_restore_options, load_restorer, restore_options, weights_folders
from miipher2.config.schema_data import PRECISIONS

if TYPE_CHECKING:
    import gradio as gr
    import numpy as np

    from miipher2.inference.files import Task
    from miipher2.inference.restorer import Restorer

DEMO = """\
Serve a page to upload or record speech, and to play and see it before and after its restoration. It needs the extra
`demo` (uv sync --extra demo) and no network: fonts and scripts come from this machine, and nothing is sent elsewhere.
There is no password: anyone who can reach HOST:PORT can use it. Ctrl-C stops it.

examples:
  miipher2 demo
  miipher2 demo --bundle bundle/ --device cuda --port 8080
"""
HEADING = (
    "# Speech restoration\nUpload or record speech, press **Restore**, and compare. Everything stays on this host."
)
PICTURE_SECONDS = 30  # the pictures show the beginning of a longer recording
FLOOR_DB = -80.0  # relative to the peak
CACHE_SECONDS = 3600  # uploads and results are removed after that, and when the page stops


def add_parser(commands: Any) -> None:
    """Add `demo` to the command line."""
    parser = commands.add_parser("demo", help="try it in a browser: play and see before and after", description=DEMO)
    add_restore_options(parser)
    parser.add_argument(
        "--host", type=text, default="127.0.0.1", help="address to listen on (default: 127.0.0.1, this host only)"
    )
    parser.add_argument("--port", type=int, default=7860, metavar="N", help="port to listen on (default: 7860)")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Serve until the process is interrupted."""
    if not 1 <= arguments.port <= 65_535:
        raise ValueError(f"--port {arguments.port}: should be from 1 to 65535")
    if importlib.util.find_spec("gradio") is None:
        raise ValueError("the page needs gradio, which is not installed: uv sync --extra demo")
    folders, options = weights_folders(arguments), restore_options(arguments)

    @functools.lru_cache(maxsize=4)
    def restorer_for(device: str, precision: str) -> "Restorer":
        return load_restorer(folders, replace(options, device=device, precision=precision))

    restorer_for(options.device, options.precision)  # an error in the weights is reported now
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a shell's background ignores SIGINT itself
    with tempfile.TemporaryDirectory(prefix="miipher2-demo-") as folder:
        # Read when gradio is imported; uploads and results go to the folder.
        os.environ |= {"GRADIO_ANALYTICS_ENABLED": "False", "GRADIO_TEMP_DIR": folder}
        page = make_page(restorer_for, _devices(options.device), options.precision)
        try:
            _, address, _ = page.launch(
                server_name=arguments.host,
                server_port=arguments.port,
                share=False,
                quiet=True,
                ssr_mode=False,
                footer_links=[],
                prevent_thread_lock=True,
            )
        except OSError as error:
            raise OSError(
                f"{arguments.host}:{arguments.port}: cannot listen there; should be an address of this host, and a "
                "--port that no other process uses"
            ) from error
        sys.stdout.write(f"{address} shows the page; Ctrl-C stops it\n")
        sys.stdout.flush()
        try:
            threading.Event().wait()
        except KeyboardInterrupt:
            page.close(verbose=False)
    return 0


def make_page(
    restorer_for: Callable[[str, str], "Restorer"], devices: Sequence[str], default_precision: str
) -> "gr.Blocks":
    """Return the page, ready to launch.

    Args:
        restorer_for: returns the restorer for a device and a precision, the same one when called again.
        devices: to choose from; the first is the default.
    """
    import gradio as gr

    def restore(
        path: str | None,
        device: str,
        precision: str,
        progress: gr.Progress = gr.Progress(),  # noqa: B008 - gradio finds it there
    ) -> tuple[str, "np.ndarray", "np.ndarray", str]:
        if path is None:
            raise _error("There is no recording yet: upload one, or record one.")
        source = Path(path)
        target = Path(tempfile.mkdtemp(prefix="miipher2-")) / f"{source.stem}_restored.wav"
        try:
            return _restore_file(restorer_for(device, precision), source, target, progress)
        finally:
            target.unlink(missing_ok=True)  # the page serves its own copy
            target.parent.rmdir()

    def picture(name: str) -> gr.Image:
        label, ident = f"Log-mel {name}", f"mel_{name}"
        return gr.Image(label=label, show_label=False, interactive=False, format="png", buttons=[], elem_id=ident)

    with gr.Blocks(title="Speech restoration", analytics_enabled=False, delete_cache=(600, CACHE_SECONDS)) as page:
        gr.Markdown(HEADING)
        with gr.Row():
            with gr.Column():
                before = gr.Audio(
                    label="Before",
                    sources=["upload", "microphone"],
                    type="filepath",
                    buttons=["download"],
                    elem_id="before",
                )
                recording_text = gr.Textbox(label="Recording", interactive=False, elem_id="recording")
            with gr.Column():
                after = gr.Audio(
                    label="After", type="filepath", interactive=False, buttons=["download"], elem_id="after"
                )
                restoration_text = gr.Textbox(label="Restoration", interactive=False, elem_id="restoration")
        with gr.Row():
            device_choice = gr.Dropdown(list(devices), value=devices[0], label="Device")
            precision_choice = gr.Radio(list(PRECISIONS), value=default_precision, label="Precision")
            button = gr.Button("Restore", variant="primary", elem_id="restore")
        with gr.Row():
            picture_before, picture_after = picture("before"), picture("after")
        results = [after, picture_before, picture_after, restoration_text]
        before.change(
            lambda path: (describe(path), None, None, None, ""), before, [recording_text, *results], api_name=False
        )
        button.click(restore, [before, device_choice, precision_choice], results, api_name="restore")
    return page


def describe(path: str | None) -> str:
    """Return a recording's name, duration, rate and channels, or what is wrong with it."""
    from miipher2.audio.decode import AudioError
    from miipher2.audio.stream import Recording

    if path is None:
        return ""
    try:
        recording = Recording(path)
    except AudioError as error:
        return _without_folder(str(error), Path(path))
    channels = "mono" if recording.channels == 1 else f"{recording.channels} channels"
    seconds = recording.samples / recording.sample_rate_hz
    return f"{recording.path.name}: {seconds:.2f} s, {recording.sample_rate_hz} Hz, {channels}"


def log_mel_picture(
    wave: "np.ndarray", sample_rate_hz: int, title: str, peak_db: float | None = None
) -> tuple["np.ndarray", float]:
    """Return a picture [row column 3] of a wave's log-mel with axes, and the level of its loudest point in dB.

    Args:
        peak_db: level of the brightest colour; by default the wave's own loudest point.
    """
    import numpy as np
    import torch
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    from miipher2.audio.spectrogram import log_mel_db

    decibels = log_mel_db(torch.from_numpy(wave), sample_rate_hz).numpy()
    peak = float(decibels.max()) if peak_db is None else peak_db
    figure = Figure(figsize=(6.4, 3.2), dpi=100, layout="constrained")
    axes = figure.subplots()
    extent = (0.0, len(wave) / sample_rate_hz, 0.0, float(len(decibels)))
    axes.imshow(decibels, origin="lower", aspect="auto", extent=extent, vmin=peak + FLOOR_DB, vmax=peak)
    axes.set(xlabel="seconds", ylabel="mel band", title=f"{title}, 0 to {sample_rate_hz / 2000:g} kHz")
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy(), peak


def _restore_file(
    restorer: "Restorer", source: Path, target: Path, progress: Callable[..., Any]
) -> tuple[str, "np.ndarray", "np.ndarray", str]:
    """Restore a file; return the page's copy of it, both pictures and a description."""
    import gradio as gr

    from miipher2.inference.batch_job import Job
    from miipher2.inference.files import Task

    done = 0.0

    def advance(_: "Task", share: float, __: float) -> None:
        nonlocal done
        done += share
        progress(min(done, 1.0), desc="restoring")

    started = time.monotonic()
    outcome = Job(restorer, None, on_progress=advance).run([Task(source, target, target.name)])
    seconds = time.monotonic() - started
    if outcome.failed:
        raise _error(_without_folder(outcome.failed[0][1], source))
    rate_hz = restorer.sample_rate_hz
    picture_before, peak_db = log_mel_picture(_read_beginning(source, rate_hz), rate_hz, "Before")
    picture_after, _ = log_mel_picture(_read_beginning(target, rate_hz), rate_hz, "After", peak_db)
    copy = gr.processing_utils.save_file_to_cache(target, gr.utils.get_upload_folder())
    speed = f"in {seconds:.1f} s, {outcome.seconds / seconds:.1f} x real time"
    return (
        copy,
        picture_before,
        picture_after,
        f"{describe(str(target))}; {speed}, on {restorer.device} in {restorer.options.precision}",
    )


def _read_beginning(path: Path, sample_rate_hz: int) -> "np.ndarray":
    """Return the beginning of a recording at a sample rate, its channels averaged."""
    import numpy as np

    from miipher2.audio.resample import resample
    from miipher2.audio.stream import Recording

    recording = Recording(path)
    samples = PICTURE_SECONDS * recording.sample_rate_hz
    blocks: list[np.ndarray] = []
    for block in recording.blocks():
        blocks.append(block.mean(0))
        if sum(map(len, blocks)) >= samples:
            break
    return resample(np.concatenate(blocks)[:samples].astype(np.float32), recording.sample_rate_hz, sample_rate_hz)


def _devices(default: str) -> list[str]:
    """Return the devices of this machine, the default first."""
    import torch

    devices = ["cpu", *(f"cuda:{number}" for number in range(torch.cuda.device_count()))]
    return [default, *(each for each in devices if each != default and (each, default) != ("cuda:0", "cuda"))]


def _error(reason: str) -> Exception:
    import gradio as gr

    return gr.Error(reason, title="Not restored", print_exception=False)


def _without_folder(text: str, path: Path) -> str:
    """Return a message that names the file as the user does, not where the page keeps it."""
    return text.replace(f"{path.parent}/", "")
