"""What restoring needs of training: encoder with adapters, statistics, vocoder, and where they come from."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from miipher2.models.encoder.encoder import SpeechEncoder
from miipher2.models.encoder.feature_norm import FeatureNormaliser
from miipher2.models.encoder.from_pretrained import load_encoder
from miipher2.models.vocoder.generator import ChunkPosition, Generator
from miipher2.models.vocoder.registry import load_exported_generator


class Vocoder(nn.Module):
    """Features as the encoder gives them in, waves out: its own statistics of features, then the generator."""

    def __init__(self, normaliser: FeatureNormaliser, generator: Generator) -> None:
        super().__init__()
        self.normaliser = normaliser
        self.generator = generator

    def forward(self, features: Float[Tensor, "batch frame dim"]) -> Float[Tensor, "batch time"]:
        """Return waves of `generator.hop_samples` values for each frame."""
        return self.generator(self.normaliser(features))

    def at(self, features: Float[Tensor, "batch frame dim"], place: ChunkPosition) -> Float[Tensor, "batch time"]:
        """Return the waves of chunks of a recording."""
        return self.generator.forward_chunk(self.normaliser(features), place)

    def follow(self, features: Float[Tensor, "frame dim"], cycles: float) -> float:
        """Return `ChunkPosition.cycles` at the last of some frames from that at the first."""
        return self.generator.advance_phase(self.normaliser(features[None])[0], cycles)


@dataclass(frozen=True)
class Weights:
    """The networks of a restorer.

    Args:
        encoder: with its adapters.
        normaliser: the adapter's statistics of clean features, in which feature errors are measured.
        vocoder: made for this encoder's features.
        settings: the values that it takes to build them again: encoder's name, revision and layer,
            `adapter_hidden_dim`, `sample_rate_hz`, `generator`.
        lineage: what is known of their training, for people.
    """

    encoder: SpeechEncoder
    normaliser: FeatureNormaliser
    vocoder: Vocoder
    settings: dict[str, Any] = field(default_factory=dict)
    lineage: dict[str, Any] = field(default_factory=dict)

    @property
    def sample_rate_hz(self) -> int:
        """Return the rate of what comes out."""
        return self.vocoder.generator.sample_rate_hz

    def tensors(self) -> dict[str, Tensor]:
        """Return all tensors but the frozen encoder's, under the names that `build` wants."""
        parts = {
            "adapters": self.encoder.adapter_state_dict(),
            "normaliser": self.normaliser.state_dict(),
            "vocoder.normaliser": self.vocoder.normaliser.state_dict(),
            "vocoder.generator": self.vocoder.generator.exported_state_dict(),
        }
        return {f"{part}.{name}": tensor for part, state in parts.items() for name, tensor in state.items()}

    def digest(self) -> str:
        """Return a sha256 that differs where any weight of any part does."""
        digest = hashlib.sha256(self.encoder.digest.encode())
        for name, tensor in sorted(self.tensors().items()):
            digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
            digest.update(tensor.detach().float().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()


class WeightsFile:
    """The tensors of a safetensors file, part by part; all finite.

    Raises:
        ValueError: it is damaged, or holds a value that is not finite.
    """

    def __init__(self, path: Path, remedy: str) -> None:
        self.path = path
        try:
            self._tensors = {name: tensor.float() for name, tensor in load_file(path).items()}
        except SafetensorError as error:
            raise ValueError(f"{path}: damaged ({error}); {remedy}") from error
        if broken := [name for name, tensor in self._tensors.items() if not bool(tensor.isfinite().all())]:
            raise ValueError(f"{path}: '{broken[0]}' holds values that are not finite; train it again")

    def tensors(self, prefix: str) -> dict[str, Tensor]:
        """Return the tensors under a prefix, named without it; there must be some."""
        found = {name.removeprefix(prefix): value for name, value in self._tensors.items() if name.startswith(prefix)}
        if not found:
            raise ValueError(f"{self.path}: has no tensors under '{prefix}'; is it the folder of the right stage?")
        return found

    def normaliser(self, prefix: str, dim: int) -> FeatureNormaliser:
        """Return statistics of features."""
        normaliser = FeatureNormaliser(dim)
        try:
            normaliser.load_state_dict(self.tensors(prefix))
        except RuntimeError as error:
            raise ValueError(f"{self.path}: does not fit an encoder of {dim} dimensions: {_one_line(error)}") from error
        return normaliser

    def encoder(
        self,
        prefix: str,
        name_or_folder: str | Path,
        layer: int | list[int],
        adapter_hidden_dim: int,
        revision: str | None,
    ) -> SpeechEncoder:
        """Return the frozen encoder with the adapters of this file."""
        encoder = load_encoder(name_or_folder, layer, revision=revision)
        encoder.add_adapters(adapter_hidden_dim)
        try:
            encoder.load_adapter_state_dict(self.tensors(prefix))
        except RuntimeError as error:
            raise ValueError(
                f"{self.path}: does not fit {name_or_folder} with its adapters: {_one_line(error)}"
            ) from error
        return encoder

    def generator(self, prefix: str, config: Path, numbers: Mapping[str, Any]) -> Generator:
        """Return the generator, folded; `numbers` are its arguments, as `config` has them."""
        try:
            return load_exported_generator(self.tensors(prefix), **numbers)
        except (ValueError, TypeError) as error:
            raise ValueError(f"{self.path}: does not fit {config}: {error}") from error


def _one_line(error: RuntimeError) -> str:
    return " ".join(str(error).split())
