"""StudyResult: every fact the report may state.

The shape is that of results.json: `sites[site][split][finding]` is one FindingResult, and `pooled[split][finding]`
has the same form. A number that is not there is None and never 0, and `why` says why it is not there.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from server.explanation import Explanation
from server.finding_result import FindingResult, Why, absent
from server.image_shift import Recognition, SitePair
from server.leading import Leading
from server.new_hospital import NewHospital
from server.other_thresholds import OtherThresholds
from server.own_settings import OwnResult
from server.receipt import Receipts
from server.remedies import Remedies
from server.shortcuts import CornerFinding, MarkFinding
from server.subgroup_results import Subgroups
from shared.domain_shift import Heterogeneity, SiteDifference
from shared.landmarks import Landmarks, Standard
from shared.operating_point import OperatingPoint
from shared.released_flow import ReleasedFlow

SCHEMA = 3
"""Version of the shape of results.json; a reader refuses any other."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyFacts:
    """What was asked: the study's own words, and the rules by which its evidence is shown.

    `exclusive` is True for classes (exactly one is true) and False for findings. `confidence` is that of every
    interval, and `protocol` is the whole declaration as text, printed as it stands.
    """

    name: str
    intended_use: str
    version: str
    digest: str
    findings: tuple[str, ...]
    exclusive: bool
    unit: str
    confidence: float
    min_positives_to_rank: int
    protocol: str

    @property
    def significance(self) -> float:
        """Below which a p value is beyond chance; rounded, since 1 - 0.95 is a little more than 0.05."""
        return round(1 - self.confidence, 12)


