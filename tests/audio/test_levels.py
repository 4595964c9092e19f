"""Active speech is found by frames, and its level is that of those frames alone."""

import numpy as np
import pytest

from miipher2.audio.levels import active_level_db, active_samples, frame_energies, power


def test_pauses_are_not_active_and_do_not_lower_the_level() -> None:
    wave = np.concatenate([np.full(3200, 0.1, np.float32), np.full(3200, 1e-4, np.float32), np.zeros(100, np.float32)])
    is_active = active_samples(wave)
    assert is_active[:3200].all()
    assert not is_active[3200:].any()
    assert active_level_db(frame_energies(wave), len(wave)) == pytest.approx(-20.0, abs=1e-6)


def test_an_incomplete_last_frame_counts_with_its_own_length() -> None:
    wave = np.full(330, 0.1, np.float32)
    assert active_level_db(frame_energies(wave)[1:], 10) == pytest.approx(-20.0, abs=1e-6)


def test_silence_has_no_level() -> None:
    for samples in (0, 1, 1000):
        silence = np.zeros(samples, np.float32)
        assert active_level_db(frame_energies(silence), samples) == -np.inf
        assert not active_samples(silence).any()
        assert power(silence) == 0.0
