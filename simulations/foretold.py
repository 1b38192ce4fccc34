"""Says before round 1 what each hospital will withhold, how many patients would be needed, and what to do."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from client.bootstrap import PreparedSite, site_cohort, site_records
from client.cohort import NoImagesError
from client.site import read_site
from client.site_check import any_study
from client.withholding import Foreseen, NoEvidence, foresee
from shared.protocol import StudyProtocol
from shared.split import Split
from simulations.console import Console

NEXT_STEP = (
    "If anybody may see these images, declare it: [policy] min_cell = 1 in each site.toml, which `polyclinic partition "
    '--public "REASON"` writes with its reason. If not: more patients, a larger part in [split], or fewer findings.'
)


def foretold(protocol: StudyProtocol, sites: Sequence[PreparedSite]) -> Iterator[str]:
    """Say of each site of a simulation what it will withhold in this study; nothing where nothing is withheld."""
    found = {
        site.name: foresee(site.records, protocol, min_cell=site.config.policy.min_cell)
        for site in sorted(sites, key=lambda one: one.name)
    }
    if any(found.values()):
        yield "What the hospitals will withhold in this study:"
        yield from _lines(found)
        yield from _wholly(found, protocol)
        if protocol.privacy and protocol.privacy.count_noise_epsilon:
            yield "Counts leave with noise, so that close to min_cell it is the noised ones that decide."
        yield from _next_step(found)


def of_a_partition(out: Path, names: Sequence[str], console: Console) -> Iterator[str]:
    """Say what the hospitals of a partition would withhold in a study of all that they assess, with every default.

    Another study splits the patients in another way, so that numbers close to `min_cell` may come out otherwise.
    """
    found = {}
    for name in names:
        config = read_site(out / name / "site.toml")
        study = any_study(config)
        try:
            cohort = site_cohort(config, study, progress=console.site(name))
        except NoImagesError:  # what is wrong with the labels is told already
            continue
        records = site_records(cohort, content="")
        found[name] = foresee(records, study, min_cell=config.policy.min_cell)
    if any(found.values()):
        yield "In a study of all findings, split as by default, the hospitals will withhold about this:"
        yield from _lines(found)
        yield from _next_step(found)


def _lines(found: dict[str, tuple[Foreseen, ...]]) -> Iterator[str]:
    return (f"  {name}: {one}" for name, ones in found.items() for one in ones)


def _next_step(found: dict[str, tuple[Foreseen, ...]]) -> Iterator[str]:
    """Say what to do; where a class is missing whatever the hospital allows, there is nothing to declare."""
    if any(one.needed > 1 for ones in found.values() for one in ones):
        yield NEXT_STEP


def _wholly(found: dict[str, tuple[Foreseen, ...]], protocol: StudyProtocol) -> Iterator[str]:
    """Say where nothing at all of a split will be known."""
    for split in (Split.VALIDATION, Split.TEST):
        withheld = [
            one for ones in found.values() for one in ones if isinstance(one, NoEvidence) and one.split is split
        ]
        if len(withheld) == len(found) * len(protocol.task.targets):
            what = {
                Split.VALIDATION: "no round has a validation AUC, and no operating point can be chosen",
                Split.TEST: "the report will have no test result",
            }[split]
            yield f"All {split.value} evidence of every hospital is withheld: {what}."
