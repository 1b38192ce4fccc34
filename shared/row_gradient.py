"""The gradient of each row's own loss in closed form, as privacy needs it: no row sees another, nor a batch's count."""

import math
from collections.abc import Callable
from typing import Literal

import torch
from torch.nn import functional

RowGradient = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
"""labels (N, K), logits (N, K), weights (N,) -> the derivative (N, K) of each row's weighted loss by its logits.

A row's loss is what `build_loss` gives of that row alone: the mean over what was assessed in it, or 0.
"""


def build_row_gradient(kind: Literal["focal", "bce"], *, exclusive: bool, gamma: float, alpha: float) -> RowGradient:
    """Build the gradient of a study's loss; the settings are those of `build_loss`."""
    if exclusive:
        return softmax_focal(gamma=gamma if kind == "focal" else 0.0)
    return sigmoid_focal(gamma=gamma, alpha=alpha) if kind == "focal" else cross_entropy


def cross_entropy(labels_NK: torch.Tensor, logits_NK: torch.Tensor, weights_N: torch.Tensor) -> torch.Tensor:
    """Of independent findings: p - y."""
    weights_NK, labels_NK = _weights(labels_NK, weights_N)
    return torch.sigmoid(logits_NK).sub_(labels_NK).mul_(weights_NK)


def sigmoid_focal(*, gamma: float, alpha: float) -> RowGradient:
    """Of independent findings: ±alpha_t (1 - p_t)^gamma (gamma p_t log p_t + p_t - 1) (Lin et al. 2017, app. B)."""

    def gradient(labels_NK: torch.Tensor, logits_NK: torch.Tensor, weights_N: torch.Tensor) -> torch.Tensor:
        weights_NK, labels_NK = _weights(labels_NK, weights_N)
        signs_NK = 2 * labels_NK - 1
        margin_NK = logits_NK * signs_NK
        # 1 - p(z) = p(-z), as in the loss: nothing cancels however sure the model is.
        focus_NK = (gamma * functional.logsigmoid(-margin_NK)).exp()
        slope_NK = gamma * margin_NK.sigmoid() * functional.logsigmoid(margin_NK) - torch.sigmoid(-margin_NK)
        alpha_NK = alpha * labels_NK + (1 - alpha) * (1 - labels_NK)
        return signs_NK * alpha_NK * focus_NK * slope_NK * weights_NK

    return gradient


def softmax_focal(*, gamma: float) -> RowGradient:
    """Of exclusive classes: (1 - p_y)^gamma (p - y - gamma log p_y (q - p)), and p - y for cross-entropy.

    It is the derivative of -(1 - p_y)^gamma log p_y for the true class y; q is the softmax over the others.
    """

    def gradient(labels_NK: torch.Tensor, logits_NK: torch.Tensor, weights_N: torch.Tensor) -> torch.Tensor:
        weights_N = weights_N.masked_fill(labels_NK.isnan().any(dim=1), 0)
        labels_NK = labels_NK.nan_to_num(nan=0.0)
        log_p_NK = logits_NK.log_softmax(dim=1)
        log_others_NK = log_p_NK.masked_fill(labels_NK == 1, -torch.inf)
        log_p_others_N1 = log_others_NK.logsumexp(dim=1, keepdim=True)
        log_p_true_N1 = (log_p_NK * labels_NK).sum(dim=1, keepdim=True)
        p_NK, q_NK = log_p_NK.exp(), (log_others_NK - log_p_others_N1).exp()
        slope_NK = p_NK - labels_NK - gamma * log_p_true_N1 * (q_NK - p_NK)
        return (gamma * log_p_others_N1).exp() * slope_NK * weights_N[:, None]

    return gradient


def _weights(labels_NK: torch.Tensor, weights_N: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Share a row's weight among what was assessed in it; what was not gets none, and the label 0."""
    if math.isfinite(labels_NK.sum()):  # everything was, as mostly: a head's step takes no longer than what follows
        return (weights_N / labels_NK.shape[1])[:, None], labels_NK
    missing_NK = labels_NK.isnan()
    count_N = (labels_NK.shape[1] - missing_NK.sum(dim=1)).clamp_(min=1)
    return (weights_N / count_N)[:, None].masked_fill(missing_NK, 0), labels_NK.nan_to_num(nan=0.0)
