"""The chosen model as one safetensors file, with what one must know to use it."""

from pathlib import Path

from server.bootstrap import Coordinator
from server.checkpoint import save_tensors
from server.own_settings import to_apply
from server.study_run import Conclusion
from shared.model_facts import write_facts


def write_model(path: Path, coordinator: Coordinator, conclusion: Conclusion) -> None:
    """Write the whole model; names are torchvision's, arrays fp32, and the metadata holds the protocol.

    Raises:
        StorageError: the disk is full or cannot be written.
    """
    arrays = coordinator.whole_model(conclusion.model)
    facts = write_facts(
        coordinator.protocol,
        arrays,
        thresholds={target: point.threshold if point else None for target, point in conclusion.operating_point.items()},
        number=conclusion.chosen,
        standard=conclusion.state.standard,
        own={site: own for site in sorted(conclusion.test) if (own := to_apply(conclusion.own, site))},
        norm_layers="initial" if coordinator.protocol.federation.local_norm else "trained",
    )
    save_tensors(path, arrays, facts=facts | {"weights": coordinator.provenance.sentence})
