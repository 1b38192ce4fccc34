"""Compose one site: every object built once, in plain sight."""

from collections.abc import Callable, Container
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path

from client.agent import Agent, Harmonised
from client.assessed import assessed
from client.cache import fill
from client.cohort import Cohort, build_cohort
from client.describing import clear_patients_tell, described_split
from client.egress import EgressGuard
from client.features import FeatureCache, Progress
from client.inputs import Inputs, LiveInputs, OneSize, StudyInputs
from client.local_norm import LocalNorm
from client.private_site import Vault, compose_private
from client.site import SiteConfig
from client.site_data import Pixels, Records
from client.withdrawal import withdrawn_at
from client.workbench import Workbench
from shared.audit import AuditLog
from shared.augmentation import Augmentation
from shared.landmarks import Standard
from shared.preprocessing import contract_of
from shared.protocol import StudyProtocol


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedSite:
    """One site after its images were read: what its agent works on; `cohort.flow` accounts for what was left out."""

    config: SiteConfig
    cohort: Cohort
    records: Records
    pixels: Pixels

    @property
    def name(self) -> str:
        """What the hospital is called in the study."""
        return self.config.site.name


def site_cohort(
    config: SiteConfig,
    protocol: StudyProtocol,
    *,
    progress: Progress,
    withdrawn: Container[str] | None = None,
    counted: Callable[[int], bool] | None = None,
) -> Cohort:
    """Index a site's images, join its labels, and apply the study's criteria and split; no pixel is read.

    Without `withdrawn`, nobody takes part who is on the hospital's own list: no command has to think of it. `counted`
    as in `build_cohort`.

    Raises:
        StorageError: the list of withdrawn patients cannot be read.
        SiteError: site.toml contradicts the label table.
        DataError: no image can be used.
    """
    return build_cohort(
        site=config,
        targets=protocol.task.targets,
        exclusive=protocol.task.exclusive,
        modality=protocol.images.modality,
        objects=protocol.images.objects,
        frames=protocol.images.frames,
        private=protocol.privacy is not None,
        study=protocol.study.name,
        seed=protocol.study.seed,
        train=protocol.split.train,
        validation=protocol.split.validation,
        progress=partial(progress, "headers read"),
        withdrawn=withdrawn_at(config) if withdrawn is None else withdrawn,
        counted=counted,
    )


def site_records(cohort: Cohort, *, content: str) -> Records:
    """Give what is known of a cohort's images, as arrays; `content` stands for the images themselves."""
    return Records(
        labels_NK=cohort.labels_NK,
        patients_N=cohort.patients_N,
        exams_N=cohort.exams_N,
        split_N=cohort.split_N,
        content=content,
        groups=cohort.groups,
    )


def everybody(_patient: int) -> bool:
    """Let each patient take part."""
    return True


def prepare(
    config: SiteConfig,
    protocol: StudyProtocol,
    *,
    progress: Progress,
    withdrawn: Container[str] | None = None,
    takes_part: Callable[[int], bool] = everybody,
) -> PreparedSite:
    """Make a site's cohort, and fill the cache with its images; `withdrawn` as in `site_cohort`.

    A patient of whom `takes_part` says no is left out as one who came too late for the study.

    Raises:
        SiteError: site.toml contradicts the label table.
        DataError: no image can be used.
        StorageError: the cache cannot be written.
    """
    everyone = site_cohort(config, protocol, progress=progress, withdrawn=withdrawn, counted=takes_part)
    found = everyone.only(takes_part)
    cached = fill(
        found.images,
        contract=contract_of(protocol, standard=()),
        frames=protocol.images.frames,
        folder=config.compute.cache,
        workers=config.compute.workers,
        progress=partial(progress, "images prepared"),
    )
    cohort = found.without(cached.unreadable) if cached.unreadable else found
    return PreparedSite(
        config=config,
        cohort=cohort,
        records=site_records(cohort, content=cached.digest),
        pixels=Pixels(cached=cached.array, cached_row_N=cached.rows[cached.rows >= 0], digest=cached.digest),
    )


