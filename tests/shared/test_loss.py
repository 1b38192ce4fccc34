"""Tests of shared/loss.py, against torchvision, torch and the paper's formula in plain Python."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from shared import loss, vision

NAN = float("nan")
GAMMAS = [0.0, 0.5, 1.0, 2.0, 5.0]


def some_logits(rows: int, columns: int, *, seed: int = 0) -> torch.Tensor:
    """Draw logits wide enough to be both unsure and sure."""
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed)) * 4


def some_findings(rows: int, columns: int, *, seed: int = 1) -> torch.Tensor:
    """Draw independent labels 0 or 1."""
    return torch.randint(2, (rows, columns), generator=torch.Generator().manual_seed(seed)).float()


def some_classes(rows: int, columns: int, *, seed: int = 1) -> torch.Tensor:
    """Draw one true class a row, one-hot."""
    classes = torch.randint(columns, (rows,), generator=torch.Generator().manual_seed(seed))
    return functional.one_hot(classes, columns).float()


def build(
    kind: Any, *, exclusive: bool = False, gamma: float = 2.0, alpha: float = 0.5, weights: Any = None
) -> loss.Loss:
    """Build a loss with the study's defaults for what a test is not about."""
    return loss.build_loss(kind, exclusive=exclusive, gamma=gamma, alpha=alpha, positive_weights_K=weights)


@pytest.mark.parametrize("gamma", GAMMAS)
@pytest.mark.parametrize("alpha", [0.25, 0.5, 0.9])
def test_sigmoid_focal_is_torchvisions(gamma: float, alpha: float) -> None:
    """Loss and gradient equal torchvision.ops.sigmoid_focal_loss."""
    ours, theirs = some_logits(40, 3).requires_grad_(), some_logits(40, 3).requires_grad_()
    labels = some_findings(40, 3)
    value = build("focal", gamma=gamma, alpha=alpha)(ours, labels)
    expected = vision.torchvision.ops.sigmoid_focal_loss(theirs, labels, alpha, gamma, reduction="mean")
    value.backward()
    expected.backward()
    torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("gamma", GAMMAS)
def test_sigmoid_focal_is_the_papers_formula(gamma: float) -> None:
    """The loss equals -alpha_t (1 - p_t)^gamma log p_t, summed by a loop in double precision."""
    alpha = 0.25
    logits, labels = some_logits(20, 2), some_findings(20, 2)
    total = 0.0
    for logit, label in zip(logits.flatten().tolist(), labels.flatten().tolist(), strict=True):
        p = 1 / (1 + math.exp(-logit))
        p_t, alpha_t = (p, alpha) if label == 1 else (1 - p, 1 - alpha)
        total += -alpha_t * (1 - p_t) ** gamma * math.log(p_t)
    assert float(build("focal", gamma=gamma, alpha=alpha)(logits, labels)) == pytest.approx(total / 40, rel=1e-5)


@pytest.mark.parametrize("gamma", GAMMAS)
def test_softmax_focal_is_the_papers_formula(gamma: float) -> None:
    """With classes, the loss equals -(1 - p_y)^gamma log p_y, summed by a loop in double precision."""
    logits, labels = some_logits(25, 4), some_classes(25, 4)
    total = 0.0
    for row, label in zip(logits.tolist(), labels.argmax(dim=1).tolist(), strict=True):
        p_y = math.exp(row[label]) / sum(math.exp(logit) for logit in row)
        total += -((1 - p_y) ** gamma) * math.log(p_y)
    value = build("focal", exclusive=True, gamma=gamma)(logits, labels)
    assert float(value) == pytest.approx(total / 25, rel=1e-5)


def test_two_classes_are_one_finding() -> None:
    """Softmax over (0, z) is the sigmoid of z: both focal losses agree, but for the alpha of one half."""
    logits, labels = some_logits(30, 1), some_findings(30, 1)
    two_logits = torch.cat((torch.zeros_like(logits), logits), dim=1)
    two_labels = torch.cat((1 - labels, labels), dim=1)
    as_classes = build("focal", exclusive=True)(two_logits, two_labels)
    torch.testing.assert_close(build("focal")(logits, labels), as_classes / 2)


