"""The main job: prepare the hospitals, run the study and its baselines, write results, report and model."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch

from client.bootstrap import PreparedSite, prepare
from client.device import Device
from client.site import read_site
from client.workbench import pick_device
from server.alternatives import Alternatives
from server.bootstrap import compose
from server.checkpoint import RunState
from server.finish import write_findings
from server.model_file import write_model
from server.receipt import Receipt, Receipts
from server.round_records import read_rounds
from server.run_folder import RunFolder
from shared.errors import DataError, FederationError, SiteError, StudyError
from shared.protocol import StudyProtocol
from simulations.assessed import refuse_unassessed, refuse_unknown
from simulations.baselines import POOLED, half_and_half, with_own_layers
from simulations.console import Console
from simulations.cross_fitting import cross_fitted
from simulations.federation import Federation, Run, without_noise
from simulations.foretold import foretold
from simulations.receipts import receipts
from simulations.synthetic_site import write
from simulations.synthetic_study import hospitals

BASELINES = ("local", "pooled", "personal", "blend", "twin")


@dataclass(frozen=True, slots=True, kw_only=True)
class Simulation:
    """What `polyclinic simulate` was asked to do."""

    protocol: StudyProtocol
    run: RunFolder
    sites: Path | None
    baselines: Sequence[str]
    leave_one_out: bool
    weights_file: Path | None
    device: Device


def simulate(job: Simulation, console: Console) -> None:
    """Run a study from DICOM files to a report; whatever is finished already in the run's folder is not done again.

    Raises:
        PolyclinicError: the study, a site, the weights or a disk do not allow it; finished rounds are kept.
    """
    torch.use_deterministic_algorithms(True)
    refuse_impossible(job)
    if job.sites is not None:
        site_files(job.sites)
    device = pick_device(job.device)
    # Reading the images can take hours: weights that are missing or wrong are told of before.
    compose(job.protocol, weights_file=job.weights_file)
    sites = prepare_sites(job, console)
    for line in foretold(job.protocol, sites):
        console.say(line)
    federation = Federation(
        protocol=job.protocol,
        sites=sites,
        device=device,
        weights_file=job.weights_file,
        folder=job.run.path,
        progress=console.step,
    )
    names, protocol = federation.names, job.protocol
    minimum = protocol.federation.min_sites
    federated = _run(federation, "federated", names, minimum, job.run.path, console)
    write_model(job.run.model, federated.coordinator, federated.conclusion)
    only = {name: (name,) for name in names if "local" in job.baselines}
    others = {name: tuple(other for other in names if other != name) for name in names if job.leave_one_out}
    alone = _by_site(federation, "local", only, job, console)
    unseen = _by_site(federation, "without", others, job, console)
    pooled = _baseline(federation, "pooled", (POOLED,), job, console) if "pooled" in job.baselines else None
    personal = _personal(federation, job, console) if "personal" in job.baselines else None
    blended = _blended(federation, federated, alone, job, console) if "blend" in job.baselines else {}
    unnoised = replace(federation, adapt=without_noise)
    twin = _baseline(unnoised, "twin", names, job, console) if "twin" in job.baselines else None
    write_findings(
        job.run,
        federated.coordinator,
        federated.conclusion,
        federated.flows,
        federated.describe(),
        device=device,
        alternatives=Alternatives(
            local={name: run.conclusion for name, run in alone.items()},
            pooled=pooled.conclusion if pooled else None,
            twin=twin.conclusion if twin else None,
            unseen={name: run.conclusion for name, run in unseen.items()},
            receipts=receipts(protocol, federated, alone),
            personal=receipts(protocol, personal, dict.fromkeys(names, federated)) if personal else {},
            blended=blended,
            cross_fitted=cross_fitted(federated.features(), seed=protocol.random_seed("description", "projection")),
        ),
        seeded=True,
    )


def refuse_impossible(job: Simulation) -> None:
    """Refuse what can't be done before anything long begins.

    Raises:
        StudyError: an unknown baseline, or one that this study cannot have.
    """
    if unknown := [name for name in job.baselines if name not in BASELINES]:
        raise StudyError(f"--baselines {unknown[0]}: there is no such baseline. Known: {', '.join(BASELINES)}.")
    if job.baselines and job.protocol.federation.local_norm:
        raise StudyError(
            "--baselines tests one site's model at the others, and with [federation] local_norm = true a part of each "
            "model never leaves its site. Set local_norm = false, or leave out --baselines."
        )
    if "personal" in job.baselines:
        if not job.protocol.model.unfreeze:
            raise StudyError(
                "--baselines personal keeps each site's own normalisation layers (FedBN), and in this study only the "
                "head trains, so that they are the same everywhere. Let a stage train ([model] unfreeze), or leave it "
                "out."
            )
        with_own_layers(job.protocol)
    if "blend" in job.baselines:
        _refuse_blend(job)
    if job.leave_one_out and job.protocol.federation.local_norm:
        raise StudyError(
            "--leave-one-out tests a model where it was not trained, and with [federation] local_norm = true a part of "
            "it never leaves a site. Set local_norm = false, or leave it out."
        )
    if "twin" in job.baselines and job.protocol.privacy is None:
        raise StudyError(
            "--baselines twin: the twin is a private study without its noise, and this study has no [privacy]. "
            "Leave it out, or add the section."
        )
    if "pooled" in job.baselines and job.protocol.privacy is not None:
        raise StudyError(
            "--baselines pooled: a model of all patients in one place would be charged to no hospital's ledger, so "
            "that a private study has none. Use twin: the same study without noise."
        )


def prepare_sites(job: Simulation, console: Console) -> list[PreparedSite]:
    """Read the hospitals' folders, or make the study's synthetic ones, and fill their caches.

    Raises:
        FederationError: the folder holds no hospital, two of the same name, or others than those that began the run.
        StudyError: a finding is assessed at no hospital.
        SiteError, DataError, StorageError: a hospital cannot be prepared.
    """
    began = {folder.name for folder in job.run.sites.glob("*/")} - {POOLED}
    finished = read_rounds(job.run.path)
    if job.sites is None and finished and not job.run.hospitals.is_dir():
        raise FederationError(
            f"{job.run.path} was begun over a folder of hospitals ({', '.join(sorted(began))}). Name it with --sites."
        )
    folder = job.sites or synthetic_hospitals(job, console)
    files = site_files(folder)
    for other in sorted(set(folder.iterdir()) - {file.parent for file in files}):
        if other.is_dir():
            console.say(f"{other}: left out, because it has no site.toml")
    configs = {}
    for file in files:
        with _naming(file):
            configs[file] = read_site(file)
    refuse_unknown(job.protocol.task.targets, configs.values())
    names = [config.site.name for config in configs.values()]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise FederationError(f"{folder}: two hospitals are called {twice[0]!r}. Give each its own [site] name.")
    if finished and began != set(names):
        raise FederationError(
            f"{folder}: its hospitals are {', '.join(sorted(names))}, and {job.run.path} was begun over "
            f"{', '.join(sorted(began))}. Name their folder with --sites, or choose another --out."
        )
    prepared = []
    for file, config in configs.items():
        with _naming(file):
            prepared.append(prepare(config, job.protocol, progress=console.site(config.site.name)))
    refuse_unassessed(job.protocol.task.targets, prepared)
    return prepared


def site_files(folder: Path) -> list[Path]:
    """Find the hospitals of a folder.

    Raises:
        FederationError: there is no such folder, or no hospital in it.
    """
    if not folder.is_dir():
        is_what = "this is no folder" if folder.exists() else "there is no such folder"
        raise FederationError(f"{folder}: {is_what}. Name the one that has a folder for each hospital.")
    if not (files := sorted(folder.glob("*/site.toml"))):
        raise FederationError(f"{folder}: no hospital is there. It needs one folder a hospital, each with a site.toml.")
    return files


@contextmanager
def _naming(file: Path) -> Iterator[None]:
    """Say in an error which hospital it is about: each one's file is called site.toml."""
    try:
        yield
    except (SiteError, DataError) as fault:
        kind = SiteError if isinstance(fault, SiteError) else DataError
        raise kind(f"{file.parent}: {fault}") from None


