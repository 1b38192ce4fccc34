"""The privacy plan that a study's declaration and a site's public size fix: the same, wherever it is computed."""

from functools import lru_cache

from shared.errors import StudyError
from shared.privacy import PrivacyPlan, make_plan
from shared.protocol import StudyProtocol
from shared.renyi_filter import PrivacyLimit
from shared.split import CONCLUDING_LOOKS


def count_releases(protocol: StudyProtocol) -> int:
    """Give how often a split's noised counts may leave a site: each round's validation, and the end; 0 without noise.

    Test patients are scored once; whoever counts this many for them too counts too many.
    """
    asked = protocol.privacy
    if asked is None or not asked.count_noise_epsilon:
        return 0
    return protocol.federation.rounds + CONCLUDING_LOOKS


@lru_cache(maxsize=256)
def study_plan(protocol: StudyProtocol, *, public_size: int, limit: PrivacyLimit | None) -> PrivacyPlan:
    """Derive a site's plan; `limit` is the hospital's over all studies, which may ask for more noise.

    Kept once computed: calibration takes seconds, and in a simulation all sites ask for it in one process.

    Raises:
        StudyError: the study has no [privacy].
        PrivacyError: no noise keeps the study's budget.
    """
    asked = protocol.privacy
    if asked is None:
        raise StudyError("The study has no [privacy], and so no plan. Add the section, or train it without.")
    return make_plan(
        epsilon=asked.epsilon,
        delta=asked.delta,
        clip=asked.clip,
        batch_size=protocol.training.batch_size,
        local_epochs=protocol.training.local_epochs,
        rounds=protocol.federation.rounds,
        images_per_patient=asked.images_per_patient,
        expected_patients=public_size,
        accountant=asked.accountant,
        limit=limit,
    )
