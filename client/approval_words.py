"""What a study would compute here, what would leave, and what it costs, in plain words for whoever approves it."""

from collections.abc import Iterable, Iterator

from client.approval import Invited
from shared.amounts import at_most, counted, fewer_than
from shared.fingerprints import coordinator_line, invitation_line
from shared.invitation import Invitation
from shared.parameters import NamedArrays
from shared.plain_text import quoted
from shared.protocol import StudyProtocol

WHAT_LEAVES = """Before round 1 leaves, once, the patient flow: how many files were found, how many were left out, by
reason, and how many patients and exams each split has, with each finding and without.
From each round leaves: this hospital's update of the model, its mean loss, how far training moved the
model, and how fast it was. The coordinator sees this hospital's update by itself, before it is added to the others'.
An update can hold traces of single patients' images.
Of validation and test patients leave: counts of right and wrong answers, histograms of scores, and figures computed
from them, as the README's table "What may leave a hospital" lists.
{small_counts}The test patients' figures leave once. At the end leaves, once, how images look: sums of
brightness and features over training patients without disease, and of how many; how well what stands out in a corner
tells training patients with each finding from those without, and how many are with it and without; and what blanking a
corner does to the scores of validation patients, with how many of these are with each finding and without. No image,
no identifier and no text leaves."""

LANDMARKS = """Before round 1 leaves, once, where grey levels of images lie on average, as nine numbers, over training
patients without disease, unless {too_few}. The mean over all hospitals comes back, and every image
is brought to it. Each hospital's own nine numbers stand in the report that all hospitals get.
"""

OWN_SETTINGS = """With the finished model comes this hospital's own {kinds}, chosen from what its validation patients'
figures say; nothing more leaves for that.
"""

WHAT_LEAVES_PRIVATELY = """From each round leaves: this hospital's update of the model, clipped and noised, its norm,
and whole seconds. Of training patients nothing else leaves but their number, rounded to a multiple of {rounding}.
Of validation and test patients leave: counts of right and wrong answers, histograms of scores, and figures computed
from them, {counts}.
{{small_counts}}The test patients' figures leave once.
{images}No image, no identifier and no text leaves."""

IMAGES_PRIVATELY = """At the end leaves, once, how validation patients' images look: sums of features over those
without disease, and of how many; how well what stands out in a corner tells those with each finding from those without;
what blanking it does to their scores; and how many are with each finding and without.
"""

WITHOUT_PRIVACY = """This study asks for no differential privacy: there is no guarantee of how much an update tells."""


NEW_KEY = """The coordinator's tasks are known by its key. This site has approved no key of this coordinator's before:
have the coordinator read out the key's fingerprint by telephone, and compare."""

SAME_KEY = """The coordinator's tasks are known by its key, the one that this site has approved before."""

NEXT_KEY = """The coordinator has a new key, and the key that this site has approved before has signed it."""

OTHER_KEY = """The coordinator's key is ANOTHER one than this site has approved before, and that one has not signed it.
Either the coordinator has lost it, or somebody else wrote this invitation. Have the coordinator, whom you know, read
out the new key's fingerprint by telephone, and compare; approve nothing before that."""


def key_words(invitation: Invitation, earlier: Iterable[Invitation]) -> str:
    """Say what is known of the key that tells the coordinator's tasks; `earlier` were approved before."""
    approved = {one.signing: one for one in earlier if one.signing}
    if invitation.signing in approved:
        told = SAME_KEY
    elif invitation.signing_before in approved and invitation.endorsement:
        told = NEXT_KEY
    else:
        told = OTHER_KEY if any(_same_coordinator(invitation, one) for one in approved.values()) else NEW_KEY
    return f"{told}\n{coordinator_line(invitation.signing)}"


def _same_coordinator(one: Invitation, other: Invitation) -> bool:
    return any(getattr(one, name) == getattr(other, name) for name in ("digest", "coordinator", "address"))


def explain(
    invited: Invited,
    *,
    min_cell: int,
    update: NamedArrays,
    rounds_per_day: int | None,
    budget: Iterable[str] = (),
    earlier: Iterable[Invitation] = (),
    together: Iterable[str] = (),
) -> Iterator[str]:
    """Yield paragraphs; `update` are the arrays that travel in the round in which the most do.

    `budget` says what a private study would take of this hospital's privacy budget. `earlier` are the invitations that
    this site has approved before, and `together` says what their studies tell beside this one.
    """
    invitation, protocol = invited.invitation, invited.protocol
    yield (
        f"Study “{protocol.study.name}”, version {protocol.study.version}, invited by {invitation.coordinator}.\n"
        f"Intended use, in the words of its author:\n{quoted(protocol.study.intended_use)}"
    )
    yield "\n".join(("What will be computed here", *_computed(protocol)))
    too_few = f"they are fewer than {min_cell}" if min_cell > 1 else "there are none"
    landmarks = LANDMARKS.format(too_few=too_few) if protocol.images.harmonise == "landmarks" else ""
    leaves = _leaves(protocol).format(small_counts=f"{_ways_to_count(protocol)}\n{_small_counts(min_cell)}")
    yield "What will leave\n" + landmarks + leaves
    if lines := tuple(together):
        yield "\n".join(("What it tells together with other studies", *lines))
    if kinds := protocol.evaluation.own_settings:
        yield "What will come back\n" + OWN_SETTINGS.format(kinds=" and ".join(kinds))
    promised = (*_privacy(protocol), *(f"- {line}" for line in budget))
    yield WITHOUT_PRIVACY if protocol.privacy is None else "\n".join(("What privacy it promises", *promised))
    yield "\n".join(("What it costs", *_costs(protocol, update, rounds_per_day)))
    yield key_words(invitation, earlier)
    yield (
        f"Digest {invitation.digest}\nThis digest is what you approve. Whatever differs from it by one setting is "
        f"refused.\n{invitation_line(invitation)}\nIt covers all files of the invitation: compare it by telephone with "
        "what the coordinator's `invite` said."
    )


