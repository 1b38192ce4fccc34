"""What a finished run leaves in its folder: results, and the report that shows them."""

from collections.abc import Mapping

import torch

from server.admission import Refused
from server.alternatives import Alternatives
from server.bootstrap import Coordinator
from server.drift import keep
from server.environment import environment
from server.report import write as write_report
from server.results_json import write as write_results
from server.run_folder import RunFolder
from server.study_results import study_result
from server.study_run import Conclusion
from shared.description import Description
from shared.released_flow import ReleasedFlow


def write_findings(
    run: RunFolder,
    coordinator: Coordinator,
    conclusion: Conclusion,
    flows: Mapping[str, ReleasedFlow | Refused],
    descriptions: Mapping[str, Description | Refused],
    *,
    device: torch.device,
    alternatives: Alternatives,
    seeded: bool,
) -> None:
    """Compose the study's results and write results.json and report.html; simulated or deployed, they are the same.

    `seeded` says that the sites' privacy noise came from the study's seed, as it does in simulation alone.

    Raises:
        StorageError: the disk is full or cannot be written.
    """
    protocol = coordinator.protocol
    result = study_result(
        protocol,
        conclusion,
        flows,
        descriptions,
        coordinator.provenance,
        environment(device, seed=protocol.study.seed),
        alternatives=alternatives,
        seeded=seeded,
    )
    keep(descriptions, run.descriptions)
    write_results(result, run.results)
    write_report(result, run.report)
