"""How far each site's images have moved since an earlier run, beside the spread within the site."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from server.admission import Refused
from server.image_shift import Distance, compared
from server.results import StudyResult
from server.results_json import read
from server.run_folder import RunFolder
from shared.description import Description, description_from_numbers, description_to_numbers
from shared.errors import StorageError
from shared.evidence import Withheld
from shared.intensity import IntensitySummary
from shared.protocol import StudyProtocol, read_protocol
from shared.storage import private_file

FORMAT = "polyclinic-descriptions-1"


class Why(StrEnum):
    """Why a distance to the earlier run is not there."""

    WITHHELD = "withheld"
    OTHER_IMAGES = "other_images"
    OTHER_FEATURES = "other_features"


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteDrift:
    """One site's images without disease, then and now: distances, or why they are not there; and of how many patients.

    A distance stands beside the larger of the .95 quantiles of those between random halves of either run's patients.
    """

    site: str
    patients_then: int | None
    patients_now: int | None
    brightness: Distance | Why
    features: Distance | Why

    @property
    def moved(self) -> bool:
        """True where either distance lies beyond that of halves of one run."""
        return any(isinstance(one, Distance) and one.beyond for one in (self.brightness, self.features))


@dataclass(frozen=True, slots=True, kw_only=True)
class Drift:
    """Each site that took part in both runs against itself; `missing` took part in one alone."""

    study: str
    version: str
    digest: str
    sites: tuple[SiteDrift, ...]
    missing: tuple[str, ...]


def keep(descriptions: Mapping[str, Description | Refused], path: Path) -> None:
    """Keep what the sites released of their images beside the run, for the coordinator alone: no site is sent it.

    Raises:
        StorageError: the disk is full or cannot be written.
    """
    sites = {
        site: description_to_numbers(one) for site, one in sorted(descriptions.items()) if isinstance(one, Description)
    }
    with private_file(path) as part:
        part.write_text(json.dumps({"format": FORMAT, "sites": sites}) + "\n", encoding="utf-8")


def drift(now: RunFolder, then: RunFolder) -> Drift:
    """Compare each site's images with its own of an earlier run.

    Brightness is compared where both runs prepared images in one way, features where they also come from one frozen
    model in one projection: else a distance would be that of the studies, and not of the site.

    Raises:
        StorageError: a run is not finished, or was made before images were kept.
        StudyError: a run's protocol cannot be read.
    """
    results = [read(run.results) for run in (now, then)]
    studies = [read_protocol(run.protocol) for run in (now, then)]
    known = [_kept(run.descriptions) for run in (now, then)]
    images = _images(studies[0], results[0]) == _images(studies[1], results[1])
    features = images and _features(studies[0], results[0]) == _features(studies[1], results[1]) is not None
    both = sorted(set(results[0].site_names) & set(results[1].site_names))
    return Drift(
        study=results[1].study.name,
        version=results[1].study.version,
        digest=results[1].study.digest,
        sites=tuple(
            _site(site, known[0].get(site), known[1].get(site), same_images=images, same_features=features)
            for site in both
        ),
        missing=tuple(sorted(set(results[0].site_names) ^ set(results[1].site_names))),
    )


def _site(
    site: str, now: Description | None, then: Description | None, *, same_images: bool, same_features: bool
) -> SiteDrift:
    pair = compared(site, site, then, now) if now and then else None
    brightness = pair.brightness if pair and pair.brightness else Why.WITHHELD
    features = pair.features if pair and pair.features else Why.WITHHELD
    return SiteDrift(
        site=site,
        patients_then=_patients(then),
        patients_now=_patients(now),
        brightness=brightness if same_images else Why.OTHER_IMAGES,
        features=features if same_features else Why.OTHER_FEATURES,
    )


def _patients(one: Description | None) -> int | None:
    if one is None:
        return None
    if isinstance(one.intensity, IntensitySummary):
        return one.intensity.patients
    return None if isinstance(one.features, Withheld) else one.features.patients


def _images(study: StudyProtocol, result: StudyResult) -> object:
    """Give what makes a prepared image."""
    return study.images, result.harmonised.standard if result.harmonised else ()


def _features(study: StudyProtocol, result: StudyResult) -> object | None:
    """Give what makes a feature that no training changes, and its projection; None where training changes it."""
    if study.model.unfreeze or study.federation.local_norm or study.model.norm in ("batch", "group"):
        return None
    model = study.model
    return (
        model.backbone,
        model.norm,
        model.features,
        result.weights.sha256,
        study.random_seed("description", "projection"),
    )


def _kept(path: Path) -> dict[str, Description]:
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
        if said["format"] != FORMAT:
            raise ValueError("another format")
        return {site: description_from_numbers(numbers) for site, numbers in said["sites"].items()}
    except (OSError, ValueError, KeyError, TypeError) as fault:
        raise StorageError(
            f"{path}: what the sites released of their images cannot be read ({type(fault).__name__}). A run has it "
            "from this version of Polyclinic on: run the study again with --resume."
        ) from None
