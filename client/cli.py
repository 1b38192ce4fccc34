"""Commands for hospital staff; each imports what it needs: help and the courier start without torch."""

import os
import signal
import sys
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Annotated

import typer

from shared.cli import say as _say

if TYPE_CHECKING:  # read when a command runs: reading declarations takes longer to load than help to print
    from client.site import SiteConfig

app = typer.Typer(no_args_is_help=True, help="For a hospital: check its data, approve a study, and take part in it.")

DECLINED = 3
"""The exit code where a question was answered with no."""

PRIVATE = 0o077
"""What a site's commands write, only their user can read; keys and sockets say for themselves who else may."""

SiteFile = Annotated[Path, typer.Argument(help="The hospital's site.toml.", show_default=False)]
Study = Annotated[str | None, typer.Option("--study", help="The study, by the beginning of its digest.")]


@app.callback()
def _site() -> None:
    """For a hospital: check its data, approve a study, and take part in it."""
    os.umask(PRIVATE)


@app.command()
def check(
    site: SiteFile,
    study: Annotated[
        Path | None, typer.Option(help="The study to check for. Left out: the findings that site.toml names.")
    ] = None,
) -> None:
    """Read every image and label of this hospital, and account for each one that a study could not use.

    Nothing leaves this machine. No patient's name, number or file name is printed: the files that are left out are
    listed, with the reason, in excluded.csv in the site's cache folder.
    """
    from client.site_check import show_check

    show_check(site, study)


@app.command()
def init(site: SiteFile) -> None:
    """Make this site's keys and folders; what is there already stays as it is."""
    from client.site_keys import SiteKeys
    from shared.fingerprints import keys_line
    from shared.storage import private_folder

    config = _read(site)
    own = SiteKeys(config.link.keys)
    drawn = own.create()
    private_folder(config.link.state)
    if drawn:
        _decided(config, "keys drawn")
    else:
        _say("All keys are here already, and stay as they are.")
    _say(f"Keys: {config.link.keys}. They never leave this site, and no backup of the coordinator has them.")
    _say(keys_line(own.public(config.site.name)))
    _say("Next: `polyclinic site keys` writes the public halves, which the coordinator enrols.")


@app.command()
def keys(
    site: SiteFile,
    out: Annotated[Path | None, typer.Option(help="File to write; by default NAME.keys.toml in this folder.")] = None,
    rotate: Annotated[bool, typer.Option("--rotate", help="Draw new ones first; enrol them before going on.")] = False,
) -> None:
    """Write this site's public keys for the coordinator; no secret is in the file."""
    from client.site_keys import SiteKeys
    from shared.fingerprints import keys_line
    from shared.invitation import place_for_keys, write_paper

    config = _read(site)
    path = place_for_keys(out or Path(f"{config.site.name}.keys.toml"))
    own = SiteKeys(config.link.keys)
    if rotate:
        own.rotate()
    public = own.public(config.site.name)
    write_paper(public, path)
    _decided(config, "keys rotated" if rotate else "public keys written", signing=public.signing)
    _say(f"{path}: send it to the coordinator, and compare this line with theirs by telephone, when they enrol it:")
    _say(keys_line(public))
    if rotate:
        _say("Restart agent and link after the coordinator has enrolled the new keys; until then they are unknown.")


@app.command()
def approve(
    site: SiteFile,
    invitation: Annotated[Path, typer.Argument(help="The folder that the coordinator sent.", show_default=False)],
    by: Annotated[str | None, typer.Option("--by", help="Who approves: name and role. Asked for if left out.")] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Approve without being asked: for scripts.")] = False,
    weights: Annotated[
        Path | None, typer.Option(help="The study's pretrained weights, where they came by another way.")
    ] = None,
) -> None:
    """Say in plain words what a study computes, what leaves and what it costs; then approve its digest alone."""
    from client.approving import approve_study, look_at

    config = _read(site)
    offer = look_at(config, invitation, weights_file=weights, progress=_progress)
    for paragraph in offer.words:
        _say(paragraph + "\n")
    who = by or typer.prompt("Who approves (name and role)")
    if not (yes or typer.confirm("Approve this study, and nothing else?")):
        _say("Not approved. Nothing was written.")
        raise typer.Exit(DECLINED)
    study = approve_study(config, offer, approved_by=who)
    _say(f"Approved by {who}: {study.digest[:12]}. Next: `polyclinic site serve`, anew if it runs.")


