"""The page to try a restorer: a recording uploaded or spoken, heard and seen before and after, on this host."""

import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
import torch
from jaxtyping import Float32, UInt8
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from miipher2.audio.io import AudioError
from miipher2.audio.resample import resample
from miipher2.audio.spectrogram import log_mel_db
from miipher2.audio.stream import Recording
from miipher2.inference.batch_job import Job
from miipher2.inference.journal import Task
from miipher2.inference.restorer import PRECISIONS, Restorer

SHOWN_SECONDS = 30  # of a longer recording the pictures show the beginning
FLOOR_DB = -80.0
KEPT_SECONDS = 3600  # uploads and results are removed after that, and when the page ends
HEADING = (
    "# Speech restoration\nUpload or record speech, press **Restore**, and compare. Everything stays on this host."
)


def make_page(restorer_for: Callable[[str, str], Restorer], devices: Sequence[str], precision: str) -> gr.Blocks:
    """Return the page, to be launched.

    Args:
        restorer_for: gives the restorer of a device and a precision; the same one when asked again.
        devices: there are; the first is chosen.
        precision: chosen at first.
    """

    def restore(
        path: str | None,
        device: str,
        precision: str,
        progress: gr.Progress = gr.Progress(),  # noqa: B008 - gradio finds it there
    ) -> tuple[str, np.ndarray, np.ndarray, str]:
        source = _chosen(path)
        target = Path(tempfile.mkdtemp(prefix="miipher2-")) / f"{source.stem}_restored.wav"
        try:
            return _restored(restorer_for(device, precision), source, target, progress)
        finally:
            target.unlink(missing_ok=True)  # the page serves its own copy
            target.parent.rmdir()

    with gr.Blocks(title="Speech restoration", analytics_enabled=False, delete_cache=(600, KEPT_SECONDS)) as page:
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
                heard = gr.Textbox(label="Recording", interactive=False, elem_id="heard")
            with gr.Column():
                after = gr.Audio(
                    label="After", type="filepath", interactive=False, buttons=["download"], elem_id="after"
                )
                made = gr.Textbox(label="Restoration", interactive=False, elem_id="made")
        with gr.Row():
            device_choice = gr.Dropdown(list(devices), value=devices[0], label="Device")
            precision_choice = gr.Radio(list(PRECISIONS), value=precision, label="Precision")
            button = gr.Button("Restore", variant="primary", elem_id="restore")
        with gr.Row():
            seen_before, seen_after = (
                gr.Image(
                    label=f"Log-mel {name}",
                    show_label=False,
                    interactive=False,
                    format="png",
                    buttons=[],
                    elem_id=f"mel_{name}",
                )
                for name in ("before", "after")
            )
        results = [after, seen_before, seen_after, made]
        before.change(lambda path: (describe(path), None, None, None, ""), before, [heard, *results], api_name=False)
        button.click(restore, [before, device_choice, precision_choice], results, api_name="restore")
    return page


def describe(path: str | None) -> str:
    """Return a recording's name, duration, rate and channels, or what is wrong with it."""
    if path is None:
        return ""
    try:
        found = Recording(path)
    except AudioError as error:
        return _without_folder(str(error), Path(path))
    channels = "mono" if found.channels == 1 else f"{found.channels} channels"
    return f"{found.path.name}: {found.samples / found.sample_rate_hz:.2f} s, {found.sample_rate_hz} Hz, {channels}"


def log_mel_picture(
    wave: Float32[np.ndarray, " time"], sample_rate_hz: int, title: str, loudest_db: float | None = None
) -> tuple[UInt8[np.ndarray, "row column 3"], float]:
    """Return a picture of a wave's log-mel, with its axes, and the level of its loudest point.

    Args:
        loudest_db: what the brightest colour stands for; the wave's own loudest point by default.
    """
    decibels = log_mel_db(torch.from_numpy(wave), sample_rate_hz).numpy()
    loudest = float(decibels.max()) if loudest_db is None else loudest_db
    figure = Figure(figsize=(6.4, 3.2), dpi=100, layout="constrained")
    axes = figure.subplots()
    extent = (0.0, len(wave) / sample_rate_hz, 0.0, float(len(decibels)))
    axes.imshow(decibels, origin="lower", aspect="auto", extent=extent, vmin=loudest + FLOOR_DB, vmax=loudest)
    axes.set(xlabel="seconds", ylabel="mel band", title=f"{title}, 0 to {sample_rate_hz / 2000:g} kHz")
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy(), loudest


def _restored(
    restorer: Restorer, source: Path, target: Path, progress: Callable[..., Any]
) -> tuple[str, np.ndarray, np.ndarray, str]:
    """Restore a file; return the page's copy of it, both pictures and what is said."""
    done = 0.0

    def go_on(_: Task, share: float, __: float) -> None:
        nonlocal done
        done += share
        progress(min(done, 1.0), desc="restoring")

    started = time.monotonic()
    outcome = Job(restorer, None, on_progress=go_on).run([Task(source, target, target.name)])
    took = time.monotonic() - started
    if outcome.failed:
        raise _said(_without_folder(outcome.failed[0][1], source))
    pictures, loudest = [], None
    for path, title in ((source, "Before"), (target, "After")):
        wave = _beginning(path, restorer.sample_rate_hz)
        picture, own = log_mel_picture(wave, restorer.sample_rate_hz, title, loudest)
        loudest = own if loudest is None else loudest
        pictures.append(picture)
    kept = gr.processing_utils.save_file_to_cache(target, gr.utils.get_upload_folder())
    speed = f"in {took:.1f} s, {outcome.seconds / took:.1f} x real time"
    return kept, pictures[0], pictures[1], f"{describe(str(target))}; {speed}, on {restorer.device}"


def _beginning(path: Path, sample_rate_hz: int) -> Float32[np.ndarray, " time"]:
    """Return what the pictures show: the mean of the channels, at the rate of what is restored."""
    recording, blocks, held = Recording(path), [], 0
    for block in recording.blocks():
        blocks.append(block.mean(0))
        held += block.shape[1]
        if held >= SHOWN_SECONDS * recording.sample_rate_hz:
            break
    wave = np.concatenate(blocks)[: SHOWN_SECONDS * recording.sample_rate_hz].astype(np.float32)
    return resample(wave, recording.sample_rate_hz, sample_rate_hz)


def _chosen(path: str | None) -> Path:
    if path is None:
        raise _said("There is no recording yet: upload one, or record one.")
    return Path(path)


def _said(reason: str) -> gr.Error:
    return gr.Error(reason, title="Not restored", print_exception=False)


def _without_folder(text: str, path: Path) -> str:
    """Return a message that names the file as the user does, not where the page keeps it."""
    return text.replace(f"{path.parent}/", "")
