"""The schema of what is trained on: corpora, degradations, examples, the loader."""

from dataclasses import dataclass, field

from omegaconf import MISSING


@dataclass
class DataConfig:
    prepared: str = MISSING  # the folder that the stage prepare_data fills
    crop_seconds: float = MISSING
    pad_to: str = "crop"  # how long a batch is: as the crop, or as the longest utterance in it
    level_db: list[float] = MISSING  # of the active speech, in dB of full scale
    segment_frames: int | None = None
    on_bad_file: str = "error"  # or skip: another utterance takes the place of one that cannot be read


@dataclass
class RoomConfig:
    probability: float = 0.0


@dataclass
class NoiseConfig:
    probability: float = 0.0
    snr_db: list[float] = field(default_factory=lambda: [5.0, 30.0])


@dataclass
class BandLimitConfig:
    probability: float = 0.0
    cutoff_hz: list[float] = field(default_factory=lambda: [2000.0, 7000.0])


@dataclass
class ClippingConfig:
    probability: float = 0.0
    threshold: list[float] = field(default_factory=lambda: [0.1, 0.5])


@dataclass
class CodecConfig:
    probability: float = 0.0
    kinds: list[str] = field(default_factory=lambda: ["mp3", "vorbis", "opus"])
    bit_rate_kbps: list[float] = field(default_factory=lambda: [16.0, 64.0])  # of MP3, Vorbis and Opus


@dataclass
class BabbleConfig:
    probability: float = 0.0
    snr_db: list[float] = field(default_factory=lambda: [5.0, 30.0])
    voices: list[int] = field(default_factory=lambda: [3, 8])


@dataclass
class ColourConfig:
    probability: float = 0.0
    snr_db: list[float] = field(default_factory=lambda: [5.0, 30.0])
    slope: list[float] = field(default_factory=lambda: [0.0, 2.0])  # 0 white, 1 pink, 2 brown


@dataclass
class HumConfig:
    probability: float = 0.0
    snr_db: list[float] = field(default_factory=lambda: [10.0, 40.0])
    harmonics: list[int] = field(default_factory=lambda: [4, 20])


@dataclass
class ResamplingConfig:
    probability: float = 0.0
    rates_hz: list[int] = field(default_factory=lambda: [4000, 8000, 11025, 12000])


@dataclass
class LowPassConfig:
    probability: float = 0.0
    cutoff_hz: list[float] = field(default_factory=lambda: [1000.0, 7000.0])
    order: list[int] = field(default_factory=lambda: [1, 8])


@dataclass
class QuantileClippingConfig:
    probability: float = 0.0
    share: list[float] = field(default_factory=lambda: [0.0, 0.1])  # of the values, on either side


@dataclass
class PacketLossConfig:
    probability: float = 0.0
    share: list[float] = field(default_factory=lambda: [0.02, 0.1])  # of the time
    burst_seconds: list[float] = field(default_factory=lambda: [0.02, 0.12])
    concealments: list[str] = field(default_factory=lambda: ["silence", "repeat"])


@dataclass
class LevelConfig:
    probability: float = 0.0
    gain_db: list[float] = field(default_factory=lambda: [-20.0, 10.0])


@dataclass
class DcConfig:
    probability: float = 0.0
    offset: list[float] = field(default_factory=lambda: [-0.05, 0.05])  # of full scale


@dataclass
class DegradationConfig:
    order: str = "chain"  # as in data/degradations.py, or random
    room: RoomConfig = field(default_factory=RoomConfig)
    noise: NoiseConfig = field(default_factory=NoiseConfig)
    band_limit: BandLimitConfig = field(default_factory=BandLimitConfig)
    clipping: ClippingConfig = field(default_factory=ClippingConfig)
    codec: CodecConfig = field(default_factory=CodecConfig)
    babble: BabbleConfig = field(default_factory=BabbleConfig)
    colour: ColourConfig = field(default_factory=ColourConfig)
    hum: HumConfig = field(default_factory=HumConfig)
    resampling: ResamplingConfig = field(default_factory=ResamplingConfig)
    low_pass: LowPassConfig = field(default_factory=LowPassConfig)
    quantile_clipping: QuantileClippingConfig = field(default_factory=QuantileClippingConfig)
    packet_loss: PacketLossConfig = field(default_factory=PacketLossConfig)
    level: LevelConfig = field(default_factory=LevelConfig)
    dc: DcConfig = field(default_factory=DcConfig)


@dataclass
class LoaderConfig:
    num_workers: int = MISSING
    prefetch: int = MISSING  # batches that each worker prepares ahead
    cache_mb: int = MISSING  # decoded files that each worker keeps
    stored: str | None = None  # a folder of examples that `miipher2 store` made of this very configuration


@dataclass
class CorpusConfig:
    folder: str = MISSING  # below `source`, or absolute
    layout: str = "folder"
    subsets: list[str] | None = None
    weight: float = 1.0


@dataclass
class PrepareDataConfig:
    source: str = MISSING  # the folder that DVC watches
    layout: str = "folder"  # folder, libritts_r, jvs, fleurs_r, vctk or webdataset
    subsets: list[str] | None = None  # parts of the corpus to take; null: the layout's own choice
    corpora: dict[str, CorpusConfig] = field(default_factory=dict)  # a mixture, in the place of `layout`
    prepared: str = MISSING
    seed: int = MISSING
    held_out: str | None = None
    splits: str = "published"  # or rule: by digest even where the corpus has splits of its own
    by_speaker_from: int = 40  # speakers that a corpus must have for each to be in one split only
    on_bad_file: str = "error"  # or skip
    noise_folder: str | None = None
    rooms_folder: str | None = None
    noise_files: int = MISSING
    rooms: int = MISSING
