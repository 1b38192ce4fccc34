"""Fixtures of the client's tests: a writer of real DICOM files, and of small hospitals made of them."""

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from client.site import SiteConfig, read_site

SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"


def _dataset(pixels: bytes | list[bytes] | None, syntax: str, attributes: dict[str, Any]) -> Dataset:
    defaults: dict[str, Any] = {
        "SOPClassUID": SECONDARY_CAPTURE,
        "SOPInstanceUID": "1.2.826.0.1.1",
        "StudyInstanceUID": "1.2.826.0.1.2",
        "AccessionNumber": "ACC^7",
        "PatientID": "PAT^7",
        "PatientName": "Secret^Name",
        "Modality": "OT",
        "Manufacturer": "Polyclinic",
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "PixelRepresentation": 0,
    }
    allocated = attributes.get("BitsAllocated", 8)
    stored = attributes.get("BitsStored", allocated)
    defaults |= {"BitsAllocated": allocated, "BitsStored": stored, "HighBit": stored - 1}
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = syntax
    for keyword, value in (defaults | attributes).items():
        if value is not None:
            setattr(dataset, keyword, value)
    if pixels is None:
        return dataset
    dataset.PixelData = encapsulate(pixels) if isinstance(pixels, list) else pixels + b"\0" * (len(pixels) % 2)
    dataset["PixelData"].VR = "OB" if isinstance(pixels, list) or dataset.BitsAllocated <= 8 else "OW"
    return dataset


@pytest.fixture(scope="session")
def write_dicom(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Give `write(pixels, syntax=..., **attributes)`.

    It writes a new file from raw bytes, a list of encoded frames, or None; an attribute that is None is left out.
    """
    folder = tmp_path_factory.mktemp("dicom")
    numbers = itertools.count()

    def write(pixels: bytes | list[bytes] | None, *, syntax: str = ExplicitVRLittleEndian, **attributes: Any) -> Path:
        path = folder / f"{next(numbers) % 8}.dcm"
        _dataset(pixels, syntax, attributes).save_as(
            path,
            implicit_vr=syntax == ImplicitVRLittleEndian,
            little_endian=syntax != ExplicitVRBigEndian,
            enforce_file_format=True,
        )
        return path

    return write


class Hospital:
    """A small hospital on disk: DICOM files, a label table and a site.toml, each written as a test asks."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.dicom = folder / "dicom"
        self.dicom.mkdir(parents=True)

    def image(self, relative: str, *, patient: str, exam: str, seed: int = 0, **attributes: Any) -> Path:
        """Write an 8 x 8 film of noise; its UIDs are made of `exam` and of its path."""
        path = self.dicom / relative
        path.parent.mkdir(parents=True, exist_ok=True)
        frames = int(attributes.get("NumberOfFrames", 1))
        noise = np.random.default_rng(seed).integers(0, 256, (frames, 8, 8), dtype=np.uint8)
        own = {
            "Rows": 8,
            "Columns": 8,
            "Modality": "DX",
            "PatientID": patient,
            "StudyInstanceUID": f"1.2.{exam}",
            "AccessionNumber": f"A{exam}",
            "SOPInstanceUID": f"1.3.{int.from_bytes(relative.encode()[-12:], 'big')}",
        }
        dataset = _dataset(noise.tobytes(), ExplicitVRLittleEndian, own | attributes)
        dataset.save_as(path, enforce_file_format=True)
        return path

    def labels(self, *rows: str, name: str = "labels.csv", encoding: str = "utf-8") -> Path:
        """Write the label table, a line a row."""
        path = self.folder / name
        path.write_bytes("\n".join([*rows, ""]).encode(encoding))
        return path

    def site(self, *, join: str, labels: str = "labels.csv", key: str = "", **findings: str) -> SiteConfig:
        """Write and read the site.toml."""
        lines = ['[site]\nname = "north"', f'[data]\ndicom = "dicom"\nlabels = "{labels}"\njoin = "{join}"']
        lines += [f'key = "{key}"'] if key else []
        lines += ["[data.findings]", *(f'{finding} = "{column}"' for finding, column in findings.items())]
        lines += ["[compute]\nworkers = 1"]
        (self.folder / "site.toml").write_text("\n".join(lines))
        return read_site(self.folder / "site.toml")


@pytest.fixture
def hospital(tmp_path: Path) -> Hospital:
    """Give an empty hospital."""
    return Hospital(tmp_path / "hospital")
