"""What a study cannot ask for at once: settings of several sections that contradict each other, and the way out."""

from collections.abc import Iterator, Mapping
from typing import Any

from shared.private_study import refusals


def contradictions(settings: Mapping[str, Any], *, trains_on_plain_images: bool) -> Iterator[str]:
    """Name each, a sentence or two; `settings` maps 'section.key' to its value.

    What breaks the guarantee of [privacy] is one of them, and all of that is told at once.
    """
    exclusive = bool(settings["task.classes"])
    trains_all = any(step.start == "stem" and step.round == 1 for step in settings["model.unfreeze"])
    if settings["training.feature_views"] and trains_all:
        yield "[training] feature_views needs a frozen backbone, and [model] unfreeze trains it."
    if settings["model.norm"] == "batch" and settings["training.batch_size"] == 1:
        yield "[model] norm = 'batch' takes statistics over several images. Set [training] batch_size to 2 or more."
    yield from _of_views(settings)
    yield from _of_aggregation(settings)
    if settings["training.feature_views"] and trains_on_plain_images:
        yield "[training] feature_views are augmented views, and [augmentation] is off. Set it to 0."
    if settings["federation.local_norm"] and settings["model.norm"] == "folded":
        yield "[federation] local_norm keeps norm layers at the site, and norm = 'folded' has none."
    if settings["training.loss"] == "weighted_bce" and exclusive:
        yield "[training] loss = 'weighted_bce' is for findings. Use 'focal' or 'bce' with classes."
    if "calibration" in settings["evaluation.own_settings"] and exclusive:
        yield "[evaluation] own_settings = ['calibration'] is for findings: scores of classes add up to 1."
    if settings.get("privacy.epsilon") and (refused := refusals(settings)):
        yield " ".join(refused)


def _of_views(settings: Mapping[str, Any]) -> Iterator[str]:
    if settings["model.mirrored"] and not settings["augmentation.laterality_invariant"]:
        yield (
            "[model] mirrored takes an image and its mirror image for the same. If no finding depends on the side, say "
            "so with [augmentation] laterality_invariant = true; else set mirrored to false."
        )
    for view in ("mirrored", "zoomed"):
        if settings[f"model.{view}"] and settings["model.unfreeze"]:
            yield f"[model] {view} averages what a frozen backbone gives, and [model] unfreeze trains it. Remove one."


def _of_aggregation(settings: Mapping[str, Any]) -> Iterator[str]:
    """Name what a median or trimmed mean of the sites cannot go with."""
    if (kind := settings["federation.aggregation"]) == "mean":
        return
    if settings["federation.weighting"] != "equal":
        yield (
            f"[federation] aggregation = '{kind}' counts each site once, and weighting = 'patients' does not. Set "
            "weighting = 'equal', or aggregation to 'mean'."
        )
    if settings["federation.min_sites"] < 3:
        yield (
            f"[federation] aggregation = '{kind}' outvotes a bad site, and of two nobody can tell which it is. Set "
            "min_sites to 3 or more, or aggregation to 'mean'."
        )
