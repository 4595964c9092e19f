"""What every imported vocoder is, and which kind of vocoder a file holds."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from miipher2.config.schema_data import FRAMES_PER_SECOND
from miipher2.importing.source import Record
from miipher2.importing.torch_file import SourceError


@dataclass
class ImportedVocoder:
    """A generator, with its discriminators where the file has them.

    Args:
        tensors, discriminators: as `published/` names them.
        model: `sample_rate_hz`, `generator` and, with discriminators, `discriminator` of a configuration.
        dim: size of a feature.
        layers: which layer of the encoder it was trained on, by the entry of the file that says so; empty if none does.
        encoder: name of the encoder that the file names.
        front_end: makes the encoder's `miipher2_front_end` of its `config.json`, where the source frames otherwise.
    """

    tensors: dict[str, Tensor]
    discriminators: dict[str, Tensor] | None
    model: dict[str, Any]
    dim: int
    record: Record
    layers: dict[str, int] = field(default_factory=dict)
    encoder: str | None = None
    front_end: Callable[[dict[str, Any]], dict[str, Any]] | None = None


@dataclass(frozen=True)
class Refused:
    """A kind of file that is known and cannot be imported."""

    is_kind: Callable[[dict[Any, Any]], bool]
    reason: str


REFUSED = (
    Refused(
        lambda content: "generator_modules" in content,
        "a vocoder of the original Miipher-2 code from before July 2025, which makes 86 frames of mel a second of the "
        f"features first; should be of {FRAMES_PER_SECOND} frames a second",
    ),
    Refused(
        lambda content: bool(content.keys() & {"mpd", "msd"}),
        "discriminators of a mel vocoder alone; should be a vocoder",
    ),
    Refused(
        lambda content: isinstance(content.get("generator"), dict),
        "a HiFi-GAN of jik876/hifi-gan, which takes mel at 86.13 frames a second; should take features of an encoder "
        f"at {FRAMES_PER_SECOND}",
    ),
)


def check_known(path: Path, content: Any) -> None:
    """Check that a file is not of a kind that cannot be imported.

    Raises:
        SourceError: it is; says why.
    """
    for kind in REFUSED:
        if isinstance(content, dict) and kind.is_kind(content):
            raise SourceError(f"{path}: is {kind.reason}")


def check_frame_rate(path: Path, sample_rate_hz: int, hop_samples: int) -> None:
    """Check that a vocoder makes its samples from 50 frames a second.

    Raises:
        SourceError: it does not; names the rate.
    """
    if sample_rate_hz != FRAMES_PER_SECOND * hop_samples:
        raise SourceError(
            f"{path}: makes {hop_samples} samples of a frame at {sample_rate_hz} Hz, which is "
            f"{sample_rate_hz / hop_samples:.2f} frames a second; should be {FRAMES_PER_SECOND}, as encoders give them"
        )