def _small_counts(min_cell: int) -> str:
    if min_cell > 1:
        return (
            f"A class or group of {fewer_than(min_cell, 'patient')} is withheld as a whole, and so is one that follows "
            "from others.\nWithin those that leave, a count of right or wrong answers, or of one bin of scores, may be "
            "of one patient.\n"
        )
    return "Counts leave however small they are, since this site's [policy] min_cell is 1.\n"


def _ways_to_count(protocol: StudyProtocol) -> str:
    """Say how finely patients are counted: the finer, the fewer are in a cell."""
    wish, asked = protocol.evaluation, protocol.privacy
    bins = f"Scores are counted in {wish.score_bins:,} bins for each of {counted(len(protocol.task.targets), 'target')}"
    if asked and asked.count_noise_epsilon:  # such a study may have no groups
        return f"{bins}."
    by = f"in groups by {', '.join(wish.subgroups)}" if wish.subgroups else "in no groups, as by sex or age"
    return f"{bins};\nanswers at the thresholds {by}."


def _leaves(protocol: StudyProtocol) -> str:
    if (asked := protocol.privacy) is None:
        return WHAT_LEAVES
    noise = asked.count_noise_epsilon
    counts = f"all noised (epsilon {noise:g} for each release)" if noise else "without noise"
    return WHAT_LEAVES_PRIVATELY.format(
        rounding=asked.size_rounding, counts=counts, images="" if noise else IMAGES_PRIVATELY
    )


def _privacy(protocol: StudyProtocol) -> Iterator[str]:
    if (asked := protocol.privacy) is None:
        return
    yield (
        f"- Each training patient, with all images: epsilon {asked.epsilon:g} at delta {asked.delta:g} over "
        f"{counted(protocol.federation.rounds, 'round')}. This approval reserves the whole of it in the site's ledger, "
        "which refuses it where [policy] max_epsilon does not allow it; `polyclinic site ledger` shows what is left."
    )
    if asked.centre_rounds:
        yield (
            f"- The first {asked.centre_rounds} of these rounds estimate the mean of the images' features, and the "
            "others train on what is left without it. They are clipped, noised and charged alike."
        )
    yield from (f"- {warning}" for warning in protocol.privacy_warnings())


def _computed(protocol: StudyProtocol) -> Iterator[str]:
    task, training = protocol.task, protocol.training
    kind = "Which one of these is true" if task.exclusive else "Whether each of these is present"
    yield f"- {kind}: {', '.join(task.targets)}; one answer for each {task.unit}."
    epochs, rounds = training.local_epochs, protocol.federation.rounds
    often = "once" if epochs == 1 else f"{epochs:,} times over"
    when = "in the one round" if rounds == 1 else f"in each of {rounds:,} rounds"
    yield f"- {_what_trains(protocol)}, on {100 * protocol.split.train:.0f} % of the patients, {often} {when}."
    yield (
        f"- {100 * protocol.split.validation:.0f} % of the patients choose the threshold (and are scored in every "
        f"round), {100 * protocol.split.test:.0f} % test the final model, once."
    )
    yield f"- Images are reduced to {protocol.images.size} x {protocol.images.size} pixels, and cached at this site."


def _what_trains(protocol: StudyProtocol) -> str:
    """Say which layers training changes: often the last one alone, and the rest of the backbone stays as it is."""
    model, rounds = protocol.model, protocol.federation.rounds
    steps = [step for step in model.unfreeze if step.round <= rounds]
    if not steps:
        return f"The last layer of a {model.backbone}, its head, is trained, and no other"
    later = "; ".join(f"from round {step.round} on its layers from {step.start} on" for step in steps)
    return f"Of a {model.backbone} the head is trained, and {later}"


def _costs(protocol: StudyProtocol, update: NamedArrays, rounds_per_day: int | None) -> Iterator[str]:
    rounds = protocol.federation.rounds
    width = 2 if protocol.federation.wire == "fp16" else 4
    size = sum(array.size for array in update.values()) * width
    yield f"- {counted(rounds, 'round')}; in each, up to {at_most(size)} come in twice, and as much leaves once."
    yield f"- Disk for stored replies: up to {at_most(rounds * size)} until the study is purged."
    if rounds_per_day is not None:
        yield f"- This site's own limit is {counted(rounds_per_day, 'round')} a day."
