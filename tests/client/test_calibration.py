"""What a header says of its stored values: spacing, padding, functional groups."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import ImplicitVRLittleEndian

from client.calibration import lookup_table
from client.dicom import read_image
from client.refusals import Reason, Unreadable

Writer = Callable[..., Path]
TINY = {"Rows": 1, "Columns": 4}


def item(**attributes: Any) -> Dataset:
    """Give a data set with these attributes."""
    dataset = Dataset()
    for keyword, value in attributes.items():
        setattr(dataset, keyword, value)
    return dataset


@pytest.mark.parametrize(
    ("attributes", "spacing"),
    [
        ({}, None),
        ({"PixelSpacing": [0.2, 0.3]}, (0.2, 0.3)),
        ({"ImagerPixelSpacing": [0.1, 0.1]}, (0.1, 0.1)),
        ({"PixelSpacing": [0.2, 0.3], "ImagerPixelSpacing": [0.1, 0.1]}, (0.2, 0.3)),
        ({"PixelSpacing": [0, 0], "NominalScannedPixelSpacing": [0.4, 0.4]}, (0.4, 0.4)),
        ({"PixelSpacing": [0.2]}, None),
        ({"PixelSpacing": [0.2, 0.3, 0.4]}, None),
    ],
)
def test_spacing_is_rows_then_columns_from_the_best_source(
    write_dicom: Writer, attributes: dict[str, Any], spacing: tuple[float, float] | None
) -> None:
    """The patient's spacing comes before the detector's; zeros and single numbers count as absent."""
    assert read_image(write_dicom(bytes(4), **TINY, **attributes), frames="first").spacing_mm == spacing


def test_functional_groups_calibrate_each_frame(write_dicom: Writer) -> None:
    """An enhanced object's frames have their own slope; shared groups serve those without their own."""
    rescales = [item(RescaleSlope=slope, RescaleIntercept=-1024, RescaleType="HU") for slope in (1, 2)]
    shared = item(
        PixelMeasuresSequence=[item(PixelSpacing=[0.5, 0.6])],
        FrameVOILUTSequence=[item(WindowCenter=50, WindowWidth=100, VOILUTFunction="LINEAR_EXACT")],
    )
    path = write_dicom(
        bytes([0, 10, 20, 30] * 2),
        **TINY,
        Modality="CT",
        NumberOfFrames=2,
        SharedFunctionalGroupsSequence=[shared],
        PerFrameFunctionalGroupsSequence=[item(PixelValueTransformationSequence=[rescale]) for rescale in rescales],
    )
    image = read_image(path, frames="all")
    assert image.pixels_FHWC[0, 0, :, 0].tolist() == [-1024, -1014, -1004, -994]
    assert image.pixels_FHWC[1, 0, :, 0].tolist() == [-1024, -1004, -984, -964]
    assert (image.spacing_mm, image.window) == ((0.5, 0.6), (50, 100))
    second = read_image(path, frames="middle").pixels_FHWC
    np.testing.assert_array_equal(second[0], image.pixels_FHWC[1])


@pytest.mark.parametrize("declared", [True, False])
def test_computed_tomography_reads_its_padding_as_air(write_dicom: Writer, declared: bool) -> None:
    """-2000 outside the scanned circle is air, whether or not the file says that it is padding."""
    stored = np.array([-2000, 0, 24, 1024], "<i2")
    path = write_dicom(
        stored.tobytes(),
        **TINY,
        Modality="CT",
        BitsAllocated=16,
        PixelRepresentation=1,
        RescaleSlope=1,
        RescaleIntercept=-1024,
        PixelPaddingValue=-2000 if declared else None,
    )
    image = read_image(path, frames="first")
    assert image.pixels_FHWC.ravel().tolist() == [-1024, -1024, -1000, 0]


@pytest.mark.parametrize("signed", [True, False])
def test_a_padding_value_is_as_signed_as_the_pixels(write_dicom: Writer, signed: bool) -> None:
    """Implicit VR does not say whether a padding value is signed; the pixels do."""
    stored = np.array([5, 63536, 7, 9], "<u2")
    path = write_dicom(
        stored.tobytes(),
        syntax=ImplicitVRLittleEndian,
        **TINY,
        BitsAllocated=16,
        PixelRepresentation=int(signed),
        PixelPaddingValue=-2000 if signed else 63536,
    )
    assert read_image(path, frames="first").pixels_FHWC.ravel().tolist() == [5, 5, 7, 9]


@pytest.mark.parametrize("value", [63536, 4096, 65535])
def test_padding_that_no_pixel_can_hold_marks_none(write_dicom: Writer, value: int) -> None:
    """-2000 of 16 bits in a CT of 12 is not 2096, which is bone."""
    stored = np.array([0, 1064, 2096, 4095], "<u2")
    path = write_dicom(
        stored.tobytes(),
        **TINY,
        Modality="CT",
        BitsAllocated=16,
        BitsStored=12,
        RescaleSlope=1,
        RescaleIntercept=-1024,
        PixelPaddingValue=value,
    )
    assert read_image(path, frames="first").pixels_FHWC.ravel().tolist() == [-1024, 40, 1072, 3071]


