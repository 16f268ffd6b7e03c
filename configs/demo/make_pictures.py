"""Make the sample pictures of `configs/demo/pictures` from the drawings of Openclipart.

    python configs/demo/make_pictures.py FOLDER_OF_OPENCLIPART_PNG

FOLDER_OF_OPENCLIPART_PNG is `usr/share/openclipart/png` of Debian's package `openclipart-png`; the pictures here come
from its version 1:0.18+dfsg-19. Every choice is seeded: the same drawings and the same Pillow give the same bytes.

Of every class as many drawings are taken as the smallest class has, rounded down to tens, so chance is 1 / number of
classes. Copies of a drawing, mirrored ones included, are left out. Drawings that resemble each other (the clock at
several hours) or belong to a numbered series of one artist (a drawing with and without colours) stay on one side of the
split, so the test pictures hold nothing that training has seen.
"""

import argparse
import csv
import hashlib
import random
import re
import warnings
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

CLASSES = {  # by the beginning of a drawing's path; the longest that fits decides, and None leaves the drawing out
    "animals/": "animals",
    "signs_and_symbols/flags/": "flags",
    "food/": "food",
    "computer/icons/": "icons",
    **dict.fromkeys(("buildings/", "geography/", "plants/", "science/astronomy/"), "outdoors"),
    **dict.fromkeys(("signs_and_symbols/map_symbols/", "signs_and_symbols/weather/"), "outdoors"),
    "people/": "people",
    "recreation/": "recreation",
    "signs_and_symbols/": "signs",
    **dict.fromkeys(("containers/", "education/", "electronics/", "office/", "tools/"), "tools"),
    "transportation/": "transportation",
    "signs_and_symbols/map_symbols/aiga": None,  # again in transportation/
    # of the four packs of 54 cards, which differ in their frames, one is enough
    **dict.fromkeys([f"recreation/games/cards/{pack}/" for pack in ("ornamental", "simple", "white")]),
    # drawings that show "linked image not found"
    **dict.fromkeys(("people/stylized_yoga", "recreation/sports/stylized_yoga", "animals/birds/duck_yellow_ii")),
    "recreation/religion/creation_day_7": None,
    # photographs of known persons, and characters and logos of others: doubtful whether they were the artist's to give
    **dict.fromkeys(("people/jazz", "recreation/music/jazz", "people/john_coltrane", "people/martin_luther")),
    **dict.fromkeys(("recreation/toys/domo_kun", "recreation/toys/gameboy", "computer/icons/firefox")),
    **dict.fromkeys([f"computer/icons/{theme}-theme/apps/firefox" for theme in ("etiquette", "lemon")]),
    "computer/icons/etiquette-theme/stock/windows": None,
    "signs_and_symbols/for_sale_sign": None,  # somebody's telephone number
    # not for a test set that is shown at work
    **dict.fromkeys(
        ("people/clothing/pantyhose/", "people/sexy_lady", "people/stripper", "signs_and_symbols/sunwheel")
    ),
}
SIDE = 64  # of a tile, in pixels
COLUMNS = 20  # tiles in a row of a sheet
STEP = 4  # between the values that are stored, of 256: not visible
MARGIN = 1 / 32  # around the drawing, of its longer side
LONGEST = 4096  # drawings with a longer side take seconds each to decode, and are a dozen
SHORTEST = 40  # a smaller drawing would be blurred by enlarging
FAINTEST = 0.05  # smallest share of a tile that differs visibly from white
DUPLICATE = 0.985  # cosine of two fingerprints: one drawing saved twice, at another size or with another outline
RELATED = 0.97  # one drawing with a detail changed
TEST_SHARE = 0.2
SEED = 0


@dataclass(frozen=True)
class Drawing:
    """A usable drawing.

    Attributes:
        origin: its path below the folder of Openclipart.
        md5: of its file.
        tile: RGBA, SIDE x SIDE.
        prints: fingerprints of the tile and of its mirror image, (2, D), of length 1.
    """

    origin: str
    md5: str
    tile: Image.Image
    prints: NDArray[np.float32]


