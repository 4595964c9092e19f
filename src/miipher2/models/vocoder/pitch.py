"""The pitch of clean speech, 50 values a second, as a generator with a harmonic source is taught it."""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from miipher2.models.vocoder.generator import FRAMES_PER_SECOND

LOWEST_HZ, HIGHEST_HZ = 60.0, 500.0
CLARITY = 0.45  # of the autocorrelation, from which a frame counts as voiced
QUIETEST = 0.03  # of the crop's loudest frame, by amplitude: nothing is voiced below
OCTAVE_COST = 0.02  # an octave lower has to be better by so much: multiples of a period fit as well
JUMP_COST = 0.25  # of an octave's jump from one frame to the next


@torch.no_grad()
def pitch_of(
    wave: Float[Tensor, "batch time"], sample_rate_hz: int
) -> tuple[Float[Tensor, "batch frame"], Bool[Tensor, "batch frame"]]:
    """Return the fundamental frequency in Hz at the middle of each 20 ms, and whether the frame is voiced.

    The frequency of an unvoiced frame is a guess. Autocorrelation divided by that of the window, and the cheapest path
    through its peaks.

    Source: Boersma 1993, "Accurate short-term analysis of the fundamental frequency".
    """
    hop = sample_rate_hz // FRAMES_PER_SECOND
    length = int(2.4 * sample_rate_hz / LOWEST_HZ) // 2 * 2
    side = (length - hop) // 2
    frames = F.pad(wave.float(), (side, length - hop - side)).unfold(-1, length, hop)
    rms = frames.square().mean(-1).sqrt()
    window = torch.hann_window(length, device=wave.device)
    size = 2 ** (2 * length - 1).bit_length()
    power = torch.fft.rfft((frames - frames.mean(-1, keepdim=True)) * window, n=size).abs().square()
    ideal = torch.fft.irfft(torch.fft.rfft(window, n=size).abs().square())
    shortest, longest = int(sample_rate_hz / HIGHEST_HZ), int(sample_rate_hz / LOWEST_HZ) + 1
    correlation = torch.fft.irfft(power)[..., : longest + 1] / ideal[: longest + 1]
    correlation = correlation / correlation[..., :1].clamp_min(1e-9)
    periods = torch.arange(shortest, longest, device=wave.device)
    middle = correlation[..., shortest:longest]
    before, after = correlation[..., shortest - 1 : longest - 1], correlation[..., shortest + 1 : longest + 1]
    is_peak = (middle >= before) & (middle > after)
    octaves = (sample_rate_hz / periods / LOWEST_HZ).log2()
    score = middle.masked_fill(~is_peak, -1) + OCTAVE_COST * octaves
    best, index = score.topk(8, dim=-1)
    path = _cheapest_path(1 - best, octaves[index])
    index = index.gather(-1, path[..., None])
    low, mid, high = (side.gather(-1, index)[..., 0] for side in (before, middle, after))
    curvature = (low - 2 * mid + high).clamp_max(-1e-6)
    period = periods[index[..., 0]] + (0.5 * (low - high) / curvature).clamp(-0.5, 0.5)
    is_voiced = (mid > CLARITY) & (rms > QUIETEST * rms.amax(-1, keepdim=True))
    return (sample_rate_hz / period).clamp(LOWEST_HZ, HIGHEST_HZ), is_voiced


def _cheapest_path(cost: Float[Tensor, "batch frame peak"], octaves: Float[Tensor, "batch frame peak"]) -> Tensor:
    """Return the peak of each frame, such that costs and jumps between neighbours are least in sum."""
    total, came_from = cost[:, 0], []
    for step in range(1, cost.shape[1]):
        jumps = JUMP_COST * (octaves[:, step, None, :] - octaves[:, step - 1, :, None]).abs()
        total, source = (total[..., None] + jumps).min(1)
        total = total + cost[:, step]
        came_from.append(source)
    at = total.argmin(-1, keepdim=True)
    path = [at]
    for source in reversed(came_from):
        at = source.gather(-1, at)
        path.append(at)
    return torch.cat(path[::-1], -1)
