"""Focal loss and its alternatives, with masks for findings a site did not label."""

from collections.abc import Callable
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""logits (N, K), labels (N, K) of 0, 1 or NaN (not assessed) -> the mean over what was assessed, a scalar in fp32.

What was not assessed adds neither loss nor gradient; where nothing was, the loss is 0 and so is its gradient.
"""


def build_loss(
    kind: Literal["focal", "bce", "weighted_bce"],
    *,
    exclusive: bool,
    gamma: float,
    alpha: float,
    positive_weights_K: torch.Tensor | None,
) -> Loss:
    """Build a study's loss.

    Args:
        kind: "bce" is plain cross-entropy; "weighted_bce" multiplies the loss of positives.
        exclusive: classes, of which exactly one is true (softmax), instead of findings (a sigmoid each). A row is
            then assessed only if all of its labels are.
        gamma: focusing of the focal loss; 0 gives cross-entropy.
        alpha: the focal loss's weight of positives, 1 - alpha that of negatives. Classes have no negatives, and it
            has no meaning for them.
        positive_weights_K: for "weighted_bce", from `positive_weights`; another loss doesn't look at it.
    """
    if exclusive:
        return softmax_focal(gamma=gamma if kind == "focal" else 0.0)
    if kind == "focal":
        return sigmoid_focal(gamma=gamma, alpha=alpha)
    return cross_entropy(positive_weights_K=positive_weights_K if kind == "weighted_bce" else None)


def sigmoid_focal(*, gamma: float, alpha: float) -> Loss:
    """Focal loss of independent findings, -alpha_t (1 - p_t)^gamma log p_t (Lin et al. 2017, equation 5).

    Its gradient is finite for every gamma >= 0, however sure the model is.
    """

    def loss(logits_NK: torch.Tensor, labels_NK: torch.Tensor) -> torch.Tensor:
        assessed_NK, labels_NK = _assessed(labels_NK)
        # 1 - p(z) = p(-z), so that (1 - p_t)^gamma is smooth in logs; a power of 0 has no gradient below gamma = 1.
        margin_NK = logits_NK.float() * (2 * labels_NK - 1)
        focus_NK = (gamma * functional.logsigmoid(-margin_NK)).exp()
        alpha_NK = alpha * labels_NK + (1 - alpha) * (1 - labels_NK)
        return _mean(-alpha_NK * focus_NK * functional.logsigmoid(margin_NK), assessed_NK)

    return loss


def softmax_focal(*, gamma: float) -> Loss:
    """Focal loss of exclusive classes, -(1 - p_y)^gamma log p_y for the true class y; cross-entropy at gamma = 0."""

    def loss(logits_NK: torch.Tensor, labels_NK: torch.Tensor) -> torch.Tensor:
        assessed_NK, labels_NK = _assessed(labels_NK)
        log_p_NK = logits_NK.float().log_softmax(dim=1)
        log_p_true_N = (log_p_NK * labels_NK).sum(dim=1)
        log_p_others_N = log_p_NK.masked_fill(labels_NK == 1, -torch.inf).logsumexp(dim=1)
        return _mean(-(gamma * log_p_others_N).exp() * log_p_true_N, assessed_NK.all(dim=1))

    return loss


def cross_entropy(*, positive_weights_K: torch.Tensor | None) -> Loss:
    """Cross-entropy of independent findings, in which positives of finding k count `positive_weights_K[k]` times."""

    def loss(logits_NK: torch.Tensor, labels_NK: torch.Tensor) -> torch.Tensor:
        assessed_NK, labels_NK = _assessed(labels_NK)
        weights_K = None if positive_weights_K is None else positive_weights_K.to(logits_NK.device)
        loss_NK = functional.binary_cross_entropy_with_logits(
            logits_NK.float(), labels_NK, pos_weight=weights_K, reduction="none"
        )
        return _mean(loss_NK, assessed_NK)

    return loss


def positive_weights(labels_NK: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Weigh a site's positives (K,) so that they count as much as its negatives: negatives / positives, by finding.

    1 where a site has no positives or no negatives: there is nothing to balance.
    """
    positives_K = (labels_NK == 1).sum(axis=0)
    negatives_K = (labels_NK == 0).sum(axis=0)
    both_K = (positives_K > 0) & (negatives_K > 0)
    return np.where(both_K, negatives_K / np.maximum(positives_K, 1), 1).astype(np.float32)


def balanced_weights(labels_NK: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """Give sampling weights (N,), which add up to 1, that draw each combination of labels equally often.

    With one finding, that is positives as often as negatives; with classes, each class. "Not assessed" is a label of
    its own here.
    """
    _, combination_N, count = np.unique(
        np.nan_to_num(labels_NK, nan=-1), axis=0, return_inverse=True, return_counts=True
    )
    weights: npt.NDArray[np.float64] = 1 / (len(count) * count[combination_N])
    return weights


def _assessed(labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Tell which labels were assessed, and put 0 for the others, so that arithmetic stays finite."""
    return ~labels.isnan(), labels.nan_to_num(nan=0.0)


def _mean(loss: torch.Tensor, assessed: torch.Tensor) -> torch.Tensor:
    return torch.where(assessed, loss, 0).sum() / assessed.sum().clamp(min=1)
