"""Tells an exam's own images from what is stored beside them: localizers, screenshots, dose sheets, reformats.

By SOP class and Image Type (PS3.3 C.7.6.1.1.2, C.8.2.1.1.1, C.8.6), as the devices write them; not by a look at pixels.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from client.patient_flow import Exclusion

_CLASS = "1.2.840.10008.5.1.4.1.1."
_SECONDARY_CAPTURES = frozenset(_CLASS + end for end in ("7", "7.1", "7.2", "7.3", "7.4"))
_SECTIONS = frozenset(
    _CLASS + end for end in ("2", "2.1", "2.2", "4", "4.1", "4.3", "4.4", "128", "128.1", "130")
)  # CT, MR and PET: single, enhanced and converted
_LOCALIZERS = frozenset({"LOCALIZER", "SCOUT", "TOPOGRAM", "SURVIEW", "TOP"})
_SCREENSHOTS = frozenset({"SCREEN", "SCREENSHOT", "SCREENSAVE", "PROT", "PROTOCOL", "DOSE", "REPORT"})
_REFORMATS = frozenset({"REFORMATTED", "MPR", "MPVR", "MIP", "MINIP", "VRT", "PROJECTION", "RESAMPLED", "CURVED"})


Objects = Literal["anatomy", "all"]
"""Which images of an exam a study reads: its own, or also what is stored beside them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Nature:
    """What an object says of its own nature; "" and () where it says nothing."""

    sop_class: str
    image_type: tuple[str, ...]
    burned_in: bool

    @property
    def is_capture(self) -> bool:
        """Whether no scanner's own class holds it: it was captured, scanned or converted."""
        return self.sop_class in _SECONDARY_CAPTURES

    @property
    def is_of_exam(self) -> bool | None:
        """Whether it is a direct result of the exam (PRIMARY) or was made later (SECONDARY); None: it is not said."""
        said = self.image_type[1].upper() if len(self.image_type) > 1 else ""
        return {"PRIMARY": True, "SECONDARY": False}.get(said)


UNSAID = Nature(sop_class="", image_type=(), burned_in=False)


def not_of_anatomy(natures: Sequence[Nature]) -> list[Exclusion | None]:
    """Tell of each object of one exam why it is none of the exam's own images, None if it is one.

    A captured object is one if it says that it is a direct result of the exam (as `polyclinic partition` writes it), or
    if it says nothing and no scanner's image is beside it: whole archives were converted so.
    """
    alone = all(nature.is_capture for nature in natures)
    return [_reason(nature, alone=alone) for nature in natures]


def _reason(nature: Nature, *, alone: bool) -> Exclusion | None:
    words = {word for value in nature.image_type[2:] for word in value.upper().replace("_", " ").split()}
    if words & _LOCALIZERS:
        return Exclusion.LOCALIZER
    if nature.is_capture:
        own = nature.is_of_exam if nature.is_of_exam is not None else alone and not nature.burned_in
        return None if own and not words & _SCREENSHOTS else Exclusion.SCREENSHOT
    if words & _SCREENSHOTS:
        return Exclusion.SCREENSHOT
    if nature.sop_class in _SECTIONS and (nature.is_of_exam is False or words & _REFORMATS):
        return Exclusion.REFORMAT
    return None