@app.command()
def bundle(
    site: SiteFile,
    invitation: Annotated[Path | None, typer.Argument(help="The coordinator's folder.", show_default=False)] = None,
    home: Annotated[Path | None, typer.Option(help="The courier's FLWR_HOME.", show_default=False)] = None,
) -> None:
    """Install the invitation's bundle where the courier finds it, not writable: any other dies before it runs."""
    from client.bundle import install_invited

    if site.is_dir() or invitation is None or home is None:
        raise typer.BadParameter("It is `polyclinic site bundle SITE.toml FOLDER --home HOME`, the site's file first.")
    _say(f"{install_invited(invitation, home, site=_read(site).site.name)}")


@app.command()
def serve(site: SiteFile, study: Study = None) -> None:
    """Run the agent: it prepares the images, then answers tasks of all approved studies until it is stopped.

    With --study it answers that one alone. One task is worked on at a time, of whichever study.
    """
    from client.approval import Approvals
    from client.site_service import SiteService

    config = _read(site)
    approvals = Approvals(config.link.state / "studies")
    served = approvals.at_least_one() if study is None else [approvals.pick(study)]
    stopped = Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopped.set())

    SiteService(config=config, studies=served, progress=_progress).serve(stopped)
    sys.stdout.flush()
    os._exit(0)  # a round that is under way goes on from its checkpoint; waiting for its thread would take its time


@app.command()
def courier(
    site: SiteFile,
    runtime: Annotated[str, typer.Option(help="Address of the SuperNode's runtime port.")] = "127.0.0.1:9094",
    home: Annotated[Path | None, typer.Option(help="FLWR_HOME with the pre-installed bundle.")] = None,
) -> None:
    """Run Flower's superexec, whose courier relays messages between link and agent; it has neither key nor data."""
    from client.superexec import run_courier

    run_courier(_read(site), runtime=runtime, home=home)


@app.command()
def link(
    site: SiteFile,
    runtime: Annotated[str, typer.Option(help="Address to open for the courier.")] = "127.0.0.1:9094",
    study: Study = None,
) -> None:
    """Run Flower's SuperNode: this site's one way out, to the coordinator of an approved study."""
    from client.superexec import run_link

    run_link(_read(site), runtime=runtime, study=study)


@app.command()
def exporter(
    site: SiteFile,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to serve at.")] = 9464,
    host: Annotated[str, typer.Option(help="Address to serve at.")] = "127.0.0.1",
) -> None:
    """Serve the agent's figures for the hospital's own Prometheus; it reads one socket, and no data."""
    from client.exporter import exporting

    stopped = Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopped.set())
    with exporting(_read(site).link.metrics_socket, host=host, port=port) as opened:
        _say(f"Figures: http://{host}:{opened}/metrics   Stop: Ctrl-C.")
        stopped.wait()


@app.command()
def status(site: SiteFile) -> None:
    """Show the approved studies, what was asked of each, and whether the agent answers."""
    from client.site_status import status_lines

    _say("\n".join(status_lines(_read(site))))


@app.command()
def audit(
    site: SiteFile,
    what: Annotated[str, typer.Argument(help="`verify`: check both chains, and print their heads.")] = "",
) -> None:
    """Print what has left this site and what was decided here; with `verify`, check that no line was changed."""
    from client.site_status import audit_lines, verified_heads

    config = _read(site)
    if what not in ("", "verify"):
        raise typer.BadParameter(f"{what!r} is not known. Leave it out, or say 'verify'.")
    for line in verified_heads(config) if what else audit_lines(config):
        _say(line)


