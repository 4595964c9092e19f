"""Schema of the data: corpora, degradations, examples and the dataloader; ranges are checked beside each field."""

from dataclasses import dataclass, field
from pathlib import Path

from omegaconf import MISSING

from miipher2.config.fields import (
    Section,
    any_seed,
    at_least,
    in_one_line,
    interval,
    non_empty,
    one_of,
    positive,
    share,
    some_of,
    whole_frames,
)
from miipher2.config.paths import check_output

SAMPLE_RATE_HZ = 16_000  # of the encoder's input and of all degradations
FRAMES_PER_SECOND = 50  # of every encoder's features
HOP_SAMPLES = SAMPLE_RATE_HZ // FRAMES_PER_SECOND
PRECISIONS = ("auto", "fp32", "tf32", "bf16")  # see models/precision.py
CODECS = ("mp3", "vorbis", "opus", "a_law", "mu_law", "gsm", "adpcm")
CONCEALMENTS = ("silence", "repeat")
MAX_BABBLE_VOICES = 16
# What prepare_data writes into `prepared`, which it replaces as a whole.
PREPARED_FILES = ("manifest.*", "noise.*", "rooms.*", "noise", "rooms", "weights.json", "report.json", "refused.txt")
CORPUS_LAYOUTS = ("folder", "libritts_r", "jvs", "fleurs_r", "vctk", "webdataset")


@dataclass
class DataConfig(Section):
    prepared: str = MISSING  # the folder that prepare_data wrote
    crop_seconds: float = whole_frames()
    pad_to: str = one_of("crop", "longest", default="crop")  # a batch's waves: to the crop or to the longest
    level_db: list[float] = interval()  # of the active speech, in dB of full scale
    segment_frames: int | None = positive(None)
    on_bad_file: str = one_of("error", "skip", default="error")  # skip: replace it by the next utterance of the epoch
    degrade_recorded: bool | None = None  # true: `degradation` on top of a recorded degraded side; null: that alone

    def __post_init__(self) -> None:
        super().__post_init__()
        if MISSING not in (self.crop_seconds, self.segment_frames) and self.segment_frames is not None:
            crop_frames = round(self.crop_seconds * FRAMES_PER_SECOND)
            if self.segment_frames > crop_frames:
                self.reject("segment_frames", f"the crop has {crop_frames} frames")


@dataclass
class TransformConfig(Section):
    probability: float = share(0.0)


@dataclass
class RoomConfig(TransformConfig):
    pass


@dataclass
class NoiseConfig(TransformConfig):
    snr_db: list[float] = interval(-100, 200, [5.0, 30.0])


@dataclass
class BandLimitConfig(TransformConfig):
    cutoff_hz: list[float] = interval(1, SAMPLE_RATE_HZ / 2, [2000.0, 7000.0])


@dataclass
class ClippingConfig(TransformConfig):
    threshold: list[float] = interval(1e-3, 1, [0.1, 0.5])  # relative to the peak


@dataclass
class CodecConfig(TransformConfig):
    kinds: list[str] = some_of(CODECS, ["mp3", "vorbis", "opus"])
    bit_rate_kbps: list[float] = interval(1, 512, [16.0, 64.0])  # of MP3, Vorbis and Opus


@dataclass
class BabbleConfig(TransformConfig):
    snr_db: list[float] = interval(-100, 200, [5.0, 30.0])
    voices: list[int] = interval(1, MAX_BABBLE_VOICES, [3, 8])


@dataclass
class ColourConfig(TransformConfig):
    snr_db: list[float] = interval(-100, 200, [5.0, 30.0])
    slope: list[float] = interval(-2, 4, [0.0, 2.0])  # 0 white, 1 pink, 2 brown


@dataclass
class HumConfig(TransformConfig):
    snr_db: list[float] = interval(-100, 200, [10.0, 40.0])
    harmonics: list[int] = interval(1, 100, [4, 20])


