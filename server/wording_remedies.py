"""What could be tried at a site, in words: never a promise, always with its price."""

from collections.abc import Iterator

from server import wording
from server.finding_result import FindingResult
from server.receipt import Receipt, Worth
from server.remedies import OwnPoint, Recalibrated, Remedies, Scale
from server.target import Target


def sentences(
    one: Remedies, *, target: Target, unit: str, layers: Receipt | None, validation: FindingResult
) -> list[str]:
    """Say what a site's evidence gives a reason to try; `layers` is what its own layers gave where they were tried.

    `validation` is its result on validation units: where that is not there, nothing was looked for.
    """
    return list(_sentences(one, target, unit, layers)) or [_nothing(validation)]


def _nothing(validation: FindingResult) -> str:
    if validation.units is None:
        return f"Not known: of its validation patients there is no evidence ({wording.absence(validation.why)})."
    return "Its validation patients gave no reason to try something, which with few of them says little."


def _sentences(one: Remedies, target: Target, unit: str, layers: Receipt | None) -> Iterator[str]:
    if one.own_point:
        yield _own_point(one.own_point, target, unit)
    if one.recalibrated:
        yield _recalibrated(one.recalibrated, unit)
    if one.own_layers:
        yield (
            "Its own normalisation layers (FedBN), because its ROC curve lies lower, which no threshold can change. "
            + _tried(layers)
        )

    if one.scale:
        yield _SCALES[one.scale]


_SCALES = {
    Scale.PERCENTILE: (
        "Harmonised intensities: its images' brightness lies apart from that of most other sites, which is consistent "
        'with another scanner or another window. The study with [images] window = "percentile", each image between '
        "its own percentiles, would tell. It was not tried here."
    ),
    Scale.LANDMARKS: (
        "Harmonised intensities: its images' brightness lies apart from that of most other sites, which is consistent "
        'with another contrast curve. The study with [images] harmonise = "landmarks" (Nyúl and Udupa), by their '
        "median over sites, would tell. It was not tried here."
    ),
}


def _own_point(one: OwnPoint, target: Target, unit: str) -> str:
    more, alarms = one.found_after - one.found_before, one.alarms_after - one.alarms_before
    gain = f"{abs(more):,} {'more' if more >= 0 else 'fewer'} of {wording.units(one.positives, unit)} {target.of_it}"
    price = (
        f"{abs(alarms):,} {'more' if alarms >= 0 else 'fewer'} false alarms among {one.negatives:,} {target.of_others}"
    )
    return (
        f"Its own threshold, {wording.threshold(one.threshold)}: on its test {unit}s it would find {gain}, and raise "
        f"{price}. Then its numbers are no longer those of one shared operating point."
    )


def _recalibrated(one: Recalibrated, unit: str) -> str:
    briers = f"Brier score {wording.area(one.before)} to {wording.area(one.after)}"
    return (
        f"Its own calibration (intercept {wording.coefficient(one.intercept)}, slope {wording.coefficient(one.slope)} "
        f"on the logit): probabilities on its test {unit}s would be {verdict(one)} ({briers}, "
        f"difference {wording.signed(one.after - one.before, 3)}, interval "
        f"{wording.signed_range(one.low, one.high, 3)}). No AUC changes."
    )


def verdict(one: Recalibrated) -> str:
    """Say whether a recalibration makes probabilities better, as far as its interval shows."""
    return "better" if one.high < 0 else "worse" if one.low > 0 else "neither better nor worse, as far as is shown"


def _tried(layers: Receipt | None) -> str:
    if layers is None:
        return "It was not tried here: --baselines personal does that in a simulation."
    return {
        Worth.BETTER: "In this simulation they helped.",
        Worth.WORSE: "In this simulation they did harm.",
        Worth.NOT_SHOWN: "In this simulation neither help nor harm was shown.",
        Worth.TOO_FEW: "In this simulation there were too few cases to say.",
    }[layers.worth]
