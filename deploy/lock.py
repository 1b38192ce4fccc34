"""Writes the hashes of all files that may be installed into constraints.txt and constraints-cuda.txt.

    python deploy/lock.py        # with uv on the PATH (.venv/bin has one); asks the package index

The versions stay those that stand there. Hashes are of the files for CPython 3.11 to 3.13 on Linux (x86_64, aarch64)
and on macOS (arm64), as PyPI lists them, and of BESIDES.
"""

import re
import subprocess
import tempfile
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
FILES = ("constraints.txt", "constraints-cuda.txt")

PYTHON = r"(py3|py2\.py3|py3\d+)-none|cp31[123]-cp31[123]|cp3\d+-abi3|cp31[123]-none"
PLATFORM = r"any|[\w.]*manylinux[\w.]*_(x86_64|aarch64)|macosx_[\w.]*_(arm64|universal2)"
WANTED = re.compile(rf"-({PYTHON})-({PLATFORM})\.whl$")

BESIDES = {
    # torch-2.13.0+cpu-cp311-cp311-manylinux_2_28_x86_64.whl of https://download.pytorch.org/whl/cpu, the CPU build
    "torch": ["6746dbcbeb526eb61330b76b41ff1b4eb848951103a892eeb080dfa2b264667b"],
}
"""Hashes of files that lie elsewhere. None was at hand of the CPU build for aarch64: PyPI's is taken there."""


def locked(pins: list[str]) -> str:
    """Ask the index for the files of exact versions, and write a line for each with their hashes."""
    with tempfile.TemporaryDirectory() as folder:
        wanted, found = Path(folder, "pins.txt"), Path(folder, "pylock.toml")
        wanted.write_text("\n".join(pins))
        command = ["uv", "pip", "compile", wanted, "--no-deps", "--universal", "--python-version", "3.11"]
        ask = [*command, "--format", "pylock.toml", "--default-index", "https://pypi.org/simple", "-o", found]
        subprocess.run(ask, check=True, stdout=subprocess.DEVNULL)  # noqa: S603  # words of our own
        packages = tomllib.loads(found.read_text())["packages"]
    lines = []
    for package in sorted(packages, key=lambda package: package["name"]):
        files = [wheel for wheel in package.get("wheels", ()) if WANTED.search(wheel["url"])]
        hashes = sorted({wheel["hashes"]["sha256"] for wheel in files} | {*BESIDES.get(package["name"], ())})
        if not hashes:
            raise SystemExit(f"{package['name']}: no file for these platforms.")
        lines.append(
            " \\\n".join([f"{package['name']}=={package['version']}", *(f"    --hash=sha256:{one}" for one in hashes)])
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    """Write both files again."""
    for name in FILES:
        text = (ROOT / name).read_text()
        head = "".join(line for line in text.splitlines(keepends=True) if line.startswith("#"))
        pins = re.findall(r"^[A-Za-z0-9][\w.-]*==[\w.+!]+", text, flags=re.MULTILINE)
        (ROOT / name).write_text(head + locked(pins))


if __name__ == "__main__":
    main()