def test_plain_cross_entropy_is_torchs() -> None:
    """'bce' equals torch's, for findings and for classes."""
    logits = some_logits(30, 3)
    findings, classes = some_findings(30, 3), some_classes(30, 3)
    expected = functional.binary_cross_entropy_with_logits(logits, findings)
    torch.testing.assert_close(build("bce")(logits, findings), expected)
    expected = functional.cross_entropy(logits, classes)
    torch.testing.assert_close(build("bce", exclusive=True)(logits, classes), expected)


def test_weighted_cross_entropy_is_torchs() -> None:
    """'weighted_bce' equals torch's with pos_weight."""
    logits, labels, weights = some_logits(30, 3), some_findings(30, 3), torch.tensor([0.5, 2.0, 7.0])
    expected = functional.binary_cross_entropy_with_logits(logits, labels, pos_weight=weights)
    torch.testing.assert_close(build("weighted_bce", weights=weights)(logits, labels), expected)


@pytest.mark.parametrize("kind", ["focal", "bce"])
def test_weights_of_positives_are_for_weighted_bce_alone(kind: Any) -> None:
    """Another loss is the same whether positive weights are given or not."""
    logits, labels = some_logits(10, 2), some_findings(10, 2)
    with_weights = build(kind, weights=torch.tensor([3.0, 9.0]))(logits, labels)
    assert float(with_weights) == float(build(kind)(logits, labels))


@pytest.mark.parametrize("gamma", GAMMAS)
@pytest.mark.parametrize("exclusive", [False, True])
def test_a_model_that_is_sure_gets_a_finite_gradient(gamma: float, exclusive: bool) -> None:
    """Loss and gradient stay finite for logits far beyond where probabilities round to 0 and 1."""
    logits = torch.tensor([[200.0, -200.0], [-200.0, 200.0]], requires_grad=True)
    labels = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    value = build("focal", exclusive=exclusive, gamma=gamma)(logits, labels)
    value.backward()
    assert value.isfinite()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()
    assert logits.grad[1].abs().min() > 0
    assert (logits.grad[0] == 0).all()


@pytest.mark.parametrize("exclusive", [False, True])
@pytest.mark.parametrize("kind", ["focal", "bce"])
def test_loss_of_half_precision_logits_is_computed_in_full(kind: Any, exclusive: bool) -> None:
    """The loss of bf16 logits is that of the same numbers in fp32."""
    halves, labels = some_logits(5, 2).bfloat16(), some_classes(5, 2)
    value = build(kind, exclusive=exclusive)(halves, labels)
    assert value.dtype == torch.float32
    assert float(value) == float(build(kind, exclusive=exclusive)(halves.float(), labels))


def test_a_half_labelled_row_of_classes_is_not_assessed() -> None:
    """Of classes, a row counts only if all of its labels are known."""
    logits = some_logits(2, 3)
    labels = torch.tensor([[0.0, 1.0, 0.0], [NAN, 0.0, 0.0]])
    both, first = build("focal", exclusive=True)(logits, labels), build("focal", exclusive=True)(logits[:1], labels[:1])
    torch.testing.assert_close(both, first)


def test_positive_weights_balance_each_finding() -> None:
    """Positives times their weight are as many as negatives; a finding with one side only keeps weight 1."""
    labels = np.array([[1, 0, 1], [0, 0, 1], [0, NAN, 1], [0, 0, NAN]], dtype=np.float32)
    np.testing.assert_array_equal(loss.positive_weights(labels), np.array([3, 1, 1], dtype=np.float32))
    assert loss.positive_weights(labels).dtype == np.float32


def test_balanced_sampling_draws_each_combination_equally_often() -> None:
    """Each combination of labels, 'not assessed' included, has the same probability in total."""
    labels = np.array([[0, 0]] * 6 + [[1, 0]] * 3 + [[1, NAN]], dtype=np.float32)
    weights = loss.balanced_weights(labels)
    assert weights.sum() == pytest.approx(1)
    np.testing.assert_allclose([weights[:6].sum(), weights[6:9].sum(), weights[9]], 1 / 3)
