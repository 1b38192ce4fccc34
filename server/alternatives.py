"""What a study is measured against: the conclusions of other models of the same study, and the sites' receipts."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from server.receipt import Receipts
from server.study_run import Conclusion


@dataclass(frozen=True, slots=True, kw_only=True)
class Alternatives:
    """Models that were run beside the federated one, in simulation alone; empty where none was asked for.

    `local[site]` trained at that site, `pooled` on all patients in one place, `twin` without the private study's noise.
    """

    local: Mapping[str, Conclusion] = field(default_factory=dict)
    pooled: Conclusion | None = None
    twin: Conclusion | None = None
    receipts: Receipts = field(default_factory=dict)
