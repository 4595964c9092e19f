"""The stored statistics of features."""

import pytest
import torch

from miipher2.models.encoder.feature_norm import FeatureNormaliser


def test_statistics_over_batches_are_those_of_all_valid_frames() -> None:
    features = torch.randn(6, 10, 3, generator=torch.Generator().manual_seed(0)) * torch.tensor([1.0, 5.0, 0.1]) + 100
    valid = torch.arange(10) < torch.tensor([10, 4, 7, 10, 1, 2])[:, None]
    normaliser = FeatureNormaliser(3)
    normaliser.update(features[:2], valid[:2])
    normaliser.update(features[2:], valid[2:])
    rows = features[valid]
    torch.testing.assert_close(normaliser.mean, rows.mean(0))
    torch.testing.assert_close(normaliser.std, rows.std(0, unbiased=False), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(normaliser(features)[valid].std(0, unbiased=False), torch.ones(3), atol=1e-3, rtol=0)
    whole = FeatureNormaliser(3)
    whole.update(features)
    torch.testing.assert_close(whole.mean, features.flatten(0, 1).mean(0))


def test_without_statistics_nothing_changes() -> None:
    features = torch.randn(1, 4, 3)
    assert torch.equal(FeatureNormaliser(3)(features), features)


def test_a_constant_dimension_stays_finite() -> None:
    normaliser = FeatureNormaliser(2)
    normaliser.update(torch.full((1, 5, 2), 7.0))
    assert torch.equal(normaliser(torch.full((1, 5, 2), 7.0)), torch.zeros(1, 5, 2))


def test_statistics_are_the_whole_state() -> None:
    normaliser = FeatureNormaliser(2)
    normaliser.update(torch.randn(2, 5, 2))
    assert set(normaliser.state_dict()) == {"mean", "std"}
    other, third = FeatureNormaliser(2), FeatureNormaliser(2)
    other.load_state_dict(normaliser.state_dict())
    third.set_statistics(normaliser.mean, normaliser.std)
    features = torch.randn(1, 3, 2)
    assert torch.equal(other(features), normaliser(features))
    assert torch.equal(third(features), normaliser(features))


def test_wrong_statistics_are_an_error_and_change_nothing() -> None:
    normaliser = FeatureNormaliser(2)
    with pytest.raises(ValueError, match="should be greater than 0"):
        normaliser.set_statistics(torch.ones(2), torch.tensor([1.0, 0.0]))
    with pytest.raises(ValueError, match="should be 2"):
        normaliser.set_statistics(torch.ones(3), torch.ones(3))
    assert torch.equal(normaliser.mean, torch.zeros(2))
