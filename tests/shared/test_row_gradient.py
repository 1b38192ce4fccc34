"""Tests of shared/row_gradient.py: closed forms against autograd through torch's and torchvision's losses."""

from typing import Any

import pytest
import torch
from torch.nn import functional

from shared import vision
from shared.loss import build_loss
from shared.row_gradient import build_row_gradient

NAN = float("nan")
GAMMAS = [0.0, 0.5, 2.0, 5.0]
ROWS, COLUMNS = 40, 3


def logits() -> torch.Tensor:
    """Draw logits wide enough to be both unsure and sure."""
    return torch.randn(ROWS, COLUMNS, generator=torch.Generator().manual_seed(0)).double() * 6


def labels(*, exclusive: bool, missing: bool) -> torch.Tensor:
    """Draw labels; with `missing`, one row has none and some have not all."""
    generator = torch.Generator().manual_seed(1)
    if exclusive:
        drawn = functional.one_hot(torch.randint(COLUMNS, (ROWS,), generator=generator), COLUMNS).double()
    else:
        drawn = torch.randint(2, (ROWS, COLUMNS), generator=generator).double()
    if missing:
        drawn[torch.rand(ROWS, COLUMNS, generator=generator) < 0.3] = NAN
        drawn[4] = NAN
    return drawn


WEIGHTS = torch.linspace(0, 1, ROWS).double()


def in_double(kind: str, exclusive: bool, gamma: float, alpha: float, z: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Give each row's loss (N,) by others' functions in fp64, one row after the other."""
    losses = []
    for row, known in zip(z, y, strict=True):
        assessed = ~known.isnan()
        if exclusive:
            if not assessed.all():
                losses.append(row.sum() * 0)
                continue
            p_true = row.softmax(0)[known.argmax()]
            value = functional.cross_entropy(row, known.argmax())
            losses.append((1 - p_true) ** gamma * value if kind == "focal" else value)
            continue
        row, known = row[assessed], known[assessed]
        if kind == "focal":
            each = vision.torchvision.ops.sigmoid_focal_loss(row, known, alpha, gamma, reduction="none")
        else:
            each = functional.binary_cross_entropy_with_logits(row, known, reduction="none")
        losses.append(each.sum() / max(1, len(row)))
    return torch.stack(losses)


@pytest.mark.parametrize("missing", [False, True])
@pytest.mark.parametrize("exclusive", [False, True])
@pytest.mark.parametrize(("kind", "gamma"), [("bce", 0.0), *(("focal", gamma) for gamma in GAMMAS)])
def test_the_closed_form_is_autograds(kind: Any, gamma: float, exclusive: bool, missing: bool) -> None:
    """In fp64, to 1e-12, with weights and labels that are not there."""
    z, y = logits().requires_grad_(), labels(exclusive=exclusive, missing=missing)
    losses = in_double(kind, exclusive, gamma, 0.25, z, y)
    (expected,) = torch.autograd.grad(losses, z, WEIGHTS)
    found = build_row_gradient(kind, exclusive=exclusive, gamma=gamma, alpha=0.25)(y, z.detach(), WEIGHTS)
    assert expected.abs().max() > 1e-3
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("exclusive", [False, True])
@pytest.mark.parametrize("kind", ["bce", "focal"])
def test_a_rows_loss_is_the_studys_of_that_row_alone(kind: Any, exclusive: bool) -> None:
    """In fp32, each row's gradient is that of `build_loss` on a batch of that row."""
    settings: dict[str, Any] = {"exclusive": exclusive, "gamma": 2.0, "alpha": 0.25}
    loss, gradient = build_loss(kind, positive_weights_K=None, **settings), build_row_gradient(kind, **settings)
    z, y = logits().float(), labels(exclusive=exclusive, missing=True).float()
    found = gradient(y, z, WEIGHTS.float())
    for row, weight, known, own in zip(z, WEIGHTS.float(), y, found, strict=True):
        leaf = row[None].clone().requires_grad_()
        (expected,) = torch.autograd.grad(loss(leaf, known[None]) * weight, leaf)
        torch.testing.assert_close(own[None], expected, rtol=1e-4, atol=1e-6)


def test_cross_entropy_keeps_autograds_bits() -> None:
    """Of the default loss not even the last bit differs, so that a seeded study ends as it did with autograd."""
    z, y = logits().float(), labels(exclusive=False, missing=True).float()
    leaf, known = z.clone().requires_grad_(), ~y.isnan()
    each = functional.binary_cross_entropy_with_logits(leaf, y.nan_to_num(0.0), reduction="none")
    losses = torch.where(known, each, 0).sum(1) / known.sum(1).clamp(min=1)
    (expected,) = torch.autograd.grad(losses, leaf, WEIGHTS.float())
    found = build_row_gradient("bce", exclusive=False, gamma=0.0, alpha=0.5)(y, z, WEIGHTS.float())
    assert torch.equal(found, expected)


@pytest.mark.parametrize("exclusive", [False, True])
@pytest.mark.parametrize("gamma", GAMMAS)
def test_a_model_that_is_sure_gets_a_finite_gradient(gamma: float, exclusive: bool) -> None:
    """It stays finite for logits at which probabilities round to 0 and 1, and vanishes where the model is right."""
    z = torch.tensor([[200.0, -200.0], [-200.0, 200.0]])
    y = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    found = build_row_gradient("focal", exclusive=exclusive, gamma=gamma, alpha=0.5)(y, z, torch.ones(2))
    assert found.isfinite().all()
    assert (found[0] == 0).all()
    assert found[1].abs().min() > 0
