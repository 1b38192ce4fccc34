"""CoordinatorConfig: the frozen form of coordinator.toml; all that is operational, and nothing that a site approves."""

from pathlib import Path
from typing import Annotated, Self

from pydantic import BeforeValidator, Field, model_validator

from shared.declaration import Declaration, read_toml
from shared.errors import CoordinatorError
from shared.invitation import Line

Port = Annotated[int, Field(ge=1, le=65535)]
Host = Annotated[str, Field(pattern=r"^[A-Za-z0-9.:-]{1,253}$")]
SiteName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9 _.-]{0,63}$")]
Minutes = Annotated[float, Field(gt=0, le=60 * 24 * 30)]
File = Annotated[Path, BeforeValidator(lambda value: Path(value) if isinstance(value, str) and value else value)]


class Address(Declaration):
    """Where sites reach the coordinator: `host` is in its certificate, and `listen` is the proxy's own address."""

    called: Line = "Polyclinic coordinator"
    host: Host
    port: Port = 443
    listen: Host = "127.0.0.1"  # the world is let in where somebody asks for it


class SuperLink(Declaration):
    """Flower's own server. Only the proxy and the coordinator's own processes reach it: keep it on loopback."""

    host: Host = "127.0.0.1"
    port: Port = 18000


class Sites(Declaration):
    """The sites that a run goes to; whoever else is enrolled is not asked.

    `most_patients` says of some of them how many patients they can have; one that tells of more does not take part.
    """

    names: Annotated[list[SiteName], Field(min_length=1)]
    most_patients: dict[SiteName, Annotated[int, Field(ge=1)]] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _once(self) -> Self:
        if twice := sorted({name for name in self.names if self.names.count(name) > 1}):
            raise ValueError(f"{twice[0]!r} stands there twice")
        if unknown := sorted(set(self.most_patients) - set(self.names)):
            raise ValueError(f"most_patients has {unknown[0]!r}, which is not among the names")
        return self


class Deadlines(Declaration):
    """How long the coordinator waits: for sites to be ready, and for one answer of a round."""

    ready_minutes: Minutes = 60.0
    round_minutes: Minutes = 720.0
    deliver_minutes: Minutes = 60.0


class Pretrained(Declaration):
    """The file with the pretrained weights, where the study starts from some."""

    file: File | None = None


class CoordinatorConfig(Declaration):
    """One coordinator as it declares itself; changing it needs no new approval by any site."""

    address: Address
    sites: Sites
    superlink: SuperLink = SuperLink()
    deadlines: Deadlines = Deadlines()
    pretrained: Pretrained = Pretrained()


def read_coordinator(path: Path) -> CoordinatorConfig:
    """Read a coordinator.toml; the path of the weights is relative to the folder that it lies in.

    Raises:
        CoordinatorError: every fault in the file, with section, key and the nearest known key.
    """
    config = read_toml(path, CoordinatorConfig, error=CoordinatorError)
    if config.pretrained.file is None:
        return config
    return config.model_copy(update={"pretrained": Pretrained(file=path.parent / config.pretrained.file)})