@dataclass
class ResamplingConfig(TransformConfig):
    rates_hz: list[int] = some_of(range(4000, 48_001), [4000, 8000, 11025, 12000])


@dataclass
class LowPassConfig(TransformConfig):
    cutoff_hz: list[float] = interval(1, SAMPLE_RATE_HZ / 2, [1000.0, 7000.0])
    order: list[int] = interval(1, 16, [1, 8])


@dataclass
class QuantileClippingConfig(TransformConfig):
    share: list[float] = interval(0, 0.4, [0.0, 0.1])  # of the samples, at each end


@dataclass
class PacketLossConfig(TransformConfig):
    share: list[float] = interval(0, 0.9, [0.02, 0.1])  # of the time
    burst_seconds: list[float] = interval(0.02, 2, [0.02, 0.12])
    concealments: list[str] = some_of(CONCEALMENTS, CONCEALMENTS)


@dataclass
class LevelConfig(TransformConfig):
    gain_db: list[float] = interval(-100, 100, [-20.0, 10.0])


@dataclass
class DcConfig(TransformConfig):
    offset: list[float] = interval(-1, 1, [-0.05, 0.05])  # of full scale


@dataclass
class DegradationConfig(Section):
    order: str = one_of("chain", "random", default="chain")  # chain: the order of CHAIN in data/degradations/chain.py
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
class LoaderConfig(Section):
    num_workers: int = at_least(0)
    prefetch: int = positive()  # batches per worker, prepared ahead
    cache_mb: int = at_least(0)  # decoded files per worker


@dataclass
class CorpusConfig(Section):
    folder: str = MISSING  # below `source`, or absolute
    layout: str = one_of(*CORPUS_LAYOUTS, default="folder")
    subsets: list[str] | None = None
    weight: float = positive(1.0)


@dataclass
class PairsConfig(Section):
    """Recorded pairs: two folders below `source`, or absolute, whose files have the same names but for the suffix."""

    clean: str = non_empty()
    degraded: str = non_empty()
    max_delay_seconds: float = positive()
    min_correlation: float = share()


@dataclass
class PrepareDataConfig(Section):
    source: str = non_empty()  # the folder that DVC tracks
    layout: str = one_of(*CORPUS_LAYOUTS, default="folder")
    subsets: list[str] | None = None  # parts of the corpus; null: the layout's default
    corpora: dict[str, CorpusConfig] = field(default_factory=dict)  # a mixture, instead of `layout`
    pairs: PairsConfig | None = None  # the degraded side is recorded, and not simulated
    prepared: str = MISSING
    seed: int = any_seed()
    held_out: str | None = None
    splits: str = one_of("published", "rule", default="published")  # rule: by digest, published or not
    by_speaker_from: int = at_least(0, 40)  # from so many speakers on, each is in one split only
    on_bad_file: str = one_of("error", "skip", default="error")
    noise_folder: str | None = None
    rooms_folder: str | None = None
    noise_files: int = at_least(0)
    rooms: int = at_least(0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.pairs is not None and self.corpora:
            self.reject("corpora", "should be empty with data.pairs, which are one corpus")
        if self.pairs is not None and self.layout == "webdataset":
            self.reject("layout", "should be a tree of files with data.pairs")

    def check_prepared(self, root: Path) -> None:
        """Check that the folder `prepared` may be replaced.

        Raises:
            ValueError: it may not: it is not prepared data, or in the way of something else.
        """
        names = [self.source, self.held_out, self.noise_folder, self.rooms_folder]
        inputs = [root / name for name in names if name is not None]
        inputs += [root / self.source / corpus.folder for corpus in self.corpora.values()]
        if self.pairs is not None:
            inputs += [root / self.source / folder for folder in (self.pairs.clean, self.pairs.degraded)]
        label = f"prepared={in_one_line(self.prepared)}"
        check_output(root / self.prepared, inputs, own=PREPARED_FILES, label=label, root=root)