def synthetic_hospitals(job: Simulation, console: Console) -> Path:
    """Make a study's synthetic hospitals, where they are not there yet, and name their folder."""
    task = job.protocol.task
    for site in hospitals(job.protocol.random_seed("hospitals")):
        folder = job.run.hospitals / site.name
        if not (folder / "site.toml").exists():
            write(
                site,
                folder,
                findings=task.targets,
                exclusive=task.exclusive,
                workers=torch.get_num_threads(),
                progress=partial(console.site(site.name), "films made"),
            )
    return job.run.hospitals


def _run(
    federation: Federation,
    run_id: str,
    train_on: Sequence[str],
    min_sites: int,
    folder: Path,
    console: Console,
    *,
    begin: RunState | None = None,
) -> Run:
    console.begin(run_id)
    return federation.run(
        run_id, train_on=train_on, min_sites=min_sites, folder=folder, progress=console.round, begin=begin
    )


def _by_site(
    federation: Federation, kind: str, groups: Mapping[str, Sequence[str]], job: Simulation, console: Console
) -> dict[str, Run]:
    """Train one baseline for each site, on its group of sites; one that cannot train is left out."""
    runs = {name: _baseline(federation, f"{kind}-{name}", group, job, console) for name, group in groups.items()}
    return {name: run for name, run in runs.items() if run}


