"""What [privacy] changes in a study: its defaults, what is refused beside it by name, and what has a price."""

from collections.abc import Mapping
from typing import Any, Final

from shared.split import CONCLUDING_LOOKS

UNDER_PRIVACY: Final[Mapping[str, Mapping[str, Any]]] = {
    "model": {"norm": "folded", "features": "unit"},
    "training": {"loss": "bce"},
}
"""Defaults of keys that are left out, by section, where a study has [privacy]; all others stay as they are."""

_REFUSED: Final[tuple[tuple[str, object, str], ...]] = (
    (
        "model.norm",
        "batch",
        "[model] norm = 'batch' computes with each batch's own statistics, so that one patient changes what the model "
        "learns from the others. Use 'folded', 'frozen' or 'group'.",
    ),
    (
        "training.sampler",
        "balanced",
        "[training] sampler = 'balanced' draws a patient the more often, the rarer the label is at the site, and the "
        "guarantee needs one chance for all. Remove the key: under [privacy] patients are drawn by independent coins.",
    ),
    (
        "training.loss",
        "weighted_bce",
        "[training] loss = 'weighted_bce' takes its weights from the site's own labels, which would leave with the "
        "update. Use 'bce', or 'focal' with an alpha that the study declares.",
    ),
    (
        "training.precision",
        "bf16",
        "[training] precision = 'bf16' rounds gradients by more than their clipping allows for. Remove the key.",
    ),
    (
        "federation.strategy",
        "fedprox",
        "[federation] strategy = 'fedprox' has a step of its own at the site, which this version's private training "
        "does not take. Use 'fedavg', or a strategy that differs at the server alone: fedavgm, fedadam, fedyogi.",
    ),
    *(
        (
            "federation.aggregation",
            kind,
            f"[federation] aggregation = '{kind}' takes the middle of few noised numbers, and what the plan says of a "
            "study's noise (study check, approve) holds for weighted sums. Use 'mean': an update is bounded all the "
            "same, by norm_multiple.",
        )
        for kind in ("median", "trimmed_mean")
    ),
    (
        "images.harmonise",
        "landmarks",
        "[images] harmonise = 'landmarks' averages over training patients where grey levels lie, and that is not "
        "noised. Remove the key: window = 'percentile' scales each image by itself, and tells nobody.",
    ),
    (
        "federation.local_norm",
        True,
        "[federation] local_norm = true trains layers that are neither clipped nor noised, and a site's evidence "
        "depends on them. Set it to false; norm = 'folded' has no such layers.",
    ),
)


LEAST_CLIP: Final = 1e-6
MOST_CLIP: Final = 1e6
"""Clips whose squares fp32 holds: of norms below 1e-23 they are 0, and beside a clip as small nothing is clipped."""

MANY_EPOCHS: Final = 200
"""Passes over the patients beyond which a private head has learnt nothing more in our runs (docs/results.md)."""


def refusals(settings: Mapping[str, Any]) -> list[str]:
    """Name what breaks the guarantee, a sentence and a next step each; `settings` maps 'section.key' to its value.

    Focal loss is allowed: its gamma and alpha are the study's own constants. Choosing the round by validation
    ('best_validation') is allowed too: validation patients are not those whom training protects, and every round's
    model is released already.
    """
    found = [why for key, value, why in _REFUSED if settings[key] == value]
    if settings["privacy.count_noise_epsilon"] and settings["task.unit"] != "patient":
        found.append(
            f"[privacy] count_noise_epsilon noises counts in which a patient counts once, and with [task] unit = "
            f"'{settings['task.unit']}' a patient counts as often as there are {settings['task.unit']}s. Set unit = "
            "'patient', or count_noise_epsilon to 0."
        )
    if settings["privacy.count_noise_epsilon"] and settings["evaluation.subgroups"]:
        found.append(
            "[privacy] count_noise_epsilon has no noise for counts of subgroups, which would leave as they are. Remove "
            "[evaluation] subgroups, or set count_noise_epsilon to 0."
        )
    if "device" in settings["evaluation.subgroups"]:
        found.append(
            "[evaluation] subgroups with 'device' numbers devices by how many images each made, those of training "
            "patients among them, so that one of these decides which counts have which number. Remove 'device': "
            "'manufacturer' is read of each image alone."
        )
    if settings["privacy.centre_rounds"]:
        found += _centre_refusals(settings)
    return ["Under [privacy]: " + why for why in found]


def _centre_refusals(settings: Mapping[str, Any]) -> list[str]:
    """Name what a centre of the features cannot be estimated with."""
    needed = (
        ("model.features", "unit", "[model] features = 'unit', whose mean it is"),
        ("model.unfreeze", (), "a frozen backbone, whose features do not move, and [model] unfreeze trains it"),
        (
            "federation.strategy",
            "fedavg",
            "[federation] strategy = 'fedavg', which adds up the sites' sums as they are",
        ),
    )
    found = [
        f"[privacy] centre_rounds needs {what}. Change that, or set centre_rounds to 0."
        for key, value, what in needed
        if settings[key] != value
    ]
    if settings["privacy.centre_rounds"] >= settings["federation.rounds"]:
        found.append("[privacy] centre_rounds leaves no round to train the head. Set [federation] rounds above it.")
    return found


def warnings(settings: Mapping[str, Any]) -> list[str]:
    """Say what is allowed and has its price, a sentence or two each."""
    found = []
    if settings["model.unfreeze"]:
        found.append(
            "[model] unfreeze trains the backbone under [privacy]. The noise is as large in each of its millions of "
            "parameters as in the head's, and what is learnt mostly drowns in it. Compare with the head alone."
        )
    if settings["model.features"] == "pooled":
        found.append(
            "[model] features = 'pooled' lets the features' scale decide how hard each patient is clipped. "
            "'unit' learns more at the same epsilon."
        )
    if noised := settings["privacy.count_noise_epsilon"]:
        rounds = settings["federation.rounds"]
        whole = noised * (rounds + CONCLUDING_LOOKS)
        found.append(
            f"[privacy] count_noise_epsilon = {noised:g} is paid anew for each look at the validation patients: "
            f"{rounds} rounds and two at the end cost each of them epsilon = {whole:g} in all, a test "
            f"patient {noised:g}. Figures of small sites drown first, and their intervals do not know of the noise."
        )
    if settings["training.local_epochs"] * settings["federation.rounds"] > MANY_EPOCHS:
        found.append(
            f"[federation] rounds × [training] local_epochs come to {settings['federation.rounds']} × "
            f"{settings['training.local_epochs']} passes over each patient. Each pass shares the one budget, so that "
            "the noise rises with the root of their number. Compare with fewer."
        )
    if settings["privacy.epsilon"] > 10:
        found.append(
            f"[privacy] epsilon = {settings['privacy.epsilon']:g} promises little: the odds of any conclusion about a "
            "patient may change by a factor of e to that power. Common choices are 1 to 8."
        )
    return found
