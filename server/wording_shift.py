"""What images, corners and leading patterns say, in words: consistent with, associated with, and never caused by."""

from collections.abc import Iterator
from dataclasses import replace

from server import wording
from server.image_shift import Distance, Recognition, SitePair
from server.leading import MARK_AREA as MARK_AREA
from server.leading import Cause, Leading
from server.results import DomainShift, StudyResult
from server.shortcuts import CornerFinding, MarkFinding


def leading_sentence(one: Leading) -> str:
    """Say what stands out of one finding, and what it is consistent with."""
    if one.site is None or one.p is None:
        return _nothing_shown(one)
    p = f"{wording.p_value(one.p)}, adjusted for all that was tested"
    match one.cause:
        case Cause.MARK:
            beside = f" Beside that, {leading_sentence(one.beside)}" if one.beside else ""
            return (
                f"What stands out in the {one.corner} corner of {one.site}'s images goes with {_goes_with(one)} "
                f"(AUC {wording.area(one.area or 0.0)}, {p}). This is consistent with a mark burned in there that goes "
                "with it at this site. That this model reads it was not shown; a model trained there can come to read "
                f"it.{beside}"
            )
        case Cause.MARKER:
            return (
                f"What lies in the {one.corner} corner of {one.site}'s images speaks for the disease ({p}). This is "
                "consistent with a mark burned in there that goes with the disease at this site, and that the model "
                "reads. Until that is settled, no comparison of sites stands."
            )
        case Cause.THRESHOLD:
            reading = "scores that lie elsewhere at this site; that cases are told apart differently well was not shown"
        case Cause.DISCRIMINATION:
            reading = "a model that tells cases apart differently well at this site"
        case Cause.BOTH:
            reading = "two things at once: another ROC curve at this site, and scores that lie elsewhere"
        case Cause.PREVALENCE:
            reading = "another share of positives at this site; sensitivity and specificity were not shown to differ"
        case _:
            return f"{one.site} differs from the others ({p}), with too few cases to say how."
    return f"{one.site} stands out ({p}). This is consistent with {reading}."


def _nothing_shown(one: Leading) -> str:
    """Say how little it means that nothing leads: of what was not tested, nothing."""
    numbers = (
        f"at none of {one.compared} sites compared were numbers shown to differ from the others'"
        if one.compared > 1
        else "no site's numbers could be compared with others'"
    )
    images = (
        f"in the corners of the images of {one.looked_at} site{'s' if one.looked_at != 1 else ''} no mark was shown"
        if one.looked_at
        else "no corner of the images was tested"
    )
    start = "No site was shown to stand out" if one.compared > 1 or one.looked_at else "What stands out is not known"
    return f"{start}: {numbers}, and {images}. With few cases, real differences go unseen."


def _goes_with(one: Leading) -> str:
    return "the disease" if (one.area or 0.0) > 0.5 else "the absence of the disease"


def consistent_with(one: Leading, *, finding: str | None) -> str:
    """Name in a few words, for the summary, what the leading pattern is consistent with, and where it is.

    `finding` stands there too where a study has more than one.
    """
    corner = f", {one.corner}" if one.cause in (Cause.MARKER, Cause.MARK) else ""
    return f"{_kind(one)} ({f'{finding}: ' if finding else ''}{one.site}{corner})"


def _kind(one: Leading) -> str:
    match one.cause:
        case Cause.MARKER:
            return "a mark read by the model"
        case Cause.MARK:
            return f"a mark that goes with {_goes_with(one)}"
        case Cause.THRESHOLD:
            return "scores that lie elsewhere"
        case Cause.DISCRIMINATION:
            return "cases told apart differently well"
        case Cause.BOTH:
            return "another ROC curve, and scores that lie elsewhere"
        case Cause.PREVALENCE:
            return "another share of positives"
        case _:
            return "a difference of a kind that so few cases do not tell"


def distance(one: Distance | None, decimals: int) -> str:
    """Write a distance and the null beside it, or why there is none."""
    if one is None:
        return "too few patients, or held back"
    return f"{one.value:.{decimals}f} (within a site up to {one.null:.{decimals}f})"


def recognition(shift: DomainShift, pair: SitePair) -> Recognition | None:
    """Find how surely two sites are told apart; None where it is not shown."""
    return next((one for one in shift.site_identifiability if (one.one, one.other) == (pair.one, pair.other)), None)


def accuracy(one: Recognition) -> str:
    """Write how often a patient's site is told, with its interval."""
    told = one.identifiability
    return f"{wording.percent(told.accuracy)} ({wording.percent_range(told.low, told.high)})"


def area(one: MarkFinding) -> str:
    """Write how well a corner tells the classes apart, with its interval."""
    return f"{wording.area(one.value)} ({wording.area_range(one.low, one.high)})"


def cross_fitted(one: Recognition) -> str:
    """Say what the features themselves tell, where a simulation had them; nothing where it had not."""
    if one.cross_fitted is None:
        return ""
    raw, projected = wording.percent(one.cross_fitted.raw), wording.percent(one.cross_fitted.projected)
    return f"cross-fitted: {projected} in the projection, {raw} from all features"


def logits(one: CornerFinding) -> str:
    """Write a corner's effect with its interval."""
    return f"{wording.signed(one.value, 2)} ({wording.signed_range(one.low, one.high, 2)})"


def apart(result: StudyResult) -> Iterator[str]:
    """Say of every site whose images lie apart from others' by more than its own halves do from each other."""
    for site in result.site_names:
        own = [one for one in result.domain_shift.distances if site in (one.one, one.other)]
        kinds = {
            "brightness": [one for one in own if one.brightness and one.brightness.beyond],
            "features": [one for one in own if one.features and one.features.beyond],
        }
        told = [
            f"in {kind} from {wording.names(tuple(one.other if one.one == site else one.one for one in pairs))}"
            for kind, pairs in kinds.items()
            if pairs
        ]
        if told:
            yield f"{site}'s images without disease lie apart {', and '.join(told)}."


def sites_apart(result: StudyResult) -> tuple[str, ...]:
    """Name the sites of which `apart` has something to say."""
    beyond = [
        one
        for one in result.domain_shift.distances
        if (one.brightness and one.brightness.beyond) or (one.features and one.features.beyond)
    ]
    return tuple(site for site in result.site_names if any(site in (one.one, one.other) for one in beyond))


def any_distance(shift: DomainShift) -> bool:
    """Tell whether any two sites' images could be compared at all."""
    return any(one.brightness or one.features for one in shift.distances)


def warnings(result: StudyResult) -> Iterator[tuple[str, str]]:
    """Warn, as headline and text, of sites that can be recognised and differ in positives, and of corners."""
    alpha = result.study.significance
    for one in result.domain_shift.site_identifiability:
        if one.identifiability.almost_sure and one.prevalence_p is not None and one.prevalence_p < alpha:
            yield (
                f"A model can recognise {one.one} and {one.other}",
                f"Of two patients without disease, one from each, the features tell the site in {accuracy(one)}, and "
                f"the shares of positives differ ({wording.p_value(one.prevalence_p)}, adjusted). A model that "
                "recognises the site can guess the disease from it: its figures at these sites may flatter it.",
            )
    for finding, lead in result.domain_shift.leading.items():
        if lead.cause is Cause.MARKER:
            yield f"A corner of {lead.site}'s images speaks for {finding}", leading_sentence(lead)
        if lead.cause is Cause.MARK:
            yield f"A corner of {lead.site}'s images goes with {finding}", leading_sentence(replace(lead, beside=None))