def _personal(federation: Federation, job: Simulation, console: Console) -> Run | None:
    """Run the study once more with normalisation layers that never leave their site."""
    own_layers = replace(federation, protocol=with_own_layers(federation.protocol))
    return _baseline(own_layers, "personal", federation.names, job, console)


def _blended(
    federation: Federation, federated: Run, alone: Mapping[str, Run], job: Simulation, console: Console
) -> Receipts:
    """Test each site's own head and the federated one, half and half, at that site, against its own alone."""
    found: dict[str, dict[str, Receipt]] = {target: {} for target in job.protocol.task.targets}
    for name, own in alone.items():
        begin = RunState(
            round=job.protocol.federation.rounds, model=half_and_half(federated.conclusion.model, own.conclusion.model)
        )
        run = _baseline(federation, f"blend-{name}", (name,), job, console, begin=begin)
        for target, owed in receipts(job.protocol, run, {name: own}).items() if run else ():
            found[target] |= owed
    return found


def _refuse_blend(job: Simulation) -> None:
    """Refuse to average models of which more than the head differs, or whose images do."""
    if "local" not in job.baselines:
        raise StudyError(
            "--baselines blend averages each site's own head with the federated one, and none of its own was asked "
            "for. Add local: --baselines local,blend."
        )
    if job.protocol.model.unfreeze or job.protocol.images.harmonise == "landmarks":
        raise StudyError(
            "--baselines blend averages two heads on the same features, and in this study each model has features of "
            "its own ([model] unfreeze, or [images] harmonise = 'landmarks'). Leave it out."
        )


def _baseline(
    federation: Federation,
    run_id: str,
    train_on: Sequence[str],
    job: Simulation,
    console: Console,
    *,
    begin: RunState | None = None,
) -> Run | None:
    """Run a baseline; where its site cannot train, it is left out, and the study's result stands without it."""
    try:
        return _run(federation, run_id, train_on, 1, job.run.baseline(run_id), console, begin=begin)
    except FederationError as fault:
        console.say(f"  left out: {fault}")
        return None
