"""The golden phantoms: what each contract makes of one asymmetric image, down to the bit, and never turned.

`phantoms.txt` is written by `python tests/golden/test_phantoms.py` and read by eye before it is committed: the bright
block stands at the top left, the dark one at the bottom, left of the middle, and values grow to the right and down.
A change of one number in it is another preprocessing: raise ALGORITHM_VERSION.
"""

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

from client.dicom import read_image
from shared.preprocessing import Contract, golden_phantom, prepare

GOLDEN = Path(__file__).with_name("phantoms.txt")
SPACING_MM = (1.0, 1.5)
FILE_WINDOW = (600.0, 700.0)


STANDARD = (0.05, 0.15, 0.25, 0.35, 0.45, 0.5, 0.6, 0.75, 0.9)
CONTRACTS = [
    Contract(size=10, window=window, spacing_mm=spacing_mm, fit=fit, depth=depth, channels=1)
    for fit, window, depth, spacing_mm in itertools.product(
        ("pad", "crop"), ("dicom", "percentile", (500.0, 1000.0)), ("uint8", "uint16"), (0.0, 4.0)
    )
] + [
    Contract(size=10, window="percentile", spacing_mm=0.0, fit="pad", depth=depth, channels=1, standard=STANDARD)
    for depth in ("uint8", "uint16")
]


def prepared(phantom_HWC: NDArray[np.float32], contract: Contract) -> NDArray[Any]:
    """Prepare the phantom, as read from a file with a spacing and a window."""
    return prepare(phantom_HWC, spacing_mm=SPACING_MM, window=FILE_WINDOW, contract=contract)[0]


def label(contract: Contract) -> str:
    """Name a contract; without a standard as before there was one."""
    return str(contract).replace(", standard=()", "")


def written(contract: Contract) -> str:
    """Write one golden block: the contract, its digest and the rows."""
    rows = prepared(golden_phantom(), contract)
    width = 3 if contract.depth == "uint8" else 5
    lines = [" ".join(f"{value:{width}d}" for value in row) for row in rows]
    return "\n".join([label(contract), f"digest {contract.digest()}", *lines])


@pytest.mark.parametrize("contract", CONTRACTS, ids=label)
def test_the_phantom_is_prepared_to_the_bit(contract: Contract) -> None:
    """Pixels and digest are those that were committed, for every fit, window, depth and spacing."""
    blocks = GOLDEN.read_text(encoding="utf-8").rstrip().split("\n\n")
    golden = {block.partition("\n")[0]: block for block in blocks}
    assert written(contract) == golden[label(contract)]


TURNS: dict[str, Callable[[NDArray[np.float32]], NDArray[np.float32]]] = {
    "left-right flip": lambda image: image[:, ::-1],
    "top-bottom flip": lambda image: image[::-1],
    "transpose": lambda image: image.transpose(1, 0, 2),
    "half turn": lambda image: image[::-1, ::-1],
    "quarter turn": lambda image: np.rot90(image),
}


@pytest.mark.parametrize("turn", TURNS)
@pytest.mark.parametrize("contract", CONTRACTS, ids=label)
def test_a_turned_phantom_is_far_from_golden(contract: Contract, turn: str) -> None:
    """A preprocessing that flips or transposes can't pass: a tenth of the pixels or more would differ."""
    turned = prepared(TURNS[turn](golden_phantom()), contract)
    scale = np.iinfo(contract.dtype).max
    difference = np.abs(turned.astype(float) - prepared(golden_phantom(), contract)) / scale
    assert (difference > 0.1).mean() >= 0.1


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize("contract", CONTRACTS, ids=label)
def test_the_phantom_as_a_file_is_the_golden_phantom(tmp_path: Path, contract: Contract, photometric: str) -> None:
    """From a DICOM file to the cached array nothing turns, and MONOCHROME1 looks like MONOCHROME2."""
    image = read_image(phantom_file(tmp_path, photometric), frames="first")
    found = prepare(image.pixels_FHWC[0], spacing_mm=image.spacing_mm, window=image.window, contract=contract)
    np.testing.assert_array_equal(found[0], prepared(golden_phantom(), contract))


def phantom_file(folder: Path, photometric: str) -> Path:
    """Write the phantom as a 12-bit film, its window as the standard's LINEAR."""
    values = golden_phantom()[..., 0]
    film = Dataset()
    film.file_meta = FileMetaDataset()
    film.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    film.SOPClassUID, film.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.7", "1.2.826.0.1"
    film.Rows, film.Columns, film.SamplesPerPixel = *values.shape, 1
    film.BitsAllocated, film.BitsStored, film.HighBit, film.PixelRepresentation = 16, 12, 11, 0
    film.PhotometricInterpretation = photometric
    film.PixelSpacing = list(SPACING_MM)
    centre, width = FILE_WINDOW
    inverted = photometric == "MONOCHROME1"
    film.WindowCenter, film.WindowWidth = (4095 - centre if inverted else centre) + 0.5, width + 1
    film.PixelData = (4095 - values if inverted else values).astype("<u2").tobytes()
    film.save_as(folder / "phantom.dcm", enforce_file_format=True)
    return folder / "phantom.dcm"


if __name__ == "__main__":
    GOLDEN.write_text("\n\n".join(map(written, CONTRACTS)) + "\n", encoding="utf-8")
