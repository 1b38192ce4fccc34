"""What to expect in a hospital that did not take part, in words."""

from server import wording
from server.new_hospital import NewHospital
from shared.bounded import apart
from shared.prediction import MIN_SITES, Prediction


def expectation(one: NewHospital, *, measure: str, confidence: float) -> str:
    """Say what a new hospital may expect of one measure, how far that can be trusted, or why nothing can be said."""
    found = one.predictions.get(measure)
    if found is None:
        have = "1 site has" if one.sites == 1 else f"{one.sites} sites have"
        return (
            f"No {measure} can be predicted for a new hospital: {have} counts, and it takes {MIN_SITES} to see how far "
            "hospitals lie apart."
        )
    basis = (
        "models that never saw the hospital they were tested at"
        if one.unseen
        else "the shared model, which was trained at the same hospitals: hopeful"
    )
    return (
        f"In a new hospital like these, expect a {measure} between {between(found)} "
        f"({wording.level(confidence)} prediction interval over {found.sites} hospitals; from {basis}). "
        f"{promise(found)}"
    )


def between(found: Prediction) -> str:
    """Write the interval in percent."""
    return f"{wording.hundred(found.low)} and {wording.percent(found.high)}"


def promise(found: Prediction) -> str:
    """Say how far the interval keeps its promise, by simulation of studies of the same sizes."""
    low, high = (apart(share * 100, 0, bounds=(0, 100)) for share in (found.lowest_coverage, found.highest_coverage))
    return (
        f"In simulated studies of as many hospitals of these sizes, such intervals held {low} to "
        f"{high}{wording.NO_BREAK}% of new hospitals, by how far hospitals lie apart."
    )
