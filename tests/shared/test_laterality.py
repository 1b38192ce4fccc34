"""Tests of shared/laterality.py: the validator passes what keeps left on the left and fails what does not."""

from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
import torch

from shared.augmentation import Augmentation
from shared.laterality import LateralityScore, _correlation, laterality_rows, laterality_scores, phantom

GENTLE = Augmentation(
    rotation_degrees=10.0,
    translate=0.05,
    scale=0.05,
    elastic=0.03,
    brightness=0.1,
    contrast=0.1,
    gamma=0.2,
    noise=0.05,
    blur=1.0,
    laterality_invariant=False,
)
OFF = Augmentation(**{field.name: type(getattr(GENTLE, field.name))(0) for field in fields(GENTLE)})


def scores(augmentation: Augmentation) -> dict[str, LateralityScore]:
    """Score on a small phantom."""
    return {score.name: score for score in laterality_scores(augmentation, size=64, seed=0)}


def test_the_phantom_is_asymmetric() -> None:
    """The phantom is an image in [0, 1] that is far from its mirror image, with the heart on the image's right."""
    image = phantom(128)
    assert image.shape == (1, 128, 128)
    assert image.min() >= 0
    assert image.max() <= 1
    assert float(_correlation(image.unsqueeze(0), image.flip(-1))[0]) < 0.5
    assert image[0, :, 64:].sum() > 1.3 * image[0, :, :64].sum()


def test_gentle_settings_keep_left_on_the_left() -> None:
    """Every augmentation but mirroring passes, alone and together, each by its key in the study."""
    found = scores(GENTLE)
    names = [field.name for field in fields(Augmentation) if field.name != "laterality_invariant"]
    assert list(found) == [*names, "all together"]
    assert all(score.keeps_left_on_left for score in found.values())


def test_mirroring_fails() -> None:
    """Left-right flips fail alone and together with others, which still pass alone."""
    found = scores(replace(GENTLE, laterality_invariant=True))
    failed = {name for name, score in found.items() if not score.keeps_left_on_left}
    assert failed == {"laterality_invariant", "all together"}
    assert found["laterality_invariant"].mirrored_correlation == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("change", [{"rotation_degrees": 180.0}, {"translate": 0.3}])
def test_turning_or_shifting_the_heart_to_the_other_side_fails(change: dict[str, Any]) -> None:
    """A half turn, or a shift across the midline, is found without any flip."""
    [score] = scores(replace(OFF, **change)).values()
    assert not score.keeps_left_on_left


def test_nothing_on_gives_nothing_to_check() -> None:
    """An augmentation that is off has no scores; one setting alone has no 'all together'."""
    assert scores(OFF) == {}
    assert list(scores(replace(OFF, blur=1.0))) == ["blur"]


def test_scores_repeat() -> None:
    """The same seed gives the same scores; another seed, others."""
    assert scores(GENTLE) == scores(GENTLE)
    other = laterality_scores(GENTLE, size=64, seed=1)
    assert {score.name: score for score in other} != scores(GENTLE)


def test_rows_say_it_in_words() -> None:
    """Each score becomes a row with two correlations and a verdict."""
    rows = laterality_rows(
        [
            LateralityScore(name="blur", correlation=0.987, mirrored_correlation=0.4),
            LateralityScore(name="laterality_invariant", correlation=0.4, mirrored_correlation=1.0),
        ]
    )
    assert rows == [
        ("blur", "0.99", "0.40", "left stays left"),
        ("laterality_invariant", "0.40", "1.00", "LEFT MAY BECOME RIGHT"),
    ]


def test_the_correlation_is_pearsons() -> None:
    """Correlations equal numpy's."""
    batch = torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    expected = [np.corrcoef(image.flatten(), phantom(8).flatten())[0, 1] for image in batch.numpy()]
    np.testing.assert_allclose(_correlation(batch, phantom(8)).numpy(), expected, rtol=1e-5)
