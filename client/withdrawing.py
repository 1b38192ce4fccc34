"""Tells whether a patient who is withdrawn is found among a hospital's images, without showing whom or which."""

from collections.abc import Iterator
from functools import partial

from client.cohort import whose
from client.features import Progress
from client.identifiers import spelled
from client.image_index import index_images
from client.label_table import read_table
from client.labels import LabelRow
from client.site import Data, SiteConfig
from client.withdrawal import CANNOT_UNDO
from shared.errors import DataError, SiteError

NOT_FOUND = (
    "NOT FOUND: no image of this hospital is of this patient. If that was a typing error, withdraw the right one too; "
    "what was typed stays on the list, and takes out whoever comes under it later."
)


def withdrawn_lines(config: SiteConfig, patient: str, *, progress: Progress) -> Iterator[str]:
    """Say of a patient who is on the list what that does here; of one who is not found, nothing is said to be done."""
    yield "On the list of withdrawn patients. Looking for images ..."
    said = found_here(config, patient, progress=progress)
    if said != NOT_FOUND:
        yield "Withdrawn: from the next task on, no round of this hospital uses this patient's images."
    yield said
    yield CANNOT_UNDO


def found_here(config: SiteConfig, patient: str, *, progress: Progress) -> str:
    """Count the images that are withdrawn with a patient, whatever a study would make of them, in words.

    They are found under every ID that counts as one patient's with the one that is given.
    """
    data = config.data
    try:
        count = partial(progress, "headers read")
        index = index_images(data.dicom, workers=config.compute.workers, progress=count)
        _, _, people = whose(data, _rows(data) if data.patient_column else [], index)
    except (DataError, SiteError) as fault:
        return f"Whether the patient is found here cannot be told now: {fault}"
    found = people.withdrawn({spelled(patient)})
    if not found:
        return NOT_FOUND
    files = sum(person in found for person in people.person_N)
    several = f", of {len(found):,} patients; ID^^^ISSUER would name one of them" if len(found) > 1 else ""
    return f"Found here: {files:,} {'image' if files == 1 else 'images'}{several}."


def _rows(data: Data) -> list[LabelRow]:
    """Read whose each row is, and nothing of what it says of him."""
    table = read_table(data.labels, sheet=data.sheet)
    key, patient, width = table.place(data.key_column), table.place(data.patient_column or ""), len(table.header)
    return [
        LabelRow(number=number, key=cells[key].strip(), labels=(1.0,), patient=cells[patient].strip())
        for number, cells in table.rows
        if len(cells) == width
    ]
