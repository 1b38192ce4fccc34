"""The last line of a finished run: where its report is, and whether the sites withheld all that it could show."""

from server.finding_result import Why
from server.results import StudyResult
from server.results_json import read
from server.run_folder import RunFolder
from shared.errors import StorageError

SPLITS = ("validation", "test")


def last_line(run: RunFolder) -> str:
    """Give the report's path; where the evidence of a split was wholly withheld, with that and what to do about it.

    It says no count, so that a deployed coordinator may print it: whose evidence is withheld is in the report.
    """
    try:
        result = read(run.results) if run.results.exists() else None
    except StorageError:  # of another version: the report beside it still stands
        result = None
    withheld = [split for split in SPLITS if result and wholly_withheld(result, split)]
    if not withheld:
        return str(run.report)
    empty = "it has no result" if "test" in withheld else "it has no operating point"
    return (
        f"{run.report}: {empty}, because every site withheld all of its {' and '.join(withheld)} evidence. A class has "
        "fewer patients there than the site's [policy] min_cell; `polyclinic site check` says how many are needed."
    )


def wholly_withheld(result: StudyResult, split: str) -> bool:
    """Tell whether sites withheld a split's evidence on every finding, and nothing of it is known from any site."""
    found = [one for splits in result.sites.values() for one in splits.get(split, {}).values()]
    return any(one.why is Why.SUPPRESSED for one in found) and all(one.units is None for one in found)
