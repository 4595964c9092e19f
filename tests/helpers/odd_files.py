"""Sound files that libraries misjudge: joined, cut off, without a length, in other containers."""

import io
import shutil
import struct
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from speech_like import speech_like

SECONDS, RATE_HZ = 2.0, 16_000


def encoded(sound_format: str, subtype: str | None = None, rate_hz: int = RATE_HZ, channels: int = 1) -> bytes:
    """Return two seconds of speech-like sound as the bytes of a file that libsndfile writes."""
    wave = speech_like(samples=round(SECONDS * rate_hz))
    file = io.BytesIO()
    soundfile.write(file, np.stack([wave] * channels, 1), rate_hz, subtype, format=sound_format)
    return file.getvalue()


def encoded_by_ffmpeg(
    form: str, codec: str, rate_hz: int = RATE_HZ, bits_per_second: int = 64_000, **options: str
) -> bytes:
    """Return two seconds of speech-like sound as the bytes of a file that FFmpeg writes."""
    import av

    path = Path(tempfile.mkdtemp()) / "sound"
    with av.open(path, "w", format=form, options=options) as container:
        stream: Any = container.add_stream(codec, rate=rate_hz)
        stream.bit_rate = bits_per_second
        stream.layout = "mono"
        frame = av.AudioFrame.from_ndarray(speech_like(samples=round(SECONDS * RATE_HZ))[None], "fltp", "mono")
        frame.sample_rate, frame.pts = RATE_HZ, 0
        resampler = av.AudioResampler(stream.codec_context.format, "mono", rate_hz)
        fifo = av.AudioFifo()
        for each in [*resampler.resample(frame), *resampler.resample(None)]:
            fifo.write(each)
        size = stream.codec_context.frame_size or 1024
        while (part := fifo.read(size) or fifo.read(0, partial=True)) is not None:
            container.mux(stream.encode(part))
        container.mux(stream.encode(None))
    content = path.read_bytes()
    shutil.rmtree(path.parent)
    return content


def with_wav_size(content: bytes, size_bytes: int) -> bytes:
    """Return a WAV file whose header gives another size of its samples."""
    position = content.index(b"data") + 4
    return content[:position] + struct.pack("<I", size_bytes) + content[position + 4 :]


def with_flac_samples(content: bytes, samples: int) -> bytes:
    """Return a FLAC file whose header gives another number of samples, such as 0 for unknown."""
    packed = int.from_bytes(content[18:26], "big") >> 36 << 36 | samples  # rate, channels, bits, 36 bits of samples
    return content[:18] + packed.to_bytes(8, "big") + content[26:]


def write_whole(folder: Path) -> dict[str, float]:
    """Write the files that can be read whole, and return how many seconds each holds."""
    wav, flac, mp3 = encoded("WAV"), encoded("FLAC"), encoded("MP3")
    vorbis, opus = encoded("OGG", "VORBIS"), encoded("OGG", "OPUS")
    slow, fast = (
        encoded_by_ffmpeg("mp3", "libmp3lame", bits_per_second=rate, write_xing="0", id3v2_version="0")
        for rate in (24_000, 160_000)
    )
    tagged = encoded_by_ffmpeg("mp3", "libmp3lame")
    files = {
        "joined.mp3": (mp3 + mp3, 2),
        "joined_tagged.mp3": (tagged + b"TAG" + bytes(125) + tagged, 2),
        "variable_without_xing.mp3": (fast + slow + slow, 3),
        "chained.ogg": (vorbis + vorbis, 2),
        "chained.opus": (opus + opus, 2),
        "unknown_length.flac": (with_flac_samples(flac, 0), 1),
        "size_0.wav": (with_wav_size(wav, 0), 1),
        "size_ffffffff.wav": (with_wav_size(wav, 0xFFFFFFFF), 1),
        "size_7fffffff.wav": (with_wav_size(wav, 0x7FFFFFFF), 1),
        "size_7ffff000.wav": (with_wav_size(wav, 0x7FFFF000), 1),
        "padded.mp3": (mp3 + bytes(5000), 1),
        "tagged.flac": (b"ID3\3\0\0\0\0\2\0" + bytes(256) + flac, 1),
        "named_wrongly.wav": (mp3, 1),
        "tagged.wav": (wav + b"TAG" + bytes(125), 1),
        "a.m4a": (encoded_by_ffmpeg("mp4", "aac"), 1),
        "a.webm": (encoded_by_ffmpeg("webm", "libopus", 48_000), 1),
        "a.aac": (encoded_by_ffmpeg("adts", "aac"), 1),
    }
    for name, (content, _) in files.items():
        (folder / name).write_bytes(content)
    return {name: copies * SECONDS for name, (_, copies) in files.items()}


def write_broken(folder: Path) -> list[str]:
    """Write files of which a part is missing or hidden, and return their names."""
    wav, flac, mp3 = encoded("WAV"), encoded("FLAC"), encoded("MP3")
    vorbis, opus = encoded("OGG", "VORBIS"), encoded("OGG", "OPUS")
    fast = encoded_by_ffmpeg("mp4", "aac", movflags="+faststart")
    slow = encoded_by_ffmpeg("mp4", "aac")
    webm = encoded_by_ffmpeg("webm", "libopus", 48_000)
    pages = [index for index in range(len(vorbis)) if vorbis.startswith(b"OggS", index)]
    files = {
        **{f"cut.{name.lower()}": encoded(name)[:40_000] for name in ("WAV", "AIFF", "AU", "W64")},
        "cut.sph": encoded("NIST")[:40_000],
        "cut_rf64.wav": encoded("RF64")[:40_000],
        "cut_float.wav": encoded("WAV", "FLOAT")[:90_000],
        "cut.flac": flac[: len(flac) // 2],
        "cut_unknown_length.flac": with_flac_samples(flac, 0)[: len(flac) // 2],
        "cut.mp3": mp3[: len(mp3) // 2],
        "cut.ogg": vorbis[: len(vorbis) - 100],
        "cut.opus": opus[: len(opus) - 100],
        "cut.mp4": fast[: len(fast) // 2],
        "cut.m4a": slow[: len(slow) // 2],
        "cut.webm": webm[: len(webm) // 2],
        "lacks_a_page.ogg": vorbis[: pages[-2]] + vorbis[pages[-1] :],
        "counts_half.flac": with_flac_samples(flac, 16_000),
        "counts_twice.flac": with_flac_samples(flac, 64_000),
        "empty.flac": b"",
        "joined.wav": wav + wav,
        "joined_rf64.wav": encoded("RF64") * 2,
        "joined.flac": flac + flac,
        "joined.aiff": encoded("AIFF") * 2,
        "joined.au": encoded("AU") * 2,
        "joined.w64": encoded("W64") * 2,
        "joined.m4a": slow + slow,
        "counts_half.wav": with_wav_size(encoded("WAV", rate_hz=8_000), 4_000),
        "two_rates.ogg": vorbis + encoded("OGG", "VORBIS", 44_100),
        "two_forms.ogg": vorbis + encoded("OGG", "VORBIS", channels=2),
        "damaged.mp3": mp3[:3000] + bytes(range(250)) * 4 + mp3[4000:],
    }
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return list(files)
