"""The receipt: what joining gave one hospital, on its own test patients, against the model it could make alone."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from shared.paired import Paired


class Worth(StrEnum):
    """Whether joining was worth it at a site, as far as the AUC on its own test patients shows."""

    BETTER = "better"
    WORSE = "worse"
    NOT_SHOWN = "not_shown"
    TOO_FEW = "too_few"


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """One model (`first`) minus another (`second`) on the same test units, each at its own operating point.

    `ranked` as in FindingResult: with few positives the numbers are shown, and nothing is concluded. A difference is
    None where a class has no unit, and sensitivity and specificity also where a model has no operating point.
    """

    units: int
    positives: int
    ranked: bool
    auc: Paired | None
    sensitivity: Paired | None
    specificity: Paired | None

    @property
    def worth(self) -> Worth:
        """Conclude from the AUC's interval, which no threshold can move."""
        if self.auc is None or not self.ranked:
            return Worth.TOO_FEW
        return {1: Worth.BETTER, -1: Worth.WORSE, 0: Worth.NOT_SHOWN}[self.auc.shown]


Receipts = Mapping[str, Mapping[str, Receipt]]
"""`[finding][site]`; a site that withheld its evidence, or could not train alone, has none."""
