"""The pretrained weights of each study that somebody was invited to: kept in the coordinator's folder, by digest."""

from pathlib import Path

from server.coordinator_config import CoordinatorConfig
from server.coordinator_folder import CoordinatorFolder
from shared.errors import CoordinatorError
from shared.kept_weights import KeptWeights, sha256_of
from shared.protocol import StudyProtocol
from shared.storage import atomic_file
from shared.weights import MissingWeightsError, downloaded


def find_weights(
    folder: CoordinatorFolder, config: CoordinatorConfig, protocol: StudyProtocol, *, given: Path | None = None
) -> Path | None:
    """Find the file that a study's model starts from: every site, and every run, starts from the same.

    It is the one that was kept, else the one given, else coordinator.toml's, else torchvision's.

    Raises:
        CoordinatorError: another file is given than the one that sites were invited to start from.
        WeightsError: there is none, and the study needs one.
    """
    known = _noted(folder, protocol)
    if given is not None and known and sha256_of(given) != known:
        raise CoordinatorError(
            f"{given}: sites were invited to start this study from other weights (SHA-256 {known}). Leave --weights "
            "out, or give the study another version, and invite all sites to that."
        )
    return KeptWeights(folder.weights).find(known) or given or _elsewhere(config, protocol)


def keep_weights(folder: CoordinatorFolder, protocol: StudyProtocol, file: Path) -> Path:
    """Keep the file that a study's model was found to start from, and give its place.

    Raises:
        WeightsError, StorageError: it cannot be read, or the folder cannot be written.
    """
    digest = sha256_of(file)
    path = KeptWeights(folder.weights).keep(file, digest)
    with atomic_file(_note(folder, protocol)) as part:
        part.write_text(digest + "\n", encoding="ascii")
    return path


def _note(folder: CoordinatorFolder, protocol: StudyProtocol) -> Path:
    return folder.weights / f"{protocol.digest()}.sha256"


def _noted(folder: CoordinatorFolder, protocol: StudyProtocol) -> str:
    note = _note(folder, protocol)
    return note.read_text(encoding="ascii").strip() if note.exists() else ""


def _elsewhere(config: CoordinatorConfig, protocol: StudyProtocol) -> Path | None:
    model = protocol.model
    if model.weights == "none":
        return None
    if config.pretrained.file is not None:
        return config.pretrained.file
    try:
        return downloaded(model.weights, model.backbone)
    except MissingWeightsError:
        if model.weights_fallback is None:
            raise
        return None
