"""Speed and memory, each measured beside what it is compared with, interleaved in one run."""