@app.command()
def ledger(
    site: SiteFile,
    export: Annotated[
        Path | None, typer.Option(help="Write it to this .json or .csv too: for an ethics board.")
    ] = None,
    close: Annotated[
        str | None,
        typer.Option(help="End a study's account, by the beginning of its digest: gives back unused rounds."),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Close without being asked.")] = False,
) -> None:
    """Show the privacy budget: spent, reserved and left, study by study, and what a next study may ask for."""
    from client.ledger_words import SHOWN, export_ledger, find_account, ledger_lines
    from client.privacy_ledger import ledger_of

    config = _read(site)
    own = ledger_of(config)
    if close is not None:
        found = find_account(own.statement(), close)
        means = "It can never train here again." if found.begun else "Nothing was spent; it can be approved anew."
        if not (yes or typer.confirm(f"Close {found.study[:SHOWN]}? {means}")):
            raise typer.Exit(DECLINED)
        own.close(found.study)
        _decided(config, "privacy account closed", study=found.study)
    statement = own.statement()
    _say("\n".join(ledger_lines(statement)))
    if export is not None:
        export_ledger(statement, export)
        _say(f"Written: {export}")


@app.command()
def model(
    site: SiteFile,
    out: Annotated[Path, typer.Option(help="Folder to write to.", show_default=False)],
    study: Study = None,
) -> None:
    """Copy a finished study's model and results, as they were delivered to this site, to where they can be used."""
    from client.site_status import copy_delivered, delivered_lines

    _say("\n".join(delivered_lines(copy_delivered(_read(site), study, out))))


@app.command()
def review(
    site: SiteFile,
    model: Annotated[
        Path | None, typer.Option(help="A study's model.safetensors. Left out: the one that was delivered.")
    ] = None,
    study: Study = None,
    side: Annotated[str, typer.Option(help="Whose images: train, validation or test.")] = "test",
    most: Annotated[int, typer.Option(min=1, max=100, help="Images of each kind.")] = 8,
) -> None:
    """Show this hospital's staff what a model got right and wrong here, and where it looked: a page that stays here.

    It lies in the site's cache folder, readable by this user alone, and goes with `site purge`.
    """
    from client.site_review import write_review

    _say(f"{write_review(_read(site), model, study, side=side, most=most)}")
    _say("Images of patients: open it here, and do not send it.")


@app.command()
def withdraw(
    site: SiteFile,
    patient: Annotated[
        str | None,
        typer.Argument(
            help="PatientID (ID^^^ISSUER for that of one issuer alone), or the label table's name of the patient; "
            "asked for if left out.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Take a patient out of all rounds from now on, in all studies of this hospital; say if any image is found."""
    from client.withdrawal import withdrawals_of
    from client.withdrawing import withdrawn_lines

    config = _read(site)
    number = patient or typer.prompt("PatientID", hide_input=True)
    withdrawals_of(config).add(number)
    _decided(config, "patient withdrawn")
    for line in withdrawn_lines(config, number, progress=_progress):
        _say(line)


@app.command()
def purge(
    site: SiteFile,
    study: Study = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do it without being asked.")] = False,
) -> None:
    """Take back an approval, and remove an ended study's prepared images and stored replies from this machine."""
    from client.approval import Approvals
    from client.site_status import KEPT, purge_study

    config = _read(site)
    approved = Approvals(config.link.state / "studies").pick(study)
    if not (yes or typer.confirm(f"Remove what is stored of {approved.digest[:12]}?")):
        raise typer.Exit(DECLINED)
    purge_study(config, approved)
    _decided(config, "study purged", study=approved.digest)
    _say(KEPT)
    if approved.protocol.privacy is not None:
        _say(f"Its privacy budget stays reserved until `polyclinic site ledger --close {approved.digest[:12]}` too.")


def _read(site: Path) -> "SiteConfig":
    from client.site import read_site

    return read_site(site)


def _progress(what: str, done: int, total: int) -> None:
    if total == 0:
        print(what, flush=True)
    elif done == total or done % 1000 == 0:
        print(f"{what}: {done:,} of {total:,}", flush=True)


def _decided(config: "SiteConfig", event: str, **facts: str) -> None:
    from client.site_audit import record_decision

    record_decision(config.link.state, config.link.syslog, event, **facts)
