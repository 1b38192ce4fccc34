"""`polyclinic site review`: finds the model, prepares the images and writes the page, at the hospital and for it."""

from dataclasses import replace
from pathlib import Path

from client.approval import Approvals
from client.bootstrap import prepare, unseen
from client.delivery import MODEL
from client.review import review
from client.review_page import write_page
from client.site import SiteConfig
from client.site_audit import record_decision
from shared.errors import DataError
from shared.model_facts import refuse_untested
from shared.pointing import read_pointing
from shared.saved_model import open_model
from shared.split import Split

REVIEWS = "review"


def write_review(config: SiteConfig, model: Path | None, study: str | None, *, side: str, most: int) -> Path:
    """Write the page of one side's images, and give its path; that it was made stands in the site's decisions.

    Raises:
        DataError: no model was delivered, there is no such side, or no image can be used.
        WeightsError: the model is none that was tested, or asks for another preprocessing.
        StorageError: the page cannot be written.
    """
    if side not in list(Split):
        raise DataError(f"--side {side}: there is no such side. Known: {', '.join(Split)}.")
    path = model or _delivered(config, study)
    saved = open_model(path)
    refuse_untested(saved.facts, where=path.name)
    protocol = saved.facts.protocol
    site = prepare(config, protocol, progress=unseen)
    site = replace(site, pixels=site.pixels.harmonised(saved.facts.standard))
    galleries = review(site, saved, split=Split(side), most=most, device=config.compute.device)
    page = config.compute.cache / REVIEWS / protocol.digest()[:12] / f"{side}.html"
    measured = read_pointing(path, saved.facts.arrays_sha256)
    write_page(page, galleries, protocol, site=site.name, side=side, measured=measured)
    record_decision(config.link.state, config.link.syslog, "review written", study=protocol.digest(), side=side)
    return page


def _delivered(config: SiteConfig, study: str | None) -> Path:
    path = Approvals(config.link.state / "studies").pick(study).folder / "delivered" / MODEL
    if not path.exists():
        raise DataError("this study has not delivered a model yet. Name one with --model, or wait for the study's end.")
    return path
