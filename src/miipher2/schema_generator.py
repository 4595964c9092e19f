"""The part of the schema that depends on a choice: what keys each kind of generator has."""

from dataclasses import dataclass

from omegaconf import MISSING


@dataclass
class GeneratorConfig:
    kind: str = MISSING  # hifigan, vocos or harmonic_vocos; the other keys are those of its class below


@dataclass
class HifiGanConfig(GeneratorConfig):
    kind: str = "hifigan"
    channels: int = MISSING
    upsample_factors: list[int] = MISSING
    kernels: list[int] = MISSING
    dilations: list[int] = MISSING


@dataclass
class VocosConfig(GeneratorConfig):
    kind: str = "vocos"
    channels: int = MISSING
    hidden_channels: int = MISSING
    blocks: int = MISSING
    window_frames: int = MISSING


@dataclass
class HarmonicVocosConfig(GeneratorConfig):
    kind: str = "harmonic_vocos"
    channels: int = MISSING
    hidden_channels: int = MISSING
    blocks: int = MISSING


GENERATORS: dict[str, type] = {"hifigan": HifiGanConfig, "vocos": VocosConfig, "harmonic_vocos": HarmonicVocosConfig}
