"""A picture of what a study's augmentation does to an asymmetric phantom, one row a setting."""

from pathlib import Path

import torch
from PIL import Image, ImageDraw

from shared.augmentation import Augmentation, apply, draw
from shared.laterality import one_at_a_time, phantom
from shared.storage import atomic_file

SIZE, EXAMPLES, LABEL_PX = 112, 8, 130
"""Side of each example in pixels, examples a setting, and the width of the column of names."""


def write_sheet(augmentation: Augmentation, path: Path, *, seed: int) -> None:
    """Draw the phantom as it is, then examples of each setting that is on by itself, then of all together.

    Raises:
        StorageError: the picture cannot be written.
    """
    rows = list(one_at_a_time(augmentation))
    sheet = Image.new("L", (LABEL_PX + EXAMPLES * SIZE, (len(rows) + 1) * SIZE), color=255)
    words = ImageDraw.Draw(sheet)
    drawings = [("as it is", torch.stack([phantom(SIZE)] * EXAMPLES))]
    drawings += [(name, _examples(setting, seed)) for name, setting in rows]
    for place, (name, images_NCHW) in enumerate(drawings):
        strip = (torch.cat(list(images_NCHW[:, 0]), dim=1) * 255).round().to(torch.uint8).numpy()
        sheet.paste(Image.fromarray(strip), (LABEL_PX, place * SIZE))
        words.text((6, place * SIZE + SIZE // 2 - 6), name.replace("_", " "), fill=0)
    with atomic_file(path) as part:
        sheet.save(part, format="PNG")


def _examples(setting: Augmentation, seed: int) -> torch.Tensor:
    drawn = draw(setting, batch=EXAMPLES, size=SIZE, generator=torch.Generator().manual_seed(seed))
    return apply(phantom(SIZE).expand(EXAMPLES, -1, -1, -1), drawn)
