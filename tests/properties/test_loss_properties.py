"""Properties of shared/loss.py: what a site did not label does not train."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from shared import loss

KINDS = ["focal", "bce", "weighted_bce"]

LOGITS_AND_LABELS = st.tuples(st.integers(1, 6), st.integers(1, 4)).flatmap(
    lambda shape: st.tuples(
        hnp.arrays(np.float32, shape, elements=st.floats(-30, 30, width=32)),
        hnp.arrays(np.float32, shape, elements=st.sampled_from([0.0, 1.0, float("nan")])),
    )
)


def build(kind: Any, *, findings: int) -> loss.Loss:
    """Build a loss of findings; positive weights differ by finding, so that a mix-up would show."""
    weights = torch.linspace(0.5, 3, findings)
    return loss.build_loss(kind, exclusive=False, gamma=2.0, alpha=0.25, positive_weights_K=weights)


def value_and_gradient(kind: Any, logits: Any, labels: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Compute a loss and its gradient by the logits."""
    logits = torch.from_numpy(logits).requires_grad_()
    value = build(kind, findings=logits.shape[1])(logits, torch.from_numpy(labels))
    value.backward()
    return value.detach(), logits.grad


@pytest.mark.parametrize("kind", KINDS)
@given(LOGITS_AND_LABELS)
def test_unassessed_findings_have_no_gradient(kind: Any, case: tuple[Any, Any]) -> None:
    """A label that is NaN gives its logit a gradient of exactly 0, and every loss is finite and not negative."""
    value, gradient = value_and_gradient(kind, *case)
    assert value.isfinite()
    assert value >= 0
    assert (gradient[torch.from_numpy(case[1]).isnan()] == 0).all()
    assert gradient.isfinite().all()


@pytest.mark.parametrize("kind", KINDS)
@given(LOGITS_AND_LABELS, st.floats(-30, 30, width=32))
def test_unassessed_findings_do_not_move_the_loss(kind: Any, case: tuple[Any, Any], other: float) -> None:
    """The loss is the same whatever the model says about findings that were not assessed."""
    logits, labels = case
    changed = np.where(np.isnan(labels), np.float32(other), logits)
    value, gradient = value_and_gradient(kind, logits, labels)
    changed_value, changed_gradient = value_and_gradient(kind, changed, labels)
    assert value == changed_value
    assert torch.equal(gradient, changed_gradient)


@given(LOGITS_AND_LABELS)
def test_the_loss_is_the_mean_over_what_was_assessed(case: tuple[Any, Any]) -> None:
    """The loss equals the mean of one-entry losses over the assessed entries, or 0 if there are none."""
    logits, labels = case
    single = [
        float(value_and_gradient("focal", np.array([[logit]]), np.array([[label]]))[0])
        for logit, label in zip(logits.flat, labels.flat, strict=True)
        if not np.isnan(label)
    ]
    expected = sum(single) / len(single) if single else 0.0
    assert float(value_and_gradient("focal", logits, labels)[0]) == pytest.approx(expected, rel=1e-4, abs=1e-7)


@given(
    hnp.arrays(
        np.float32,
        st.tuples(st.integers(1, 30), st.integers(1, 3)),
        elements=st.sampled_from([0.0, 1.0, float("nan")]),
    )
)
def test_sampling_weights_are_a_probability(labels: Any) -> None:
    """Sampling weights are positive, add up to 1, and are equal for equal labels."""
    weights = loss.balanced_weights(labels)
    assert (weights > 0).all()
    assert weights.sum() == pytest.approx(1)
    by_labels: dict[str, float] = {}
    for row, weight in zip(labels, weights, strict=True):
        assert by_labels.setdefault(str(row), weight) == weight
