"""Amounts as words: one of a thing is no plural, and nothing small is rounded to nothing."""

import math

UNITS = ("bytes", "kB", "MB", "GB", "TB")


def counted(number: int, thing: str) -> str:
    """Count things: "1 round", "2 rounds", "1,000 rounds"."""
    return f"{number:,} {thing}{'' if number == 1 else 's'}"


def at_most(size: float) -> str:
    """Write a size in bytes, rounded up, in the unit in which it has a digit before the point: never 0.0 of one."""
    step = 0
    while size >= 1000 and step < len(UNITS) - 1:
        size, step = size / 1000, step + 1
    return f"{math.ceil(size):d} bytes" if step == 0 else f"{math.ceil(10 * size) / 10:.1f} {UNITS[step]}"


def fewer_than(least: int, thing: str) -> str:
    """Say "fewer than 10 patients"; fewer than one of them is none."""
    return f"fewer than {least:,} {thing}s" if least > 1 else f"no {thing}s"
