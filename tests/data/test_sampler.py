"""The utterance of an example is a function of its number, and a mixture keeps its weights exactly."""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from miipher2.data import sampler as sampler_module
from miipher2.data.manifest import Manifest, Utterance
from miipher2.data.sampler import BLOCK, UtteranceSampler
from miipher2.rng import stream


def manifest(**sizes: int) -> Manifest:
    """Return a manifest of corpora with so many utterances each."""
    rows = [
        Utterance(f"{name}/{index}", "s", "en", 1.0, 16000, stream(index, name).bytes(32).hex(), "train", corpus=name)
        for name, size in sizes.items()
        for index in range(size)
    ]
    return Manifest.from_utterances(rows)


def corpora(of: Manifest, sampler: UtteranceSampler, numbers: range) -> list[str]:
    names = [of.row(index).corpus for index in range(len(of))]
    return [names[next(sampler.candidates(number))] for number in numbers]


def test_each_corpus_occurs_in_proportion_to_its_weight() -> None:
    rows = manifest(large=300, small=7)
    sampler = UtteranceSampler(rows, 3, {"large": 3.0, "small": 1.0})
    counts = Counter(corpora(rows, sampler, range(5 * BLOCK, 6 * BLOCK)))
    assert counts == {"large": BLOCK * 3 // 4, "small": BLOCK // 4}
    early = Counter(corpora(rows, sampler, range(400)))
    assert 70 < early["small"] < 130  # four standard deviations of 100


def test_each_corpus_goes_through_its_own_epochs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampler_module, "BLOCK", 20)  # so that epochs run over the ends of many blocks
    rows = manifest(large=300, small=7)
    sampler = UtteranceSampler(rows, 3, {"large": 1.0, "small": 1.0})
    utterances = [next(sampler.candidates(number)) for number in range(400)]
    small = [index for index in utterances if rows.row(index).corpus == "small"]
    epochs = [tuple(small[at : at + 7]) for at in range(0, len(small) - 6, 7)]
    assert all(len(set(epoch)) == 7 for epoch in epochs)
    assert len(set(epochs)) > len(epochs) // 2


@settings(max_examples=20, deadline=None, derandomize=True)
@given(number=st.integers(0, 10**12), weight=st.floats(0.01, 100))
def test_an_example_does_not_need_those_before_it(number: int, weight: float) -> None:
    rows = manifest(a=20, b=11)
    weights = {"a": weight, "b": 1.0}
    far = UtteranceSampler(rows, 3, weights)
    utterance = next(far.candidates(number))
    for other in (0, number + 1, number):
        again = next(far.candidates(other))
    assert again == utterance == next(UtteranceSampler(rows, 3, weights).candidates(number))


def test_the_weight_of_a_single_corpus_has_no_effect_and_replacements_are_all_others() -> None:
    rows = manifest(a=20)
    plain, weighted = UtteranceSampler(rows, 3), UtteranceSampler(rows, 3, {"a": 2.5})
    for number in range(50):
        candidates = list(plain.candidates(number))
        assert candidates == list(weighted.candidates(number))
        assert sorted(candidates) == list(range(20))


def test_replacements_stay_within_the_corpus_and_an_absent_corpus_is_ignored() -> None:
    rows = manifest(a=20, b=11)
    sampler = UtteranceSampler(rows, 3, {"a": 1.0, "b": 1.0, "nobody": 5.0})
    for number in range(30):
        assert len({rows.row(index).corpus for index in sampler.candidates(number)}) == 1


@pytest.mark.parametrize("weight", [0.0, -1.0, float("nan"), 1e-6])
def test_a_weight_out_of_range_is_an_error(weight: float) -> None:
    with pytest.raises(ValueError, match="corpus 'b' has the weight"):
        UtteranceSampler(manifest(a=2, b=2), 0, {"a": 1.0, "b": weight})
