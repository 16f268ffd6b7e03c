"""FGVC-Aircraft (Maji et al. 2013): photographs of aircraft, labelled by their variant."""

from pathlib import Path

from transfer.listings import Row, assemble, by_class_name, locate, read_rows
from transfer.tasks import Splits

TITLE = "FGVC-Aircraft (Maji et al. 2013)"
METRIC = "mean_per_class"
SIZES = (100, 3334, 3333, 3333)  # of the variants; torchvision's docstring says 102
FOLDERS = ("Aircraft", "fgvc-aircraft-2013b")
MARKER = "data/images_variant_train.txt"
WHERE = "https://www.robots.ox.ac.uk/~vgg/data/fgvc-aircraft, its folder data/"


def splits(root: Path, *, check_sizes: bool = True) -> Splits:
    """The published splits. The strip with the copyright below each photograph stays, as in the reference.

    Args:
        root: the data root.
        check_sizes: False accepts an excerpt.

    Raises:
        InputError: the data set is missing, incomplete or damaged.
    """
    folder = locate(TITLE, root, FOLDERS, MARKER, WHERE) / "data"
    lists = [read_rows(folder / f"images_variant_{name}.txt", "1025794 707-320") for name in ("train", "val", "test")]
    classes = [row.fields[0] for row in read_rows(folder / "variants.txt", "707-320")]

    def name_and_image(row: Row) -> tuple[str, Path]:
        return row.fields[1], folder / "images" / f"{row.fields[0]}.jpg"

    train, val, test = (by_class_name(rows, classes, name_and_image) for rows in lists)
    return assemble(TITLE, classes, train, val, test, SIZES, certain=False, check_sizes=check_sizes)
