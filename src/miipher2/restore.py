"""Restoring speech: a wave in, a wave out, from published weights. Knows nothing of training."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from jaxtyping import Float, Float32, Num
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from miipher2 import audio
from miipher2.models.front_end import HOP_SAMPLES, SAMPLE_RATE_HZ
from miipher2.models.generator import Generator
from miipher2.models.generators import exported_generator
from miipher2.models.normaliser import FeatureNormaliser
from miipher2.models.ssl import SpeechEncoder, load_encoder


class Vocoder(nn.Module):
    """Features as the encoder gives them in, waves out: its own statistics of features, then the generator."""

    def __init__(self, normaliser: FeatureNormaliser, generator: Generator) -> None:
        super().__init__()
        self.normaliser = normaliser
        self.generator = generator

    def forward(self, features: Float[Tensor, "batch frame dim"]) -> Float[Tensor, "batch time"]:
        """Return waves of `generator.hop_samples` values for each frame."""
        return self.generator(self.normaliser(features))


class Restorer:
    """Restores waves of any sample rate, on one device; `sample_rate_hz` is the rate of what comes out.

    Args:
        encoder: with its adapters.
        normaliser: the adapter's statistics of clean features, in which feature errors are measured.
        vocoder: made for this encoder's features.
    """

    def __init__(
        self,
        encoder: SpeechEncoder,
        normaliser: FeatureNormaliser,
        vocoder: Vocoder,
        *,
        device: torch.device | str = "cpu",
    ) -> None:
        self.device = torch.device(device)
        self.encoder = encoder.to(self.device).eval()
        self.normaliser = normaliser.to(self.device).eval()
        self.vocoder = vocoder.to(self.device).eval()
        self.sample_rate_hz = vocoder.generator.sample_rate_hz

    @classmethod
    def from_published(
        cls, adapter_dir: Path | str, vocoder_dir: Path | str, *, root: Path | str, device: torch.device | str = "cpu"
    ) -> "Restorer":
        """Return a restorer with the weights that two stages published.

        Args:
            adapter_dir, vocoder_dir: folders that hold `config.yaml` and `final.safetensors`.
            root: the repository, from which relative folders, the encoder's too, are taken.

        Raises:
            FileNotFoundError: a file is missing; says how to make it.
            EncoderUnavailableError: the encoder that both name is not to be had.
            ValueError: a file is damaged or lacks an entry, or the two were trained for different encoders.
        """
        root = Path(root)
        adapter, vocoder = _Published(root / adapter_dir), _Published(root / vocoder_dir)
        _check_same_encoder(adapter, vocoder)
        numbers = {"sample_rate_hz": vocoder.setting("sample_rate_hz"), **vocoder.setting("generator")}
        with torch.random.fork_rng(devices=[]):  # weights are drawn, only to be overwritten
            encoder = _load_encoder(adapter, root)
            try:
                generator = exported_generator(vocoder.tensors("generator."), dim=encoder.dim, **numbers)
            except (ValueError, TypeError) as error:
                raise ValueError(f"{vocoder.weights}: does not fit {vocoder.config}: {error}") from error
        return cls(
            encoder,
            adapter.normaliser(encoder.dim),
            Vocoder(vocoder.normaliser(encoder.dim), generator),
            device=device,
        )

    def __call__(
        self, wave: Num[np.ndarray, "*channel time"], sample_rate_hz: int
    ) -> Float32[np.ndarray, "*channel restored_time"]:
        """Return the restored wave at `self.sample_rate_hz`, exactly `round(time * self.sample_rate_hz / rate)` long.

        Channels are restored each on its own; one that is digital silence stays so.

        Args:
            wave: values in [-1, 1], [time] or [channel time].
            sample_rate_hz: the wave's.

        Raises:
            ValueError: the wave is empty, is not made of floating-point values, is far outside [-1, 1], or holds a
                value that is not finite; names its position.
        """
        _check_wave(wave)
        if wave.ndim == 2:
            return np.stack([self(channel, sample_rate_hz) for channel in wave])
        samples = round(len(wave) * self.sample_rate_hz / sample_rate_hz)
        if samples == 0 or not wave.any():
            return np.zeros(samples, dtype=np.float32)
        heard = audio.resample(np.ascontiguousarray(wave, dtype=np.float32), sample_rate_hz, SAMPLE_RATE_HZ)
        # Rounding may ask for a value more than the frames that the encoder's rate fills; silence provides them.
        frames = max(-(-len(heard) // HOP_SAMPLES), -(-samples // self.vocoder.generator.hop_samples))
        heard = np.pad(heard, (0, frames * HOP_SAMPLES - len(heard)))
        restored = self.vocode(self.features(heard))[:samples]
        if not np.isfinite(restored).all():
            peak = float(np.abs(wave).max())
            raise ValueError(f"the wave peaks at {peak:g} and is beyond what the models can hold; should be in [-1, 1]")
        return restored

    def features(self, wave_16k: Float32[np.ndarray, "time"], adapted: bool = True) -> Float32[np.ndarray, "frame dim"]:
        """Return the features of a 16 kHz wave, cleaned by the adapters or as the frozen encoder gives them."""
        _check_wave(wave_16k)
        with torch.inference_mode():
            features = self.encoder(torch.from_numpy(wave_16k)[None].to(self.device), adapted=adapted)
        return features[0].cpu().numpy()

    def normalised_features(
        self, wave_16k: Float32[np.ndarray, "time"], adapted: bool = True
    ) -> Float32[np.ndarray, "frame dim"]:
        """Return such features in units of the deviation that each dimension has over clean speech."""
        features = torch.from_numpy(self.features(wave_16k, adapted)).to(self.device)
        with torch.inference_mode():
            return self.normaliser(features[None])[0].cpu().numpy()

    def vocode(self, features: Float32[np.ndarray, "frame dim"]) -> Float32[np.ndarray, "time"]:
        """Return the wave that the vocoder makes of features, as `features` returns them."""
        with torch.inference_mode():
            return self.vocoder(torch.from_numpy(features)[None].to(self.device))[0].float().cpu().numpy()


class _Published:
    """What a stage published: the `model` section of its configuration, and its tensors."""

    def __init__(self, folder: Path) -> None:
        self.config, self.weights = folder / "config.yaml", folder / "final.safetensors"
        for path in (self.config, self.weights):
            if not path.is_file():
                raise FileNotFoundError(
                    f"{path}: missing; a stage writes it when it ends: uv run dvc repro, or fetch it: uv run dvc pull"
                )
        try:
            config = yaml.safe_load(self.config.read_text())
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise ValueError(f"{self.config}: is not YAML ({error}); should be a stage's configuration") from error
        if not isinstance(config, dict) or not isinstance(config.get("model"), dict):
            raise ValueError(f"{self.config}: has no section 'model'; should be a stage's configuration")
        self.settings: dict[str, Any] = config["model"]
        try:
            self._tensors = load_file(self.weights)
        except SafetensorError as error:
            raise ValueError(f"{self.weights}: damaged ({error}); fetch it again: uv run dvc checkout") from error
        if broken := [name for name, tensor in self._tensors.items() if not bool(tensor.isfinite().all())]:
            raise ValueError(f"{self.weights}: '{broken[0]}' holds values that are not finite; train it again")

    def setting(self, key: str) -> Any:
        """Return one value of the `model` section, which must have it."""
        if self.settings.get(key) is None:
            raise ValueError(f"{self.config}: has no model.{key}; is it the folder of the right stage?")
        return self.settings[key]

    def tensors(self, prefix: str) -> dict[str, Tensor]:
        """Return the tensors under a prefix, named without it; there must be some."""
        found = {name.removeprefix(prefix): value for name, value in self._tensors.items() if name.startswith(prefix)}
        if not found:
            raise ValueError(f"{self.weights}: has no tensors under '{prefix}'; is it the folder of the right stage?")
        return found

    def normaliser(self, dim: int) -> FeatureNormaliser:
        """Return the statistics of clean features."""
        normaliser = FeatureNormaliser(dim)
        try:
            normaliser.load_state_dict(self.tensors("normaliser."))
        except RuntimeError as error:
            raise ValueError(
                f"{self.weights}: does not fit an encoder of {dim} dimensions: {_one_line(error)}"
            ) from error
        return normaliser


def _load_encoder(adapter: _Published, root: Path) -> SpeechEncoder:
    """Return the encoder that the adapter was trained for, adapted; a name that is a folder under `root` is that."""
    name = adapter.setting("hubert_model_name")
    found = root / name if (root / name).is_dir() else name
    encoder = load_encoder(found, adapter.setting("hubert_layer"), revision=adapter.settings.get("hubert_revision"))
    encoder.add_adapters(adapter.setting("adapter_hidden_dim"))
    try:
        encoder.load_adapter_state_dict(adapter.tensors("adapters."))
    except RuntimeError as error:
        raise ValueError(f"{adapter.weights}: does not fit {name} with its adapters: {_one_line(error)}") from error
    return encoder


def _check_same_encoder(adapter: _Published, vocoder: _Published) -> None:
    for key in ("hubert_model_name", "hubert_layer", "hubert_revision"):
        cleaned, voiced = adapter.settings.get(key), vocoder.settings.get(key)
        if cleaned != voiced:
            raise ValueError(
                f"model.{key} is {cleaned!r} in {adapter.config} and {voiced!r} in {vocoder.config}; "
                "adapter and vocoder should be trained for one encoder and layer"
            )


def _check_wave(wave: np.ndarray) -> None:
    if not np.issubdtype(wave.dtype, np.floating):
        raise ValueError(f"the wave's values are {wave.dtype}; should be floating-point numbers in [-1, 1]")
    if wave.ndim not in (1, 2) or wave.size == 0:
        raise ValueError(f"the wave has the shape {wave.shape}; should be [time] or [channel time], with audio in it")
    if not (finite := np.isfinite(wave)).all():
        place = np.unravel_index(int(np.argmin(finite)), wave.shape)
        channel = f" of channel {place[0]}" if wave.ndim == 2 else ""
        raise ValueError(f"the wave holds {wave[place]} at value {place[-1]}{channel}; should be finite")


def _one_line(error: RuntimeError) -> str:
    return " ".join(str(error).split())
