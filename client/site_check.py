"""What a hospital's images and labels give to a study, shown to its data manager: files, rows, patients, warnings."""

import csv
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console
from rich.table import Table

from client.assessed import not_assessed
from client.bootstrap import PreparedSite, prepare
from client.label_table import read_table
from client.site import SiteConfig, read_site
from client.withholding import foresee
from shared.amounts import counted
from shared.protocol import Federation, Study, StudyProtocol, Task, read_protocol
from shared.storage import atomic_file

ROWS_SHOWN = 12
"""Row numbers of the label table that are printed for a reason; the rest are counted."""


def show_check(site: Path, study: Path | None) -> None:
    """Read every image and label, print the account, and write the list of what is left out.

    Raises:
        SiteError, StudyError, DataError, StorageError: the files do not allow it.
    """
    config = read_site(site)
    protocol = read_protocol(study) if study else any_study(config)
    console = Console(highlight=False)
    with console.status("reading") as status:
        prepared = prepare(
            config, protocol, progress=lambda what, done, total: status.update(f"{what}: {done:,} of {total:,}")
        )
    for table in (_files(prepared), _rows(prepared), _patients(prepared, protocol)):
        console.print(table)
    warnings = (*_of_table(config, protocol), *_doubts(prepared), *_paths(prepared), *_warnings(prepared, protocol))
    for warning in warnings:
        console.print(f"! {warning}", style="yellow", markup=False)
    listing = config.compute.cache / "excluded.csv"
    with atomic_file(listing) as part, part.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("file", "reason"), *prepared.cohort.local_listing()])
    console.print(f"Files that are left out, with the reason: {listing}", markup=False, soft_wrap=True)


def _of_table(config: SiteConfig, protocol: StudyProtocol) -> Iterator[str]:
    """Say how the table was read, and which of the study's findings it does not have."""
    if warning := read_table(config.data.labels, sheet=config.data.sheet).warning:
        yield warning
    yield from not_assessed(protocol.task.targets, config.data.findings)


def any_study(config: SiteConfig) -> StudyProtocol:
    """Make a study of the findings that the hospital names, with every default; of one column's values as classes."""
    names = tuple(config.data.findings)
    exclusive = len(names) > 1 and len(set(config.data.findings.values())) == 1
    return StudyProtocol(
        study=Study(name="site check", intended_use="to check a hospital's images and labels"),
        task=Task(classes=names) if exclusive else Task(findings=names),
        federation=Federation(rounds=1),
    )


def _files(prepared: PreparedSite) -> Table:
    flow = prepared.cohort.flow
    table = _table("Files", "", ("files", "patients"))
    table.add_row("found", f"{flow.files:,}", "")
    for step in flow.steps:
        table.add_row(f"left out: {step.reason.sentence}", f"{step.files:,}", f"{step.patients:,}")
    table.add_row("used", f"{flow.files_kept:,}", f"{len(set(prepared.records.patients_N.tolist())):,}", style="bold")
    return table


def _rows(prepared: PreparedSite) -> Table:
    flow = prepared.cohort.flow
    table = _table("Label table", "", ("rows", "row numbers (1 is the header)"))
    table.add_row("found", f"{flow.rows:,}", "")
    for step in flow.row_steps:
        shown = ", ".join(map(str, step.where[:ROWS_SHOWN]))
        more = f" and {step.rows - ROWS_SHOWN:,} more" if step.rows > ROWS_SHOWN else ""
        table.add_row(f"not used: {step.reason.sentence}", f"{step.rows:,}", shown + more)
    table.add_row("used", f"{flow.rows_used:,}", "", style="bold")
    if flow.uncertain_rows:
        table.add_row("of these with a value marked uncertain, taken as not assessed", f"{flow.uncertain_rows:,}", "")
    return table


def _patients(prepared: PreparedSite, protocol: StudyProtocol) -> Table:
    flow = prepared.cohort.flow
    table = _table("Patients", "", ("patients", "exams", "images", "patients with", "patients without"))
    for split, counts in flow.splits.items():
        table.add_row(split.value, f"{counts.patients:,}", f"{counts.exams:,}", f"{flow.images[split]:,}", "", "")
        for target, found in zip(protocol.task.targets, counts.classes, strict=True):
            table.add_row(f"  {target}", "", "", "", f"{found.positive_patients:,}", f"{found.negative_patients:,}")
    return table


def _table(title: str, first: str, numbers: tuple[str, ...]) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold")
    table.add_column(first, overflow="fold")
    for name in numbers:
        table.add_column(name, justify="right", overflow="fold")
    return table


def _doubts(prepared: PreparedSite) -> Iterator[str]:
    """Say where IDs and people may not be the same: in counts, and nothing of it leaves."""
    doubts = prepared.cohort.doubts
    named = "say who is who in a column of the label table: [data] patient_column."
    if doubts.alike:
        yield (
            f"{doubts.alike:,} patients seem to have several PatientIDs, {doubts.ids_alike:,} in all: the files have "
            "the same name, birth date and sex. Each ID counts as a patient, and may be on another side of the split. "
            f"If they are one person's, {named}"
        )
    if doubts.own_id_each:
        yield (f"each of the {doubts.own_id_each:,} files has a PatientID of its own. If a person has several, {named}")
    if doubts.studies:
        yield (
            f"{doubts.studies:,} studies (StudyInstanceUID) have files of several PatientIDs, {doubts.ids_joined:,} in "
            "all: the IDs of one study are taken for one patient's. If they are not, something has overwritten their "
            "StudyInstanceUID: export the files again."
        )


def _paths(prepared: PreparedSite) -> Iterator[str]:
    """Say where one row is about several files, which only a folder with copies or with careless names has.

    Each keeps the row's labels: whether a file takes part must not follow from another patient's.
    """
    if prepared.config.data.join != "path":
        return
    files = Counter(file.row for file in prepared.cohort.files if file.reason is None)
    if several := sum(count > 1 for count in files.values()):
        yield (
            f"{counted(several, 'row')} of the label table may be about several images each, whose paths differ in "
            ".dcm, in an invisible letter, or in how a letter is written (Unicode) alone: all of them have the row's "
            "labels. Give each image a row with its path as it is, or take copies out of the folder."
        )


def _warnings(prepared: PreparedSite, protocol: StudyProtocol) -> Iterator[str]:
    yield from map(str, foresee(prepared.records, protocol, min_cell=prepared.config.policy.min_cell))
