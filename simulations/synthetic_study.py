"""The four fake hospitals of a synthetic study, with a planted shift and a planted shortcut; and a plain one."""

from simulations.dicom_writer import Encoding
from simulations.scanner import Scanner
from simulations.synthetic_site import LabelStyle, SyntheticSite

SHIFTED, MARKED = "south", "east"
"""Which hospital of a synthetic study has the planted shift, and which the planted shortcut."""


def plain_hospital(name: str, *, patients: int) -> SyntheticSite:
    """Return a small hospital of small films, with no marker and no shift: for trials of what is around a study."""
    return SyntheticSite(
        name=name,
        seed=3,
        patients=patients,
        prevalence=0.5,
        marked_diseased=0.0,
        marked_clear=0.0,
        labels=LabelStyle(join="SOPInstanceUID", key="SOPInstanceUID", yes="1", no="0", untidy=0.0),
        scanner=Scanner(
            manufacturer="SYNTHETIC",
            model_name="SMALL",
            rows=64,
            columns=64,
            spacing_mm=5.0,
            encoding=Encoding.EXPLICIT,
        ),
    )


def hospitals(seed: int) -> tuple[SyntheticSite, ...]:
    """Return the four hospitals of a synthetic study, all their randomness derived from `seed`.

    `south` has the planted shift: its contrast curve crushes the dark tones of the lungs, and its noise drowns what
    is left. `east` has the planted shortcut: its R marker goes with disease, where at the others a coin decides. They
    are not one hospital, because the shortcut would hide what the shift does. `west` is too small to be ranked.
    """
    return (
        SyntheticSite(
            name="north",
            seed=seed,
            patients=170,
            prevalence=0.4,
            marked_diseased=0.5,
            marked_clear=0.5,
            labels=LabelStyle(join="SOPInstanceUID", key="SOPInstanceUID", yes="1", no="0", untidy=0.02),
            scanner=Scanner(
                manufacturer="SYNTHETIC ALPHA",
                model_name="PHANTOM ONE",
                rows=320,
                columns=288,
                spacing_mm=1.1,
                encoding=Encoding.EXPLICIT,
            ),
        ),
        SyntheticSite(
            name=MARKED,
            seed=seed,
            patients=150,
            prevalence=0.5,
            marked_diseased=0.9,
            marked_clear=0.1,
            labels=LabelStyle(join="AccessionNumber", key="accession", yes="yes", no="no", untidy=0.02),
            scanner=Scanner(
                manufacturer="SYNTHETIC BETA",
                model_name="PHANTOM TWO",
                rows=301,
                columns=257,
                spacing_mm=1.2,
                encoding=Encoding.RLE,
                bits_stored=10,
                monochrome1=True,
                gamma=0.85,
                blur_px=0.8,
            ),
        ),
        SyntheticSite(
            name=SHIFTED,
            seed=seed,
            patients=150,
            prevalence=0.45,
            marked_diseased=0.5,
            marked_clear=0.5,
            labels=LabelStyle(join="StudyInstanceUID", key="study", yes="positive", no="negative", untidy=0.02),
            scanner=Scanner(
                manufacturer="SYNTHETIC GAMMA",
                model_name="PHANTOM OLD",
                rows=288,
                columns=352,
                spacing_mm=1.0,
                encoding=Encoding.JPEG_LOSSLESS,
                gamma=1.5,
                steepness=5.0,
                noise=0.04,
                blur_px=1.0,
            ),
        ),
        SyntheticSite(
            name="west",
            seed=seed,
            patients=60,
            prevalence=0.35,
            marked_diseased=0.5,
            marked_clear=0.5,
            labels=LabelStyle(join="path", key="file", yes="true", no="false", untidy=0.02),
            scanner=Scanner(
                manufacturer="SYNTHETIC DELTA",
                model_name="PHANTOM FOUR",
                rows=256,
                columns=256,
                spacing_mm=1.4,
                encoding=Encoding.JPEG_LS,
                bits_stored=8,
                gamma=1.1,
            ),
        ),
    )
