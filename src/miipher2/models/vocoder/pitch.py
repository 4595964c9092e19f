"""Pitch estimation from clean speech at 50 frames per second: the target of a generator with a harmonic source."""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from miipher2.config.schema_data import FRAMES_PER_SECOND

MIN_PITCH_HZ, MAX_PITCH_HZ = 60.0, 500.0
MIN_CLARITY = 0.45  # autocorrelation from which a frame counts as voiced
MIN_RMS = 0.03  # relative to the loudest frame of the crop: frames below are unvoiced
OCTAVE_BONUS = 0.02  # a pitch an octave lower must fit better by so much, since multiples of a period fit too
OCTAVE_JUMP_COST = 0.25  # of a jump by one octave between neighbouring frames
CANDIDATES = 8  # peaks of the autocorrelation per frame


@torch.no_grad()
def estimate_pitch(
    wave: Float[Tensor, "batch time"], sample_rate_hz: int
) -> tuple[Float[Tensor, "batch frame"], Bool[Tensor, "batch frame"]]:
    """Return the fundamental frequency in Hz at the middle of each 20 ms frame, and whether the frame is voiced.

    It divides the autocorrelation by that of the window and takes the cheapest path through its peaks. The frequency
    of an unvoiced frame is a guess.

    Source: Boersma 1993, "Accurate short-term analysis of the fundamental frequency".
    """
    hop = sample_rate_hz // FRAMES_PER_SECOND
    length = int(2.4 * sample_rate_hz / MIN_PITCH_HZ) // 2 * 2
    side = (length - hop) // 2
    frames = F.pad(wave.float(), (side, length - hop - side)).unfold(-1, length, hop)
    rms = frames.square().mean(-1).sqrt()
    window = torch.hann_window(length, device=wave.device)
    size = 2 ** (2 * length - 1).bit_length()
    power = torch.fft.rfft((frames - frames.mean(-1, keepdim=True)) * window, n=size).abs().square()
    window_correlation = torch.fft.irfft(torch.fft.rfft(window, n=size).abs().square())
    shortest, longest = int(sample_rate_hz / MAX_PITCH_HZ), int(sample_rate_hz / MIN_PITCH_HZ) + 1
    correlation = torch.fft.irfft(power)[..., : longest + 1] / window_correlation[: longest + 1]
    correlation = correlation / correlation[..., :1].clamp_min(1e-9)
    periods = torch.arange(shortest, longest, device=wave.device)
    middle = correlation[..., shortest:longest]
    before, after = correlation[..., shortest - 1 : longest - 1], correlation[..., shortest + 1 : longest + 1]
    is_peak = (middle >= before) & (middle > after)
    octaves = (sample_rate_hz / periods / MIN_PITCH_HZ).log2()
    score = middle.masked_fill(~is_peak, -1) + OCTAVE_BONUS * octaves
    best, index = score.topk(CANDIDATES, dim=-1)
    path = _cheapest_path(1 - best, octaves[index])
    index = index.gather(-1, path[..., None])
    low, mid, high = (side.gather(-1, index)[..., 0] for side in (before, middle, after))
    curvature = (low - 2 * mid + high).clamp_max(-1e-6)
    period = periods[index[..., 0]] + (0.5 * (low - high) / curvature).clamp(-0.5, 0.5)
    is_voiced = (mid > MIN_CLARITY) & (rms > MIN_RMS * rms.amax(-1, keepdim=True))
    return (sample_rate_hz / period).clamp(MIN_PITCH_HZ, MAX_PITCH_HZ), is_voiced


def _cheapest_path(
    cost: Float[Tensor, "batch frame candidate"], octaves: Float[Tensor, "batch frame candidate"]
) -> Int[Tensor, "batch frame"]:
    """Return each frame's candidate on the path with the least sum of costs and jumps."""
    total, predecessors = cost[:, 0], []
    for step in range(1, cost.shape[1]):
        jumps = OCTAVE_JUMP_COST * (octaves[:, step, None, :] - octaves[:, step - 1, :, None]).abs()
        total, predecessor = (total[..., None] + jumps).min(1)
        total = total + cost[:, step]
        predecessors.append(predecessor)
    candidate = total.argmin(-1, keepdim=True)
    path = [candidate]
    for predecessor in reversed(predecessors):
        candidate = predecessor.gather(-1, candidate)
        path.append(candidate)
    return torch.cat(path[::-1], -1)