def test_a_range_of_padding_counts_as_far_as_pixels_reach(write_dicom: Writer) -> None:
    """One end that no pixel can hold does not take the range away."""
    path = write_dicom(
        np.array([5, 4000, 7, 4095], "<u2").tobytes(),
        **TINY,
        BitsAllocated=16,
        BitsStored=12,
        PixelPaddingValue=4000,
        PixelPaddingRangeLimit=65535,
    )
    assert read_image(path, frames="first").pixels_FHWC.ravel().tolist() == [5, 5, 7, 5]


def test_a_slope_of_zero_is_malformed(write_dicom: Writer) -> None:
    """A rescale that would make every image constant is refused."""
    with pytest.raises(Unreadable) as refusal:
        read_image(write_dicom(bytes(4), **TINY, RescaleSlope=0, RescaleIntercept=0), frames="first")
    assert refusal.value.reason is Reason.MALFORMED


def test_a_rescale_that_is_no_number_gives_no_image(write_dicom: Writer) -> None:
    """An infinite slope is refused as not finite."""
    path = write_dicom(bytes([1, 2, 3, 4]), **TINY, RescaleSlope=float("inf"), RescaleIntercept=0)
    with pytest.raises(Unreadable) as refusal:
        read_image(path, frames="first")
    assert refusal.value.reason is Reason.NOT_FINITE


@pytest.mark.parametrize("value", [b"\x01\x02\x03\x04", [513, 1027]])
def test_a_table_is_read_from_bytes_and_from_numbers(value: Any) -> None:
    """LUTData may be OW or US; the first mapped value of signed pixels may be written as unsigned."""
    dataset = item(PixelRepresentation=1)
    dataset.set_original_encoding(False, True)
    table = Dataset()
    table.add_new("LUTDescriptor", "US", [2, 2**16 - 3, 16])
    table.add_new("LUTData", "OW" if isinstance(value, bytes) else "US", value)
    first, entries = lookup_table(table, descriptor="LUTDescriptor", entries="LUTData", dataset=dataset, signed=True)
    assert (first, entries.tolist()) == (-3, [513, 1027])


def test_a_table_of_65536_entries_is_announced_as_none() -> None:
    """A count of 0 means 2^16 entries (C.11.1.1)."""
    dataset = item(PixelRepresentation=0)
    dataset.set_original_encoding(False, True)
    table = Dataset()
    table.add_new("LUTDescriptor", "US", [0, 0, 16])
    table.add_new("LUTData", "OW", np.arange(2**16, dtype="<u2").tobytes())
    _, entries = lookup_table(table, descriptor="LUTDescriptor", entries="LUTData", dataset=dataset, signed=False)
    assert len(entries) == 2**16


def test_a_group_that_lacks_an_attribute_hides_none(write_dicom: Writer) -> None:
    """Slope, intercept and spacing: what a frame's group has comes first, what it lacks is looked for behind it."""
    frames = [
        item(PixelMeasuresSequence=[item(SliceThickness=3)], PixelValueTransformationSequence=[item(RescaleType="US")]),
        item(
            PixelMeasuresSequence=[item(PixelSpacing=[0, 0])], PixelValueTransformationSequence=[item(RescaleSlope=4)]
        ),
        item(PixelMeasuresSequence=[item(PixelSpacing=[2, 3])], PixelValueTransformationSequence=[]),
        item(PixelValueTransformationSequence=[item(RescaleSlope="", RescaleIntercept=7)]),
    ]
    shared = item(
        PixelMeasuresSequence=[item(PixelSpacing=[0.5, 0.6])],
        PixelValueTransformationSequence=[item(RescaleSlope=2, RescaleIntercept=-10)],
    )
    empty = item(
        PixelMeasuresSequence=[item(SliceThickness=3)], PixelValueTransformationSequence=[item(RescaleType="US")]
    )
    top = {"PixelSpacing": [0.5, 0.6], "RescaleSlope": 2, "RescaleIntercept": -10}
    for group, own in ((shared, {}), (empty, top)):
        path = write_dicom(
            bytes([1] * 4 * len(frames)),
            **TINY,
            **own,
            NumberOfFrames=len(frames),
            SharedFunctionalGroupsSequence=[group],
            PerFrameFunctionalGroupsSequence=frames,
        )
        found = read_image(path, frames="all").frames
        assert [float(frame.pixels_HWC[0, 0, 0]) for frame in found] == [-8, -6, -8, 9]
        assert [frame.spacing_mm for frame in found] == [(0.5, 0.6), (0.5, 0.6), (2, 3), (0.5, 0.6)]


def test_a_frames_own_rescale_comes_before_the_objects_table(write_dicom: Writer) -> None:
    """A modality LUT of the object is that of frames without a slope of their own."""
    lut = item(LUTDescriptor=[2, 0, 16], LUTData=np.array([100, 200], "<u2").tobytes(), ModalityLUTType="US")
    path = write_dicom(
        bytes([1] * 8),
        **TINY,
        NumberOfFrames=2,
        ModalityLUTSequence=[lut],
        PerFrameFunctionalGroupsSequence=[
            item(PixelValueTransformationSequence=[item(RescaleSlope=5, RescaleIntercept=1)]),
            item(PixelValueTransformationSequence=[item(RescaleType="US")]),
        ],
    )
    assert read_image(path, frames="all").pixels_FHWC[:, 0, 0, 0].tolist() == [6, 200]
