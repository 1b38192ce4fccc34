"""Compares this machine's clock with the coordinator's before the link starts, and says what to do where it is off."""

import ssl
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from pathlib import Path

import httpx

from shared.errors import SiteError

MOST = timedelta(minutes=2)
"""A link signs the time of each request. flwr 1.41 refuses it five minutes off, and then the link ends, with 0."""

WAIT_SECONDS = 10.0


def check_clock(address: str, ca: Path, *, now: datetime) -> str | None:
    """Ask the coordinator's proxy for its time, as each of its answers tells it (RFC 9110, 6.6.1).

    Where it does not answer the link goes on asking, without a word: then this gives what stands in the way, in words.

    Raises:
        SiteError: the clocks differ by more than two minutes.
    """
    try:
        there = _time_at(address, ca)
    except (httpx.HTTPError, OSError) as fault:
        return _unreached(address, fault)
    if there is None or abs(off := now - there) <= MOST:
        return None
    which = "ahead of" if off > timedelta() else "behind"
    raise SiteError(
        f"this machine's clock is {_words(abs(off))} {which} the coordinator's, "
        "which refuses a link whose clock is minutes off. Set the clock (NTP: the runbook, part 1) on the side that is "
        "wrong, and start the link again."
    )


def _time_at(address: str, ca: Path) -> datetime | None:
    with suppress(ValueError, ImportError):  # no date, or a web proxy of a kind that httpx cannot speak to
        trusted = ssl.create_default_context(cafile=str(ca))
        told = httpx.head(f"https://{address}/", verify=trusted, timeout=WAIT_SECONDS).headers.get("Date")
        return parsedate_to_datetime(told).astimezone(UTC) if told else None
    return None


def _unreached(address: str, fault: Exception) -> str:
    """Say why the coordinator did not answer, and who can change that."""
    said, going_on = str(fault), "The link goes on trying."
    if "Hostname mismatch" in said or "IP address mismatch" in said:
        name = address.rpartition(":")[0]
        return (
            f"whoever answers at {address} has a certificate for another name than {name}. Ask the coordinator for an "
            f"invitation with the name that its certificate has. {going_on}"
        )
    if "CERTIFICATE_VERIFY_FAILED" in said:
        return (
            f"whoever answers at {address} has a certificate that the invitation's authority did not sign: another "
            "server, or a web proxy that opens TLS. Ask your network's administrator to let this address pass "
            f"untouched, or the coordinator for a new invitation. {going_on}"
        )
    if isinstance(fault, ssl.SSLError) or "[SSL" in said:
        return f"what answers at {address} does not speak TLS. Ask the coordinator which port it is. {going_on}"
    if isinstance(fault, httpx.ProxyError):
        return (
            f"the web proxy that HTTPS_PROXY names does not let this machine reach {address}. Ask your network's "
            f"administrator for that. {going_on}"
        )
    if isinstance(fault, httpx.TimeoutException):
        return (
            f"nobody answered at {address} within {WAIT_SECONDS:.0f} seconds. A firewall may be in between: this "
            f"machine needs the way out to this address, and no other. {going_on}"
        )
    return (
        f"nobody answers at {address}: its name or port is wrong, the coordinator is not running, or the way there is "
        f"a web proxy that HTTPS_PROXY does not name. {going_on}"
    )


def _words(off: timedelta) -> str:
    minutes = round(off.total_seconds() / 60)
    return f"{minutes} minutes" if minutes < 120 else f"{minutes / 60:.0f} hours"