@dataclass(frozen=True, slots=True, kw_only=True)
class Environment:
    """What it ran on; `versions` maps a library to its version."""

    versions: Mapping[str, str]
    device: str
    threads: int
    seed: int
    deterministic: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Weights:
    """Where the model started; `fallback` means random weights, because the study allows it where none are found."""

    source: str
    sha256: str | None
    sentence: str

    @property
    def fell_back(self) -> bool:
        """True where the study's pretrained weights were not found and random ones were used."""
        return self.source == "fallback"


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteRound:
    """One site's part in one round; `refusal` is the fixed code of a site that was not admitted, else None.

    `loss` is the mean over the round's epochs, `update_norm` the L2 norm of the whole update.
    """

    refusal: str | None
    loss: float | None
    loss_by_epoch: tuple[float, ...]
    update_norm: float | None
    seconds: float | None
    images_per_second: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ValidationAuc:
    """AUC of one finding on the validation patients after a round; None where suppressed or undefined."""

    pooled: float | None
    sites: Mapping[str, float | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundResult:
    """One round; `trained_from` is the earliest stage that trained in it, "head" if the backbone was frozen.

    `lost` is True where too few sites could be used, so that the model stayed as it was.
    """

    round: int
    lost: bool
    trained_from: str
    sites: Mapping[str, SiteRound]
    validation: Mapping[str, ValidationAuc]
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """The round whose model is the result, and the rule that chose it."""

    round: int
    why: str


FindingResults = Mapping[str, FindingResult]
SplitResults = Mapping[str, FindingResults]


@dataclass(frozen=True, slots=True, kw_only=True)
class DomainShift:
    """Whether sites differ at the shared operating point, on test patients.

    Both hold `[finding][measure]`, the measure being "sensitivity" or "specificity"; heterogeneity is None where it
    is undefined. `targets` is `[finding][site]`: whether a ranked site's sensitivity is the study's target. Every p of
    a name that says adjusted, that of `targets`, of `leading` and of explanations are of one family
    (server/family.py). `distances` holds every two sites' images without disease, beside the spread within the sites,
    and `site_identifiability` how surely a patient's site is told from them. `corners` is `[finding][site]`, the effect
    of blanking each corner, `marks` likewise how well what stands out there tells the classes apart, and
    `leading[finding]` what the report says first.
    """

    heterogeneity: Mapping[str, Mapping[str, Heterogeneity | None]]
    differences: Mapping[str, Mapping[str, tuple[SiteDifference, ...]]]
    targets: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    distances: tuple[SitePair, ...] = ()
    site_identifiability: tuple[Recognition, ...] = ()
    corners: Mapping[str, Mapping[str, tuple[CornerFinding, ...]]] = field(default_factory=dict)
    marks: Mapping[str, Mapping[str, tuple[MarkFinding, ...]]] = field(default_factory=dict)
    leading: Mapping[str, Leading] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class StandingOut:
    """A site that differs from all others together by more than chance explains, even after looking at every site."""

    finding: str
    measure: str
    difference: SiteDifference


@dataclass(frozen=True, slots=True, kw_only=True)
class BaselineModel:
    """Another model of the same protocol and budget, at its own operating points, on every site's test patients."""

    operating_point: Mapping[str, OperatingPoint | None]
    sites: Mapping[str, FindingResults]


@dataclass(frozen=True, slots=True, kw_only=True)
class Baselines:
    """`local[site]` was trained at that site alone, `pooled` on all sites' images in one place. Empty: not run.

    `twin` is the same private study, step for step, without its noise: what privacy cost. It exists in simulation only.
    """

    local: Mapping[str, BaselineModel]
    pooled: BaselineModel | None
    twin: BaselineModel | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Harmonised:
    """The intensity scale that images were brought to, and where each site's own landmarks lay before.

    A site that gave none is None in `sites`, and `absent` has its code for why: too few patients, or a failure.
    `standard` is the mean over the sites that released theirs, each counting once (shared/landmarks.py).
    """

    standard: Standard
    sites: Mapping[str, Landmarks | None]
    absent: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class SitePrivacy:
    """What the study cost one `unit` of a site's training data: (epsilon, delta), for one that is added or removed.

    `budget` is what the study may cost in all its rounds; `epsilon` counts those that were run. `public_patients` is
    the rounded size that counts as public. `counts_epsilon` is what one release of evidence may cost a validation or
    test patient, 0 where these have disclosure control alone. `seeded` noise, from the study's seed, is no guarantee.
    """

    epsilon: float
    delta: float
    unit: str
    budget: float
    accountant: str
    public_patients: int
    rounds: int
    steps: int
    sample_rate: float
    noise_multiplier: float
    clip: float
    counts_epsilon: float
    seeded: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyResult:
    """Every fact the report may state; equal to what `results_json` reads back from its own text.

    `operating_point` is None for a finding that no site's validation patients could show.
    `privacy` is by site, and empty where the study asks for none. `notes` are warnings, a sentence each. `receipts`
    compare the federated model with each site's own, `personal` one with each site's own layers with it, `blended` a
    site's own head and the federated one, half and half, with its own. `unseen[site]` was trained without that site.
    `tested` is how many hypotheses the study's one family has (server/family.py).
    """

    schema: int = SCHEMA
    study: StudyFacts
    environment: Environment
    weights: Weights
    rounds: tuple[RoundResult, ...]
    selected: Selection
    operating_point: Mapping[str, OperatingPoint | None]
    sites: Mapping[str, SplitResults]
    pooled: SplitResults
    patient_flow: Mapping[str, ReleasedFlow]
    domain_shift: DomainShift
    privacy: Mapping[str, SitePrivacy]
    baselines: Baselines
    notes: tuple[str, ...]
    other_thresholds: Mapping[str, OtherThresholds] = field(default_factory=dict)
    explanations: Mapping[str, Mapping[str, Explanation]] = field(default_factory=dict)
    subgroups: Mapping[str, Subgroups] = field(default_factory=dict)
    receipts: Receipts = field(default_factory=dict)
    personal: Receipts = field(default_factory=dict)
    blended: Receipts = field(default_factory=dict)
    unseen: Mapping[str, BaselineModel] = field(default_factory=dict)
    new_hospital: Mapping[str, NewHospital] = field(default_factory=dict)
    remedies: Mapping[str, Mapping[str, Remedies]] = field(default_factory=dict)
    harmonised: Harmonised | None = None
    own: Mapping[str, Mapping[str, OwnResult]] = field(default_factory=dict)
    own_switched_on: tuple[str, ...] = ()
    tested: int = 0

    @property
    def site_names(self) -> tuple[str, ...]:
        """Every site that the result speaks of, in canonical order."""
        in_rounds = (set(one.sites) for one in self.rounds)
        return tuple(sorted(set(self.sites).union(self.patient_flow, *in_rounds)))

    def of_site(self, site: str, split: str, finding: str) -> FindingResult:
        """Give a site's result; a site that sent none has one that says so."""
        return self.sites.get(site, {}).get(split, {}).get(finding) or absent(Why.NO_REPLY)

    def of_pool(self, split: str, finding: str) -> FindingResult:
        """Give the result of all sites' units together; one that says so where no site sent any."""
        return self.pooled.get(split, {}).get(finding) or absent(Why.NO_REPLY)

    def compared(self, finding: str) -> set[str]:
        """Name the sites whose numbers were compared with all others'."""
        measures = self.domain_shift.differences.get(finding, {})
        return {one.site for ones in measures.values() for one in ones}

    @property
    def standing_out(self) -> tuple[StandingOut, ...]:
        """Name the sites whose adjusted p lies below the study's significance, the largest difference first."""
        found = [
            StandingOut(finding=finding, measure=measure, difference=one)
            for finding, measures in self.domain_shift.differences.items()
            for measure, differences in measures.items()
            for one in differences
            if one.adjusted_p < self.study.significance
        ]
        return tuple(sorted(found, key=lambda one: (-abs(one.difference.difference), one.difference.site)))

    def measures_standing_out(self, site: str, finding: str) -> tuple[str, ...]:
        """Name the measures by which a site stands out on one finding, in the order of their names."""
        found = [one for one in self.standing_out if (one.difference.site, one.finding) == (site, finding)]
        return tuple(sorted(one.measure for one in found))
