"""The pretrained weights of approved studies: out of the invitation, checked, and kept in the site's state."""

from pathlib import Path

from client.approval import ApprovedStudy, Invited
from client.site import SiteConfig
from shared.errors import WeightsError
from shared.invitation import WEIGHTS
from shared.kept_weights import KeptWeights, sha256_of
from shared.weights import downloaded


def kept_weights(config: SiteConfig) -> KeptWeights:
    """Give the place where this site keeps weights; the agent reads them there, and needs no network for them."""
    return KeptWeights(config.link.state / "weights")


def offered_weights(config: SiteConfig, invited: Invited, *, given: Path | None) -> Path | None:
    """Find the weights file that an invitation names: given by hand, in its folder, or kept since an earlier approval.

    Raises:
        WeightsError: it is nowhere, or is not the one that the invitation names.
    """
    digest, model = invited.invitation.weights, invited.protocol.model
    if not digest:
        return given
    beside = invited.folder / WEIGHTS
    file = given or (beside if beside.exists() else kept_weights(config).find(digest))
    if file is None and model.weights == "imagenet":  # an earlier version's invitation brought no file
        file = downloaded(model.weights, model.backbone)
    if file is None:
        raise WeightsError(
            f"{invited.folder}: the study's model starts from a file of weights with the SHA-256 {digest}, which is "
            f"not here. Ask the coordinator for it, and put it there as {WEIGHTS}, or name it with --weights."
        )
    if (found := sha256_of(file)) != digest:
        raise WeightsError(
            f"{file}: its SHA-256 is {found}, and the invitation names weights with {digest}. Ask the coordinator for "
            "that file, or for the invitation again."
        )
    return file


def pretrained_of(config: SiteConfig, study: ApprovedStudy) -> Path | None:
    """Find the file that an approved study starts from; None where it needs none.

    Raises:
        WeightsError: it is not where its approval has put it.
    """
    digest = study.approval.weights
    found = kept_weights(config).find(digest)
    if digest and found is None and study.protocol.model.weights != "imagenet":
        raise WeightsError(
            f"{config.link.state}: the weights that this study starts from (SHA-256 {digest}) are not kept there. "
            f"`polyclinic site approve` the study's invitation again, with the file in its folder as {WEIGHTS}."
        )
    return found
