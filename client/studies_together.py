"""What several studies that one hospital approved tell together: whose counts can be subtracted from whose."""

from collections.abc import Iterable, Iterator

from shared.protocol import StudyProtocol


def told_together(protocol: StudyProtocol, approved: Iterable[StudyProtocol], *, min_cell: int) -> Iterator[str]:
    """Yield a line for each study that is approved here beside this one.

    Each study's small counts are withheld for themselves. Two studies count patients of one hospital by rules that
    differ a little: what one counts and the other doesn't may be few, and nothing withholds a difference.
    """
    for other in approved:
        if other.digest() == protocol.digest():
            continue
        differ = list(_differences(protocol, other))
        by = f"differ by {_listed(differ)}" if differ else "count patients by rules in which no difference is known"
        yield (
            f"- This study and “{other.study.name}” {by}; counts can be subtracted, and a difference may be of fewer "
            f"than {min_cell} patients. [policy] count_rounding rounds all counts of this hospital's patient flows."
        )


def _differences(one: StudyProtocol, other: StudyProtocol) -> Iterator[str]:
    """Name what decides which patients a study counts, and on which side, where two studies have it differently."""
    if one.images.modality != other.images.modality:
        yield "modality"
    if one.images.objects != other.images.objects:
        yield "the kinds of images"
    if one.task.targets != other.task.targets:
        yield "findings" if not one.task.exclusive else "classes"
    if bool(one.images.spacing_mm) != bool(other.images.spacing_mm):
        yield "images without a pixel spacing"
    if (one.study.name, one.study.seed, one.split) != (other.study.name, other.study.seed, other.split):
        yield "the split of patients"


def _listed(words: list[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