def main() -> None:
    """Write the sheets and their index beside this file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, metavar="FOLDER_OF_OPENCLIPART_PNG")
    root = parser.parse_args().folder
    if not (root / "animals").is_dir():
        parser.error(f"expected a folder of Openclipart with animals/, food/, ...; got {root}")
    drawings = without_copies(read_drawings(root))
    size = min(map(len, drawings.values())) // 10 * 10
    output = Path(__file__).resolve().parent / "pictures"
    output.mkdir(exist_ok=True)
    rows = []
    for name, candidates in drawings.items():
        chosen, in_test = split(candidates, size)
        write_sheet([drawing.tile for drawing in chosen], output / f"{name}.webp")
        for tile, drawing in enumerate(chosen):
            side = "test" if drawing.md5 in in_test else "train"
            rows.append((f"{name}.webp", tile, side, name, drawing.origin, drawing.md5))
        print(f"{name}: {size} of {len(candidates)} usable drawings, {len(in_test)} for the test")
    with (output / "index.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("sheet", "tile", "split", "class", "origin", "md5"))
        writer.writerows(rows)


def class_of(origin: str) -> str | None:
    """The class of a drawing by its path; None if it is not to be used."""
    fitting = [prefix for prefix in CLASSES if origin.startswith(prefix)]
    return CLASSES[max(fitting, key=len)] if fitting else None


def read_drawings(root: Path) -> dict[str, list[Drawing]]:
    """The usable drawings of every class, sorted by path; those that do not decode or show nothing are left out."""
    drawings = defaultdict(list)
    for path in sorted(root.rglob("*.png")):
        origin = path.relative_to(root).as_posix()
        name = class_of(origin)
        tile = read_tile(path) if name else None
        if name and tile:
            md5 = hashlib.md5(path.read_bytes()).hexdigest()
            drawings[name].append(Drawing(origin, md5, tile, fingerprints(tile)))
    return dict(sorted(drawings.items()))


def read_tile(path: Path) -> Image.Image | None:
    """Cut a drawing out of its transparent surroundings and shrink it to a tile; None if it is not usable."""
    try:
        with Image.open(path) as image:
            if max(image.size) > LONGEST:
                return None
            drawing = image.convert("RGBA")
    except (
        OSError,
        SyntaxError,
        ValueError,
        Image.DecompressionBombError,
        Image.DecompressionBombWarning,
    ):  # what Pillow raises on a broken PNG
        return None
    box = drawing.getchannel("A").point(lambda alpha: 255 * (alpha > 16)).getbbox()
    if box is None or max(box[2] - box[0], box[3] - box[1]) < SHORTEST:
        return None
    tile = square(drawing.crop(box)).resize((SIDE, SIDE), Image.Resampling.LANCZOS)
    visible = (ink(tile) > 0.1).any(axis=2).mean()
    return tile if visible >= FAINTEST else None


def square(drawing: Image.Image) -> Image.Image:
    """Centre a drawing on a transparent square with a margin."""
    side = max(drawing.size) + 2 * max(1, round(max(drawing.size) * MARGIN))
    canvas = Image.new("RGBA", (side, side))
    canvas.paste(drawing, ((side - drawing.width) // 2, (side - drawing.height) // 2))
    return canvas


def ink(tile: Image.Image) -> NDArray[np.float32]:
    """How far every pixel lies from white once the tile is on white paper, (H, W, 3) in 0..1."""
    values = np.asarray(tile, np.float32) / 255
    return (1 - values[..., :3]) * values[..., 3:]


def fingerprints(tile: Image.Image, side: int = 16) -> NDArray[np.float32]:
    """The ink of the tile and of its mirror image at a low resolution, normalised: (2, side * side * 3)."""
    small = ink(tile).reshape(side, SIDE // side, side, SIDE // side, 3).mean(axis=(1, 3))
    both = np.stack([small.ravel(), small[:, ::-1].ravel()])
    return both / np.linalg.norm(both[0])


def without_copies(drawings: dict[str, list[Drawing]]) -> dict[str, list[Drawing]]:
    """Keep the first of the drawings that are copies of each other, in whatever classes they are."""
    kept: dict[str, list[Drawing]] = {name: [] for name in drawings}
    known = np.empty((0, fingerprints(next(iter(drawings.values()))[0].tile).shape[1]), np.float32)
    for name, candidates in drawings.items():
        for drawing in candidates:
            if (known @ drawing.prints.T).max(initial=0) < DUPLICATE:
                kept[name].append(drawing)
                known = np.concatenate([known, drawing.prints[:1]])
    return kept


def split(candidates: Sequence[Drawing], size: int) -> tuple[list[Drawing], set[str]]:
    """Choose drawings of a class and those of them that are for the test.

    Args:
        candidates: all usable drawings of the class.
        size: how many to take.

    Returns:
        The chosen drawings sorted by path, and the md5 of those for the test: whole families only.
    """
    generator = random.Random(SEED)
    chosen = sorted(generator.sample(candidates, size), key=lambda drawing: drawing.origin)
    groups = families(chosen)
    generator.shuffle(groups)
    wanted, test = round(size * TEST_SHARE), set[str]()
    for group in groups:
        if len(test) + len(group) <= wanted:
            test |= {drawing.md5 for drawing in group}
    if len(test) != wanted:
        raise RuntimeError(f"no {wanted} test pictures in whole families; change RELATED or SEED")
    return chosen, test


def families(drawings: Sequence[Drawing]) -> list[list[Drawing]]:
    """Group drawings that are linked by a chain of related ones: alike by fingerprint or in name."""
    prints = np.stack([drawing.prints for drawing in drawings])
    related = np.einsum("id,jmd->ijm", prints[:, 0], prints).max(axis=2) > RELATED
    names = np.array([series(drawing.origin) for drawing in drawings])
    related |= names[:, None] == names
    family = np.arange(len(drawings))
    for _ in drawings:  # the smallest index spreads along the links
        family = np.where(related, family[None], len(drawings)).min(axis=1)
    groups = defaultdict(list)
    for drawing, index in zip(drawings, family, strict=True):
        groups[int(index)].append(drawing)
    return list(groups.values())


def series(origin: str) -> str:
    """A path without numbers and without the mark of an uncoloured version: muffin3_bw.png and muffin_1.png are one."""
    return re.sub(r"_bw(?=[_.])|[\d_]", "", origin)


def write_sheet(tiles: Sequence[Image.Image], path: Path) -> None:
    """Write tiles row by row into one lossless picture, its values rounded to STEP: a quarter less to store."""
    sheet = Image.new("RGBA", (COLUMNS * SIDE, -(-len(tiles) // COLUMNS) * SIDE))
    for index, tile in enumerate(tiles):
        sheet.paste(tile, (index % COLUMNS * SIDE, index // COLUMNS * SIDE))
    rounded = sheet.point(lambda value: min(255, (value + STEP // 2) // STEP * STEP))
    rounded.save(path, lossless=True, quality=100, method=6)


if __name__ == "__main__":
    warnings.simplefilter("error", Image.DecompressionBombWarning)
    main()
