"""A file's own window: VOI LUT, LINEAR, LINEAR_EXACT and SIGMOID, each value and each frame."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.pixels.processing import apply_modality_lut, apply_voi_lut

from client import cache
from client.dicom import read_frames, read_image
from client.refusals import Reason
from shared.grey_levels import LookUp, Sigmoid
from shared.preprocessing import Contract

Writer = Callable[..., Path]
TINY = {"Rows": 1, "Columns": 4}
OWN = Contract(size=64, window="dicom", spacing_mm=0, fit="pad", depth="uint8", channels=1)
RAMP = np.tile(np.arange(64, dtype="<u2") * 64, (64, 1))
GREY = {"Rows": 64, "Columns": 64, "BitsAllocated": 16, "BitsStored": 12}


def item(**attributes: Any) -> Dataset:
    """Give a data set with these attributes."""
    dataset = Dataset()
    for keyword, value in attributes.items():
        setattr(dataset, keyword, value)
    return dataset


def table(entries: np.ndarray, *, first: int, bits: int, vr: str = "US") -> Dataset:
    """Write one VOI LUT, an entry to a word."""
    dataset = Dataset()
    dataset.add_new("LUTDescriptor", vr, [len(entries) % 2**16, first, bits])
    dataset.add_new("LUTData", "OW", entries.astype("<u2").tobytes())
    return dataset


def prepared(path: Path, contract: Contract = OWN) -> np.ndarray:
    """Prepare the first frame; it must be readable."""
    found = cache._prepare_file(path, contract=contract, frames="first", read=read_frames)
    assert not isinstance(found, Reason)
    return found[0, 0].astype(int)


def by_pydicom(path: Path) -> np.ndarray:
    """Let pydicom apply modality LUT and VOI, and bring what it gives to 0 to 255."""
    dataset = pydicom.dcmread(path)
    values = apply_modality_lut(dataset.pixel_array, dataset)
    with np.errstate(over="ignore"):
        shown = apply_voi_lut(values.astype(np.int32) if "VOILUTSequence" in dataset else values, dataset).astype(float)
    top = 2.0 ** dataset.VOILUTSequence[0].LUTDescriptor[2] - 1 if "VOILUTSequence" in dataset else None
    if top is None:  # pydicom's windows reach from the lowest to the highest value that the stored bits can have
        slope, intercept = (
            float(dataset.get(word, start)) for word, start in (("RescaleSlope", 1), ("RescaleIntercept", 0))
        )
        low, high = intercept, (2**dataset.BitsStored - 1) * slope + intercept
        return np.rint((shown - low) / (high - low) * 255).astype(int)
    return np.rint(shown / top * 255).astype(int)


CURVE = np.rint(65535 * (np.arange(4096) / 4095) ** 3)
OWN_WINDOWS: dict[str, dict[str, Any]] = {
    "LINEAR": {"WindowCenter": 2048, "WindowWidth": 1500},
    "LINEAR, named": {"WindowCenter": 1000, "WindowWidth": 1, "VOILUTFunction": "LINEAR"},
    "LINEAR_EXACT": {"WindowCenter": 2048.5, "WindowWidth": 1500.5, "VOILUTFunction": "LINEAR_EXACT"},
    "SIGMOID": {"WindowCenter": 2048, "WindowWidth": 1500, "VOILUTFunction": "SIGMOID"},
    "SIGMOID, narrow": {"WindowCenter": 2048, "WindowWidth": 1, "VOILUTFunction": "SIGMOID"},
    "two windows": {"WindowCenter": [1000, 3000], "WindowWidth": [800, 20]},
    "LUT": {"VOILUTSequence": [table(CURVE, first=0, bits=16)]},
    "LUT that begins late": {"VOILUTSequence": [table(CURVE[:2000], first=1000, bits=16)]},
    "LUT of ten bits": {"VOILUTSequence": [table(np.arange(1024)[::-1], first=700, bits=10)]},
    "two LUTs": {"VOILUTSequence": [table(CURVE, first=0, bits=16), table(CURVE[::-1], first=0, bits=16)]},
    "LUT before a window": {
        "VOILUTSequence": [table(CURVE, first=0, bits=16)],
        "WindowCenter": 2048,
        "WindowWidth": 1500,
    },
    "behind a rescale": {
        "VOILUTSequence": [table(CURVE, first=-1024, bits=16, vr="SS")],
        "RescaleSlope": 1,
        "RescaleIntercept": -1024,
    },
    "SIGMOID behind a rescale": {
        "WindowCenter": 500,
        "WindowWidth": 1500,
        "VOILUTFunction": "SIGMOID",
        "RescaleSlope": 2,
        "RescaleIntercept": -1024,
    },
}


@pytest.mark.parametrize("name", OWN_WINDOWS)
def test_the_prepared_image_has_the_grey_levels_of_the_standard(write_dicom: Writer, name: str) -> None:
    """With window = "dicom", each value has the grey that pydicom gives it, within a level of rounding."""
    path = write_dicom(RAMP.tobytes(), **GREY, **OWN_WINDOWS[name])
    assert np.abs(prepared(path) - by_pydicom(path)).max() <= 1


@pytest.mark.parametrize("name", OWN_WINDOWS)
def test_monochrome1_is_the_same_image_inverted(write_dicom: Writer, name: str) -> None:
    """A window applies before the inversion: what MONOCHROME2 shows dark, MONOCHROME1 shows bright."""
    path = write_dicom(RAMP.tobytes(), **GREY, **OWN_WINDOWS[name])
    bright = prepared(path)
    inverted = write_dicom(RAMP.tobytes(), **GREY, **OWN_WINDOWS[name] | {"PhotometricInterpretation": "MONOCHROME1"})
    # A window of one value has no middle: at the edge itself it is one or the other.
    edge = RAMP == 1024 if "named" in name else np.zeros_like(RAMP, bool)
    assert np.abs(prepared(inverted) - (255 - bright))[~edge].max() <= 1


@pytest.mark.parametrize(
    ("attributes", "window"),
    [
        ({}, None),
        ({"WindowCenter": 40, "WindowWidth": 400}, (39.5, 399)),
        ({"WindowCenter": [40, -600], "WindowWidth": [400, 1500]}, (39.5, 399)),
        ({"WindowCenter": 40, "WindowWidth": 400, "VOILUTFunction": "LINEAR_EXACT"}, (40, 400)),
        ({"WindowCenter": 40, "WindowWidth": 400, "VOILUTFunction": "SIGMOID"}, Sigmoid(centre=40, width=400)),
        ({"WindowCenter": 0.4, "WindowWidth": 0.5}, (0.4, 0.5)),
        ({"WindowCenter": 0.4, "WindowWidth": 0.5, "VOILUTFunction": "LINEAR"}, (0.4, 0.5)),
        ({"WindowCenter": 40, "WindowWidth": 1}, (39.5, 0)),
        ({"WindowCenter": 40, "WindowWidth": 0}, None),
        ({"WindowCenter": [40, 50], "WindowWidth": [0, 100]}, (49.5, 99)),
        ({"WindowCenter": 40}, None),
        ({"WindowCenter": "", "WindowWidth": ""}, None),
    ],
)
def test_the_first_window_that_is_one_is_read(write_dicom: Writer, attributes: dict[str, Any], window: Any) -> None:
    """LINEAR becomes (centre, width) of LINEAR_EXACT, unless it is narrower than LINEAR can be (real PET files)."""
    assert read_image(write_dicom(bytes(4), **TINY, **attributes), frames="first").window == window


def test_a_linear_window_narrower_than_one_leaves_all_its_grey_levels(write_dicom: Writer) -> None:
    """PET in units of its own: values from 0 to .5, a LINEAR window of .5, and not two grey levels."""
    path = write_dicom(
        RAMP.tobytes(),
        **GREY,
        Modality="PT",
        RescaleSlope=0.5 / 4095,
        RescaleIntercept=0,
        WindowCenter=0.25,
        WindowWidth=0.5,
    )
    expected = np.rint(RAMP / 4095 * 255)
    assert np.abs(prepared(path) - expected).max() <= 1


@pytest.mark.parametrize(
    "broken",
    [
        {"VOILUTSequence": [table(CURVE[:100], first=0, bits=0)]},
        {"VOILUTSequence": [item(LUTExplanation="nothing else")]},
        {"WindowCenter": 40, "WindowWidth": 400, "VOILUTFunction": "IDENTITY"},
    ],
)
def test_a_window_that_cannot_be_read_counts_where_it_is_asked_for(write_dicom: Writer, broken: dict[str, Any]) -> None:
    """Under "dicom" the image is refused, and never shown with another window; under "percentile" it is read."""
    if "VOILUTSequence" in broken and "LUTDescriptor" in broken["VOILUTSequence"][0]:
        broken["VOILUTSequence"][0].LUTDescriptor = [3000, 0, 16]  # more entries than there are
    path = write_dicom(RAMP.tobytes(), **GREY, **broken)
    assert cache._prepare_file(path, contract=OWN, frames="first", read=read_frames) is Reason.MALFORMED
    percentile = Contract(size=64, window="percentile", spacing_mm=0, fit="pad", depth="uint8", channels=1)
    np.testing.assert_array_equal(prepared(path, percentile), prepared(write_dicom(RAMP.tobytes(), **GREY), percentile))


def test_every_frame_has_its_own_window_rescale_and_spacing(write_dicom: Writer) -> None:
    """A frame in a multi-frame object is prepared as the same frame in a file of its own."""
    stack = np.stack([RAMP, RAMP // 4, RAMP // 2]).astype("<u2")
    groups = [
        item(
            FrameVOILUTSequence=[item(WindowCenter="2000", WindowWidth="4000")],
            PixelMeasuresSequence=[item(PixelSpacing=["1", "1"])],
            PixelValueTransformationSequence=[item(RescaleSlope=1, RescaleIntercept=0, RescaleType="US")],
        ),
        item(
            FrameVOILUTSequence=[item(WindowCenter="900", WindowWidth="1000", VOILUTFunction="SIGMOID")],
            PixelMeasuresSequence=[item(PixelSpacing=["0.5", "0.25"])],
            PixelValueTransformationSequence=[item(RescaleSlope=3, RescaleIntercept=-50, RescaleType="US")],
        ),
        item(FrameVOILUTSequence=[item(VOILUTSequence=[table(CURVE, first=0, bits=16)])]),
    ]
    shared = item(PixelMeasuresSequence=[item(PixelSpacing=["0.75", "0.75"])])
    every = {"SharedFunctionalGroupsSequence": [shared], "Modality": "MR"}
    for contract in (OWN, Contract(size=64, window="dicom", spacing_mm=1, fit="pad", depth="uint8", channels=1)):
        whole = write_dicom(stack.tobytes(), **GREY, **every, NumberOfFrames=3, PerFrameFunctionalGroupsSequence=groups)
        together = cache._prepare_file(whole, contract=contract, frames="all", read=read_frames)
        assert not isinstance(together, Reason)
        for frame, group in enumerate(groups):
            single = write_dicom(
                stack[frame].tobytes(), **GREY, **every, NumberOfFrames=1, PerFrameFunctionalGroupsSequence=[group]
            )
            np.testing.assert_array_equal(together[frame, 0], prepared(single, contract))
    assert [frame.spacing_mm for frame in read_image(whole, frames="all").frames] == [
        (1, 1),
        (0.5, 0.25),
        (0.75, 0.75),
    ]


def test_the_windows_of_frames_have_their_own_kinds(write_dicom: Writer) -> None:
    """What the frame's own group says comes before the shared one, and that before the object's own attributes."""
    path = write_dicom(
        bytes(8),
        **TINY,
        NumberOfFrames=2,
        WindowCenter=9,
        WindowWidth=9,
        SharedFunctionalGroupsSequence=[item(FrameVOILUTSequence=[item(WindowCenter=5, WindowWidth=3)])],
        PerFrameFunctionalGroupsSequence=[
            item(FrameVOILUTSequence=[item(VOILUTSequence=[table(np.arange(4), first=0, bits=2)])]),
            item(),
        ],
    )
    first, second = (frame.window for frame in read_image(path, frames="all").frames)
    assert isinstance(first, LookUp)
    assert second == (4.5, 2)


def test_a_table_for_negative_values_may_be_written_as_unsigned(write_dicom: Writer) -> None:
    """Where the modality LUT gives negative values, the first that a table maps is signed, whatever its VR says."""
    rescale = {"RescaleSlope": 1, "RescaleIntercept": -1024}
    as_signed = [table(CURVE, first=-1024, bits=16, vr="SS")]
    as_unsigned = [table(CURVE, first=2**16 - 1024, bits=16)]
    signed, unsigned = (
        prepared(write_dicom(RAMP.tobytes(), **GREY, **rescale, VOILUTSequence=tables))
        for tables in (as_signed, as_unsigned)
    )
    np.testing.assert_array_equal(signed, unsigned)


@pytest.mark.parametrize("packed", [True, False])
def test_entries_of_eight_bits_stand_two_to_a_word_or_alone(write_dicom: Writer, packed: bool) -> None:
    """Both occur, and the length tells; below the table is its first entry, above it the last."""
    entries = table(np.arange(256)[::-1], first=1900, bits=8)
    if packed:
        entries.LUTData = bytes(range(256))[::-1]
    expected = 255 - (RAMP.astype(int) - 1900).clip(0, 255)
    found = prepared(write_dicom(RAMP.tobytes(), **GREY, VOILUTSequence=[entries]))
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("bits", [8, 10, 12])
def test_a_table_that_states_the_size_of_a_word_is_not_black(write_dicom: Writer, bits: int) -> None:
    """Sixteen bits are stated, the entries have fewer (dcm4che issue 413): they reach white all the same."""
    curve = np.rint((2**bits - 1) * (np.arange(4096) / 4095) ** 2)
    wide, narrow = (
        prepared(write_dicom(RAMP.tobytes(), **GREY, VOILUTSequence=[table(curve, first=0, bits=stated)]))
        for stated in (16, bits)
    )
    assert wide.max() > 240
    np.testing.assert_array_equal(wide, narrow)


@pytest.mark.parametrize("vr", ["US", "SS", "OW"])
@pytest.mark.parametrize("first", [0, 40000])
def test_entries_are_the_same_under_each_vr(write_dicom: Writer, vr: str, first: int) -> None:
    """Words, numbers, and the numbers below zero of older editions; the first value of unsigned pixels is unsigned."""
    curve = np.arange(16, dtype="<u2") * 4369
    lut = table(curve, first=first, bits=16)
    del lut.LUTData
    lut.add_new("LUTData", vr, {"OW": curve.tobytes(), "US": curve.tolist(), "SS": curve.astype("<i2").tolist()}[vr])
    ramp = (np.arange(64 * 64).reshape(64, 64) % 16 + first).astype("<u2")
    path = write_dicom(ramp.tobytes(), **GREY | {"BitsStored": 16}, VOILUTSequence=[lut])
    np.testing.assert_array_equal(prepared(path), (ramp.astype(int) - first) * 17)


def test_a_group_that_lacks_a_window_hides_none(write_dicom: Writer) -> None:
    """A frame's group may hold a comment alone, or an empty or impossible window: the shared one, or the object's."""
    shared = [item(FrameVOILUTSequence=[item(WindowCenter=5, WindowWidth=3, VOILUTFunction="LINEAR_EXACT")])]
    comment = item(FrameVOILUTSequence=[item(WindowCenterWidthExplanation="LUNG")])
    frames = [
        item(FrameVOILUTSequence=[item(WindowCenter=7, WindowWidth=2)]),
        comment,
        item(FrameVOILUTSequence=[item(WindowCenter="", WindowWidth="")]),
        item(FrameVOILUTSequence=[item(WindowCenter=7, WindowWidth=0)]),
        item(FrameVOILUTSequence=[]),
    ]
    own = {"WindowCenter": 9, "WindowWidth": 4, "VOILUTFunction": "LINEAR_EXACT"}
    for groups, expected in ((shared, (5, 3)), ([comment], (9, 4)), ([], (9, 4))):
        path = write_dicom(
            bytes(4 * len(frames)),
            **TINY,
            **own,
            NumberOfFrames=len(frames),
            SharedFunctionalGroupsSequence=groups,
            PerFrameFunctionalGroupsSequence=frames,
        )
        found = [frame.window for frame in read_image(path, frames="all").frames]
        assert found == [(6.5, 1), *[expected] * 4]


def test_a_function_is_that_of_its_window_or_stands_alone(write_dicom: Writer) -> None:
    """A shared group with nothing but SIGMOID means the windows of the frames; that of another window does not."""
    frame = item(FrameVOILUTSequence=[item(WindowCenter=5, WindowWidth=3)])
    alone = item(FrameVOILUTSequence=[item(VOILUTFunction="SIGMOID")])
    with_window = item(FrameVOILUTSequence=[item(WindowCenter=7, WindowWidth=2, VOILUTFunction="SIGMOID")])
    for shared, expected in ((alone, Sigmoid(centre=5, width=3)), (with_window, (4.5, 2))):
        path = write_dicom(
            bytes(4), **TINY, SharedFunctionalGroupsSequence=[shared], PerFrameFunctionalGroupsSequence=[frame]
        )
        assert read_image(path, frames="first").window == expected
