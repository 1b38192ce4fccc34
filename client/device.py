"""Where to compute, as a person says it."""

from typing import Literal

Device = Literal["auto", "cpu", "cuda"]
"""`auto` is a CUDA device where there is one."""
