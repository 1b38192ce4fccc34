"""What the study cost a training patient at each site: its plan follows from the study and the site's public size."""

from collections.abc import Iterable, Mapping

from server.admission import Refused
from server.results import RoundResult, SitePrivacy
from shared.privacy import plan_epsilon
from shared.protocol import StudyProtocol
from shared.released_flow import ReleasedFlow
from shared.split import Split
from shared.study_plan import study_plan


def site_privacy(
    protocol: StudyProtocol,
    flows: Mapping[str, ReleasedFlow | Refused],
    rounds: Iterable[RoundResult],
    *,
    seeded: bool,
) -> dict[str, SitePrivacy]:
    """State each site's privacy loss; empty without [privacy].

    A round that a site refused counts too: its ledger may have been charged before what went wrong. A hospital may add
    more noise than the study asks for, never less, so that each figure is an upper bound; the site's own ledger has the
    exact one. `seeded` says that the noise came from the study's seed.
    """
    asked = [one.sites for one in rounds]
    sizes = {
        site: flow.splits[Split.TRAIN].patients
        for site, flow in flows.items()
        if protocol.privacy and isinstance(flow, ReleasedFlow)
    }
    return {
        site: _of_site(protocol, size, sum(site in sites for sites in asked), seeded=seeded)
        for site, size in sizes.items()
        if size
    }


def _of_site(protocol: StudyProtocol, size: int, rounds: int, *, seeded: bool) -> SitePrivacy:
    asked = protocol.privacy
    if asked is None:
        raise ValueError("a study without [privacy] has no plan")
    plan = study_plan(protocol, public_size=size, limit=None)
    return SitePrivacy(
        epsilon=plan_epsilon(plan, asked.accountant, rounds=rounds),
        delta=asked.delta,
        unit="patient",
        budget=asked.epsilon,
        accountant=asked.accountant,
        public_patients=size,
        rounds=rounds,
        steps=plan.steps_per_round * rounds,
        sample_rate=plan.sample_rate,
        noise_multiplier=plan.noise_multiplier,
        clip=plan.clip,
        counts_epsilon=asked.count_noise_epsilon,
        seeded=seeded,
    )