def site_inputs(site: PreparedSite, protocol: StudyProtocol, bench: Workbench, *, progress: Progress) -> Inputs:
    """Feed the model with a site's images, as the study says."""
    settings = protocol.augmentation
    as_they_come = LiveInputs(bench, site.pixels, Augmentation(**settings.model_dump()))
    live = as_they_come if protocol.privacy is None else OneSize(live=as_they_come)
    cache = FeatureCache(
        bench,
        live,
        folder=site.config.compute.cache / "features",
        pixels=site.pixels.digest,
        names=site.records.names(),
        training_rows=site.records.training_rows(),
        augmentation=settings.model_dump_json(),
        seed=partial(protocol.random_seed, "features", site.name),
        progress=lambda what, done, total: progress(f"{site.name}: {what}", done, total),
    )
    return StudyInputs(
        live=live,
        cache=cache,
        views=protocol.training.feature_views,
        augmentation_is_off=protocol.trains_on_plain_images,
    )


def unseen(_what: str, _done: int, _total: int) -> None:
    """Show nobody how work gets on."""


def compose_agent(
    site: PreparedSite,
    protocol: StudyProtocol,
    bench: Workbench,
    inputs: Inputs,
    *,
    folder: Path,
    audit: AuditLog | None = None,
    vault: Vault | None = None,
    progress: Progress = unseen,
) -> Agent:
    """Put a site's agent together; `folder` keeps what it must remember, and its audit log where it is given none.

    A coordinator chooses the ids of runs: their folders lie below `local_norm`, where nothing else does.

    A study that harmonises gets inputs anew, of harmonised images, once the standard is known.
    `vault` is what a study with [privacy] cannot do without: the site's secret and ledger. Its audit log is then used.

    Raises:
        SiteError: the study has [privacy], and there is no vault.
        PrivacyError: the hospital's limit does not allow the study's privacy plan.
        StorageError: the audit log's chain is broken.
    """
    min_cell = site.config.policy.min_cell
    private = compose_private(protocol, records=site.records, min_patients=min_cell, vault=vault)
    flow, split = site.cohort.flow.counts(), described_split(protocol)
    telling = clear_patients_tell(site.records, split, exclusive=protocol.task.exclusive, least=min_cell)
    guard = EgressGuard(
        min_cell=min_cell,
        audit=audit or (vault.audit if vault else AuditLog(folder / "audit.jsonl")),
        exclusive=protocol.task.exclusive,
        wire=protocol.federation.wire,
        private=private.release if private else None,
        described=None if telling else flow.splits[split].patients,
        count_rounding=site.config.policy.count_rounding,
        assessed=tuple(
            assessed(
                protocol.task,
                site.config.data.findings,
                site.records.labels_NK,
                min_cell=max(min_cell, 2) if protocol.privacy else min_cell,  # noise covers each training patient
            )
        ),
    )
    return Agent(
        site=site.name,
        protocol=protocol,
        bench=bench,
        records=site.records,
        inputs=inputs,
        flow=flow,
        guard=guard,
        min_patients=min_cell,
        local_norm=LocalNorm(bench, folder / "local_norm") if protocol.federation.local_norm else None,
        private=private.training if private else None,
        harmonised=_harmonised(site, protocol, bench, progress) if protocol.images.harmonise == "landmarks" else None,
    )


def _harmonised(site: PreparedSite, protocol: StudyProtocol, bench: Workbench, progress: Progress) -> Harmonised:
    """Give what feeds the model with images on a standard scale; a run has one, so that the last is kept."""

    @lru_cache(maxsize=1)
    def inputs(standard: Standard) -> Inputs:
        on_scale = replace(site, pixels=site.pixels.harmonised(standard))
        return site_inputs(on_scale, protocol, bench, progress=progress)

    return inputs
