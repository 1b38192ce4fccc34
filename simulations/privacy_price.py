"""What a private study's noise comes to before anybody runs it: as declared, and with another ε, rounds or site."""

from collections.abc import Iterator

from shared.errors import StudyError
from shared.protocol import StudyProtocol
from shared.study_plan import study_plan

HEADINGS = ("", "training patients", "of them in a step", "steps", "noise multiplier", "noise of a step")

SIZES = (100, 400, 1600)
"""Training patients of a small, a middling and a large site; the variations are shown for the middling one."""

EXPLAINED = (
    "The noise of a step is what each weight's mean gradient gets, in clips (a patient's whole gradient is one clip). "
    "It falls with the number of a site's patients, and rises with the root of the number of steps. What is unfrozen "
    "gets as much in every weight: the head has some thousands, a ResNet-50's last stage 15 million."
)


def price_rows(protocol: StudyProtocol) -> Iterator[tuple[str, ...]]:
    """Yield the rows of a table: the study as it is at three sizes of a site, then with one thing changed.

    Raises:
        StudyError: the study has no [privacy].
        PrivacyError: no noise keeps one of these budgets.
    """
    asked, federation = protocol.privacy, protocol.federation
    if asked is None:
        raise StudyError("The study has no [privacy], and so no price. Add the section first.")
    for size in SIZES:
        yield _row("as declared", protocol, size)
    middling = SIZES[1]
    for word, factor in (("half", 0.5), ("double", 2.0)):
        changed = asked.model_copy(update={"epsilon": asked.epsilon * factor})
        yield _row(f"{word} epsilon", protocol.model_copy(update={"privacy": changed}), middling)
    for word, factor in (("half", 0.5), ("double", 2.0)):
        rounds = max(1, round(federation.rounds * factor))
        changed_rounds = federation.model_copy(update={"rounds": rounds})
        yield _row(f"{word} the rounds", protocol.model_copy(update={"federation": changed_rounds}), middling)


def _row(what: str, protocol: StudyProtocol, patients: int) -> tuple[str, ...]:
    plan = study_plan(protocol, public_size=patients, limit=None)
    taking = plan.sample_rate * patients
    return (
        what,
        f"{patients:,}",
        f"{taking:,.0f}",
        f"{plan.steps:,}",
        f"{plan.noise_multiplier:.2f}",
        f"{plan.noise_multiplier / taking:.4f}",
    )
