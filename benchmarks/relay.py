"""Relaying a ResNet-50 to the agent and its like back, timed inside the courier, and how much memory that takes."""

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from benchmarks.record import Record, Target
from benchmarks.sides import median_of
from benchmarks.workload import Scale
from client.agent_service import AgentService

SECONDS = Target(limit=3.0, side="at most")
BEFORE = Target(limit=300.0, side="at most")

RESNET50_ARRAYS, RESNET50_PARAMETERS = 161, 25_557_032
"""Trainable arrays and parameters of torchvision's resnet50: 102 MB in fp32."""

COURIER = """
import json, sys, time
from pathlib import Path
import numpy as np
from client.courier import relay
from shared.messages import Header, Kind, TrainTask, encode_task

def memory(key):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key)) / 1024

socket, arrays, elements, times = sys.argv[1], *map(int, sys.argv[2:])
before = memory("VmRSS")
rng = np.random.default_rng(0)
named = {f"w{place}": rng.random(elements, dtype=np.float32) for place in range(arrays)}
header = Header(protocol_digest="d", run_id="run", round=1, site="north", kind=Kind.TRAIN)
content = encode_task(TrainTask(header=header, arrays=named))
del named
payload, seconds = memory("VmRSS") - before, []
for _ in range(times):
    began = time.perf_counter()
    relay(content, socket=Path(socket), wait_seconds=0)
    seconds.append(time.perf_counter() - began)
print(json.dumps({"before": before, "payload": payload, "peak": memory("VmHWM"), "seconds": seconds}))
"""
"""A courier without Flower's messages around it: the process holds one task, and one reply while it is put together."""


def run(scale: Scale) -> Iterator[Record]:
    """Relay the same task some times to an agent that sends it back as it came."""
    arrays = RESNET50_ARRAYS if scale.aggregated == "resnet50" else 3
    elements = RESNET50_PARAMETERS // RESNET50_ARRAYS if scale.aggregated == "resnet50" else 1000
    with tempfile.TemporaryDirectory() as folder:
        service = AgentService(Path(folder) / "agent.sock", _echo)
        service.start()
        try:
            words = (str(Path(folder) / "agent.sock"), str(arrays), str(elements), str(scale.pairs))
            command = [sys.executable, "-c", COURIER, *words]
            done = subprocess.run(command, capture_output=True, text=True, check=True)  # noqa: S603  # our own program
        finally:
            service.stop()
    found = json.loads(done.stdout)
    megabytes = arrays * elements * 4 / 1e6
    yield Record(
        name="relay",
        value=median_of(found["seconds"]).value,
        unit="s",
        target=SECONDS,
        against=f"{megabytes:.0f} MB to the agent and as much back; {median_of(found['seconds'])}",
    )
    yield Record(
        name="relay_memory_before",
        value=found["before"],
        unit="MiB",
        target=BEFORE,
        against="a courier that was started, before its first message",
    )
    yield Record(
        name="relay_memory_peak",
        value=found["peak"],
        unit="MiB",
        against=f"{found['before']:.0f} before, a task takes {found['payload']:.0f}, and its reply as much again",
    )


def _echo(frames: Iterable[bytes]) -> Iterator[bytes]:
    """Stand in for an agent that takes all of a task before it answers."""
    yield from list(frames)
