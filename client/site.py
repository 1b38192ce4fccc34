"""SiteConfig: the frozen form of the hospital-owned site.toml; it can only tighten the study."""

import os
import sys
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from shared.declaration import Declaration, read_toml
from shared.errors import SiteError
from shared.protocol import Axis
from shared.renyi_filter import PrivacyLimit

Join = Literal["SOPInstanceUID", "AccessionNumber", "StudyInstanceUID", "PatientID", "path"]
"""What a label row and an image have in common; `path` is relative to the DICOM folder, with or without .dcm."""


def _as_path(value: Any) -> Any:
    return Path(value) if isinstance(value, str) and value else value


def _cores() -> int:
    """Count the cores that this process may use."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


File = Annotated[Path, BeforeValidator(_as_path)]
Words = Annotated[str, Field(min_length=1, max_length=200)]


class Site(Declaration):
    """What the hospital is called in the study: part of every patient's split, so do not change it during one."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9 _.-]{0,63}$")]


class Data(Declaration):
    """Where the images and the labels are, and how they belong together.

    `sheet` is the one to read of a workbook with several. `key` is the table's column to join on, by default called as
    `join` is. `findings` says in which column the table has each of the study's findings; one that is missing here was
    not assessed at this hospital. The classes of a study may all name one column that holds the class's name.
    `subgroups` says in which column sex, age, view, manufacturer or device stands, where the images' headers don't.
    `patient_column` is the table's column that says whose an image is, where one person has several PatientIDs or every
    file has its own. `issuer` says of which issuer (0010,0021) the table's PatientIDs are, where the images have the
    same PatientID of several.
    """

    dicom: File
    labels: File
    sheet: Words | None = None
    join: Join
    key: Words | None = None
    findings: Annotated[dict[Words, Words], Field(min_length=1)]
    subgroups: dict[Axis, Words] | None = None
    patient_column: Words | None = None
    issuer: Words | None = None

    @property
    def key_column(self) -> str:
        """Name the table's column to join on."""
        return self.key or self.join


NOT_ENFORCED_YET = frozenset({"exact_counts"})
"""What this version cannot hold to."""


class Policy(Declaration):
    """What the hospital allows at most, whatever a study asks for. No limit is accepted that would not be kept.

    `max_epsilon` at `max_delta` is what all private studies together may cost a patient (`client/privacy_ledger.py`).
    """

    max_epsilon: Annotated[float, Field(gt=0, le=100)] | None = None
    max_delta: Annotated[float, Field(gt=0, le=1e-3)] = 1e-5
    min_cell: Annotated[int, Field(ge=1)] = 10
    count_rounding: Annotated[int, Field(ge=1, le=1000)] = 1
    rounds_per_day: Annotated[int, Field(ge=1)] | None = None
    max_change: Annotated[float, Field(gt=0)] = 100.0

    @property
    def limit(self) -> PrivacyLimit | None:
        """Give the limit over all private studies; None where the hospital has set none."""
        return None if self.max_epsilon is None else PrivacyLimit(epsilon=self.max_epsilon, delta=self.max_delta)

    @model_validator(mode="before")
    @classmethod
    def _refuse_what_is_not_enforced(cls, data: Any) -> Any:
        if isinstance(data, dict) and (early := sorted(NOT_ENFORCED_YET & set(data))):
            raise ValueError(
                f"this version cannot enforce {', '.join(early)}. "
                "Remove it only if the hospital agrees to take part without that limit."
            )
        return data


class Compute(Declaration):
    """The hospital's own machine; none of it changes a result."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    workers: Annotated[int, Field(ge=1, le=256)] = Field(default_factory=_cores)
    cache: File = Path("cache")


class Link(Declaration):
    """Where a site that takes part over a network keeps its keys, what it remembers, and the agent's two sockets.

    `syslog` is the socket of the system's log, which gets every line of the audit log where there is one.
    """

    keys: File = Path("keys")
    state: File = Path("state")
    sockets: File = Path("run")
    syslog: File = Path("/dev/log")

    @property
    def agent_socket(self) -> Path:
        """Where the courier finds the agent."""
        return self.sockets / "agent" / "agent.sock"

    @property
    def metrics_socket(self) -> Path:
        """Where the exporter finds the agent's figures."""
        return self.sockets / "metrics" / "metrics.sock"


class SiteConfig(Declaration):
    """One hospital as it declares itself; its paths are absolute or relative to the current folder."""

    site: Site
    data: Data
    policy: Policy = Policy()
    compute: Compute = Field(default_factory=Compute)
    link: Link = Link()

    def within(self, folder: Path) -> Self:
        """Read the relative paths as relative to `folder`."""
        link = {name: folder / getattr(self.link, name) for name in ("keys", "state", "sockets", "syslog")}
        data = {"dicom": folder / self.data.dicom, "labels": folder / self.data.labels}
        return self.model_copy(
            update={
                "data": self.data.model_copy(update=data),
                "link": self.link.model_copy(update=link),
                "compute": self.compute.model_copy(update={"cache": folder / self.compute.cache}),
            }
        )


def read_site(path: Path) -> SiteConfig:
    """Read a site.toml; its relative paths are relative to the folder that it lies in.

    Raises:
        SiteError: every fault in the file, with section, key and the nearest known key; or the cache lies among
            the images, or something else in the cache.
    """
    site = read_toml(path, SiteConfig, error=SiteError).within(path.parent)
    if site.compute.cache.resolve().is_relative_to(site.data.dicom.resolve()):
        raise SiteError(
            f"{path.name} [compute] cache: it lies inside the folder [data] dicom, so that its files would be taken "
            "for images. Choose a folder outside of it."
        )
    others = {
        "[data] dicom": site.data.dicom,
        "[data] labels": site.data.labels,
        "[link] keys": site.link.keys,
        "[link] state": site.link.state,
        "[link] sockets": site.link.sockets,
        f"{path.name} itself": path,
    }
    for name, place in others.items():
        if place.resolve().is_relative_to(site.compute.cache.resolve()):
            raise SiteError(
                f"{path.name} [compute] cache: {name} lies inside of it, and `polyclinic site purge` empties it. "
                "Choose a folder that holds nothing else."
            )
    return site
