"""Who a patient is: a PatientID as its issuer gave it, or whom the label table names; the IDs of one study are one's.

PS3.3 C.7.1.1: a PatientID (0010,0020) is unique for its issuer (0010,0021) alone. PS3.3 A.1.2: a study is of one
patient. Two files are of one patient if their IDs are spelled the same and they don't name two issuers, or if they
have a StudyInstanceUID in common; and so are those that are of one patient with a third. These rules look at pairs of
files, so that taking all files of one patient away leaves every other patient as it was.
"""

from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, field

from client.identifiers import qualified, spelled
from client.image_index import IndexedFile
from client.labels import Match
from shared.errors import SiteError

A_DE_IDENTIFIERS_WORK = 20
"""More IDs than this under one name, birth date and sex are no person's: something has overwritten them."""

Names = tuple[str | None, ...]
"""One a file, in the order of the index; None where nobody knows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Doubts:
    """What makes one doubt that IDs and people are the same, in counts: for the hospital alone.

    `alike` people seem to have several IDs, `ids_alike` in all. `own_id_each` is how many files there are, if each has
    an ID of its own, else 0. `studies` are those whose files have several IDs, `ids_joined` are joined by them.
    """

    alike: int
    ids_alike: int
    own_id_each: int
    studies: int
    ids_joined: int


@dataclass(frozen=True, slots=True, kw_only=True)
class People:
    """Whose each file of a site is.

    `by_table` tells that the label table says it. `name_N` says under which ID: labels, copies and exams are told apart
    by it. `person_N` is the patient: one name, or several that have a study in common, under the first in order of
    those that were counted before, else of all. `split_keys` has by patient what the side is drawn of: the PatientID as
    it is written (of several, the first in order, but none that came after the count and stands before), without its
    issuer, so that splits are what they were before issuers were read. `listed_N` are the forms in which a file's
    patient may stand in a list of withdrawn ones.
    """

    by_table: bool
    name_N: Names = field(repr=False)
    person_N: Names = field(repr=False)
    split_keys: Mapping[str, str] = field(repr=False)
    listed_N: tuple[tuple[str, ...], ...] = field(repr=False)
    doubts: Doubts

    def withdrawn(self, listed: Container[str]) -> frozenset[str]:
        """Give the patients of whom any ID, bare or with its issuer, or any name in the table is on a list."""
        return frozenset(
            person
            for person, forms in zip(self.person_N, self.listed_N, strict=True)
            if person is not None and any(form in listed for form in forms)
        )


def nobody(_name: str) -> bool:
    """Let no name have been counted before."""
    return False


def people_of(
    index: Sequence[IndexedFile],
    matches: Sequence[Match],
    *,
    by_table: bool,
    counted: Callable[[str], bool] = nobody,
) -> People:
    """Find out whose each file is; with `by_table` the table says it, of files that one of its rows has labelled.

    `counted` tells under which name a patient was counted when the study began: a later file with one more ID, whatever
    its place in order, does not make the patient another.
    """
    named_N = [(match.patient if match.reason is None else "") if by_table else None for match in matches]
    bare = {spelled(file.identity.patient_id) for file in index if not file.identity.issuer}
    ids_N = [_ids(file, named, bare) for file, named in zip(index, named_N, strict=True)]
    own_N = [ids[0] if ids else None for ids in ids_N]
    name_N = _first(own_N, _together(ids_N))
    joined_N = _together([_of_study(name, file) for name, file in zip(name_N, index, strict=True)])
    before_N = _first([own if own and counted(own) else None for own in own_N], joined_N)
    person_N = tuple(before or first for before, first in zip(before_N, _first(own_N, joined_N), strict=True))
    written_N = [
        (file.identity.patient_id if named is None else named) if own and person and own >= person else None
        for file, named, own, person in zip(index, named_N, own_N, person_N, strict=True)
    ]
    return People(
        by_table=by_table,
        name_N=name_N,
        person_N=person_N,
        split_keys={
            person: key
            for person, key in zip(person_N, _first(written_N, joined_N), strict=True)
            if person is not None and key is not None
        },
        listed_N=tuple(_forms(file, named) for file, named in zip(index, named_N, strict=True)),
        doubts=_doubts(index, name_N, person_N, by_table=by_table),
    )


def patient_keys(index: Sequence[IndexedFile], *, known: Container[str], issuer: str | None) -> list[str | None]:
    """Give each file's PatientID as the key of a label table, in which IDs stand without their issuer.

    `known` are the table's keys as they are compared. With `issuer`, the table is about that issuer's patients, and
    those whose files name another one have no row. Without it nobody guesses which of two patients a row is about.

    Raises:
        SiteError: a row would be of several issuers' patients, and `issuer` is not given.
    """
    keys: list[str | None] = []
    issuers: dict[str, set[str]] = {}
    for file in index:
        key, own = spelled(file.identity.patient_id), spelled(file.identity.issuer)
        foreign = issuer is not None and own not in ("", spelled(issuer))
        keys.append(None if foreign else key)
        if own and key in known and not foreign:
            issuers.setdefault(key, set()).add(own)
    if several := sum(len(own) > 1 for own in issuers.values()):
        raise SiteError(
            f"[data] join: {several:,} PatientIDs of the label table are those of several patients here: files with "
            "the same PatientID (0010,0020) name several issuers (0010,0021). Say of which issuer the table's are, as "
            "[data] issuer, or join on AccessionNumber, StudyInstanceUID, SOPInstanceUID or path."
        )
    return keys


def _ids(file: IndexedFile, named: str | None, bare: Container[str]) -> list[str]:
    """Give what a file has in common with all others of its ID, its own ID first; nothing where it has none.

    An ID without an issuer may be that of any: it stands with each.
    """
    if named is not None:
        return [f"named {spelled(named)}"] if spelled(named) else []
    own, issuer = spelled(file.identity.patient_id), spelled(file.identity.issuer)
    if not own:
        return []
    return [qualified(f"id {own}", issuer), *([f"id {own}"] if issuer and own in bare else [])]


def _of_study(name: str | None, file: IndexedFile) -> list[str]:
    if name is None:
        return []
    return [name, *([f"study {study}"] if (study := file.identity.study_instance_uid) else [])]


def table_names(file: IndexedFile) -> frozenset[str]:
    """Give under what a file's patient may stand in a label table, as names are compared: the ID, with its issuer too.

    Nothing where the file has no ID.
    """
    return frozenset(map(spelled, _forms(file, None)))


def _forms(file: IndexedFile, named: str | None) -> tuple[str, ...]:
    own, issuer = file.identity.patient_id, file.identity.issuer
    written = dict.fromkeys(form for form in (own, qualified(own, issuer) if own else "", named or "") if form)
    return tuple(dict.fromkeys([*written, *map(spelled, written)]))


def _together(tags_N: Sequence[Sequence[str]]) -> list[str | None]:
    """Give each file a mark that it shares with all with which it shares a tag, and with whom these share one."""
    leader: dict[str, str] = {}

    def lead(tag: str) -> str:
        while (above := leader.setdefault(tag, tag)) != tag:
            leader[tag] = tag = leader[above]
        return tag

    for first, *others in filter(None, tags_N):
        for other in others:
            leader[lead(other)] = lead(first)
    return [lead(tags[0]) if tags else None for tags in tags_N]


def _first(words_N: Sequence[str | None], marks_N: Sequence[str | None]) -> Names:
    """Give each file the first word, in order, among those with its mark."""
    first: dict[str, str] = {}
    for word, mark in zip(words_N, marks_N, strict=True):
        if word and mark is not None:
            first[mark] = min(word, first.get(mark, word))
    return tuple(None if mark is None else first.get(mark) for mark in marks_N)


def _doubts(index: Sequence[IndexedFile], name_N: Names, person_N: Names, *, by_table: bool) -> Doubts:
    names = [name for name in name_N if name is not None]
    of_study: dict[str, set[str]] = {}
    of_description: dict[tuple[str, ...], set[str]] = {}
    of_person: dict[str, set[str]] = {}
    for file, name, person in zip(index, name_N, person_N, strict=True):
        if name is None or person is None:
            continue
        own = file.identity
        of_person.setdefault(person, set()).add(name)
        if own.study_instance_uid:
            of_study.setdefault(own.study_instance_uid, set()).add(name)
        if all(described := (spelled(own.full_name.replace("^", " ")), own.birth_date.strip(), spelled(own.sex))):
            of_description.setdefault(described, set()).add(person)
    alike = [len(people) for people in of_description.values() if 1 < len(people) <= A_DE_IDENTIFIERS_WORK]
    return Doubts(
        alike=len(alike),
        ids_alike=sum(alike),
        own_id_each=len(names) if 1 < len(names) == len(set(names)) and not by_table else 0,
        studies=sum(len(own) > 1 for own in of_study.values()),
        ids_joined=sum(len(own) for own in of_person.values() if len(own) > 1),
    )
