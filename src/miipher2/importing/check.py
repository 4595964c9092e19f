"""Compares what was imported with the TorchScript program that it came from, which means running the program's code."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from miipher2.config.schema_data import FRAMES_PER_SECOND, HOP_SAMPLES
from miipher2.importing.torch_file import SourceError
from miipher2.importing.torchscript import Program
from miipher2.inference.weights import Vocoder
from miipher2.models.encoder.encoder import EncoderFrames, SpeechEncoder

MAX_DIFFERENCE = 1e-3  # of the largest value
FRAMES = 2 * FRAMES_PER_SECOND
LAST_FRAMES = 2  # of the decoder, which differ, since the source's output is shorter


def check_encoder(program: Program, encoder: SpeechEncoder) -> float:
    """Return the largest difference between the features of noise, relative to the largest feature.

    Raises:
        SourceError: it is above `MAX_DIFFERENCE`, or the program cannot run here.
    """
    waves = 0.1 * torch.randn(1, FRAMES * HOP_SAMPLES, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        frames = encoder.front_end(waves)
        ours = encoder.encode_frames(EncoderFrames(encoder.project(frames), None), adapted=True)
    theirs = _run(program, frames)
    return _compare(program, ours, theirs.get("last_hidden_state") if isinstance(theirs, dict) else theirs)


def check_decoder(program: Program, vocoder: Vocoder, dim: int) -> float:
    """Return the largest difference between the waves of random features, relative to the largest sample.

    Args:
        dim: size of a feature.

    Raises:
        SourceError: it is above `MAX_DIFFERENCE`, or the program cannot run here.
    """
    features = torch.randn(1, FRAMES, dim, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        ours = vocoder(features)
    theirs = _run(program, features.mT)
    samples = (FRAMES - LAST_FRAMES) * vocoder.generator.hop_samples
    return _compare(program, ours[:, :samples], theirs.flatten(1)[:, :samples] if _is_wave(theirs) else theirs)


def _run(program: Program, values: Tensor) -> Any:
    """Return what a program makes of some values, on the CPU."""
    if program.is_for_gpu and not torch.cuda.is_available():
        raise SourceError(
            f"{program.path}: --check: its code is for a GPU, and there is none; take the file for the CPU"
        )
    device = "cuda" if program.is_for_gpu else "cpu"
    try:
        run: Callable[[Tensor], Any] = torch.jit.load(program.path, map_location=device).eval()
        with torch.inference_mode():
            result = run(values.to(device))
    except (RuntimeError, ValueError) as error:  # torch's, of a program that is damaged or takes something else
        reason = " ".join(str(error).split())[-200:]
        raise SourceError(f"{program.path}: --check: its program does not run here: {reason}") from None
    if isinstance(result, dict):
        return {name: value.cpu() for name, value in result.items()}
    return result.cpu() if isinstance(result, Tensor) else result


def _is_wave(result: Any) -> bool:
    return isinstance(result, Tensor) and result.ndim > 1


def _compare(program: Program, ours: Tensor, theirs: Any) -> float:
    if not isinstance(theirs, Tensor) or theirs.shape != ours.shape:
        found = tuple(theirs.shape) if isinstance(theirs, Tensor) else type(theirs).__name__
        raise SourceError(f"{program.path}: --check: its program gives {found}; should give {tuple(ours.shape)}")
    difference = float((ours - theirs).abs().max() / theirs.abs().max())
    if not difference <= MAX_DIFFERENCE:  # NaN too
        raise SourceError(
            f"{program.path}: --check: its program's output differs by {difference:.2g} of the largest value; should "
            f"be at most {MAX_DIFFERENCE}; nothing was written"
        )
    return difference
