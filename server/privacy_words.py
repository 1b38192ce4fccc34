"""What a private study promises and what it does not, in words: for the report's section on privacy."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

from server.results import StudyResult

NO_TWIN = (
    "The twin without privacy was not run. Where all patients are public or synthetic, polyclinic simulate --baselines "
    "twin runs the same study without noise beside it, so that the price of privacy can be read off."
)

SEEDED = "The privacy noise is not a guarantee"


@dataclass(frozen=True, slots=True, kw_only=True)
class Seeded:
    """A warning that noise came from the study's seed."""

    headline: str
    text: str


def seeded(result: StudyResult) -> Iterator[Seeded]:
    """Say that the noise can be taken off again, where it came from the study's seed."""
    if any(one.seeded for one in result.privacy.values()):
        yield Seeded(
            headline=SEEDED,
            text="This is a simulation: its noise comes from the study's seed, and whoever has the study can take it "
            "off again. The figures are those of a study in which each hospital draws noise with its own secret.",
        )


def headline(result: StudyResult) -> str:
    """Say in one sentence what the study costs at most, at the site where it costs most."""
    site, most = max(result.privacy.items(), key=lambda item: (item[1].epsilon, item[0]))
    alike = {epsilon(one.epsilon) for one in result.privacy.values()} == {epsilon(most.epsilon)}
    where = "the same at every site" if alike and len(result.privacy) > 1 else f"at {site}"
    said = f"This study costs a training patient at most ε = {epsilon(most.epsilon)} at δ = {most.delta:g} ({where})"
    if most.seeded:
        return f"{said}, if the hospitals draw the noise. Here it was drawn from the study's seed: not a guarantee."
    return f"{said}."


def epsilon(value: float) -> str:
    """Write an ε rounded up, so that what is printed is never less than what was spent."""
    return f"{math.ceil(value * 100 - 1e-9) / 100:.2f}"


def promises(result: StudyResult) -> list[tuple[str, str]]:
    """Explain the figures: unit, adjacency, who is protected and by what, and what is not promised."""
    counts = max((one.counts_epsilon for one in result.privacy.values()), default=0.0)
    if counts:
        others = (
            f"Each release of their evidence was noised with ε = {counts:g} for a patient (discrete Laplace); releases "
            "add up, one a round and two at the end for validation patients, and one for test patients."
        )
    else:
        others = (
            "They have disclosure control only: counts of too few patients are held back, and the rest leave as they "
            "are. That is no differential privacy."
        )
    return [
        ("Unit", "One patient at one site, with all of the patient's images. Who is at two sites counts at each."),
        (
            "Adjacency",
            "One patient is added or removed. Whatever anyone concludes from all that left the site becomes at most e "
            "to the power ε times as likely by one patient's taking part, but for a chance of about δ.",
        ),
        (
            "Protected",
            "Training patients. All that touched one was charged to the site's ledger, clipped and noised, or did not "
            "leave: no loss, no gradient, no count of theirs. A mean of their features, if the study estimates one, is "
            "clipped, noised and charged as an update is.",
        ),
        ("Validation and test patients", others),
        (
            "Not protected",
            "That a hospital takes part; its size, rounded; how long a round takes; facts that hold for patients in "
            "general, which a model is there to learn; and what is done with images and labels outside of this study.",
        ),
    ]
