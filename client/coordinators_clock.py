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


def check_clock(address: str, ca: Path, *, now: datetime) -> None:
    """Ask the coordinator's proxy for its time, as each of its answers tells it (RFC 9110, 6.6.1).

    Where it does not answer, the link finds that out for itself.

    Raises:
        SiteError: the clocks differ by more than two minutes.
    """
    if (there := _time_at(address, ca)) is None or abs(off := now - there) <= MOST:
        return
    which = "ahead of" if off > timedelta() else "behind"
    raise SiteError(
        f"this machine's clock is {_words(abs(off))} {which} the coordinator's, "
        "which refuses a link whose clock is minutes off. Set the clock (NTP: the runbook, part 1) on the side that is "
        "wrong, and start the link again."
    )


def _time_at(address: str, ca: Path) -> datetime | None:
    with suppress(httpx.HTTPError, OSError, ValueError, ImportError):  # no answer, no date, or a proxy of another kind
        trusted = ssl.create_default_context(cafile=str(ca))
        told = httpx.head(f"https://{address}/", verify=trusted, timeout=WAIT_SECONDS).headers.get("Date")
        return parsedate_to_datetime(told).astimezone(UTC) if told else None
    return None


def _words(off: timedelta) -> str:
    minutes = round(off.total_seconds() / 60)
    return f"{minutes} minutes" if minutes < 120 else f"{minutes / 60:.0f} hours"
