"""SUN397 (Xiao et al. 2010), the first of its ten partitions: photographs of scenes.

Here an image is of the class whose folder it lies in. The benchmark's code (ssl-transfer, datasets/sun397.py) takes the
first class, in alphabetical order, whose name occurs anywhere in the path, so that barns are bars: its published
numbers are of fewer classes, and can't be compared with ours by any protocol.
"""

from pathlib import Path

from converters.errors import InputError
from transfer.listings import Row, assemble, by_class_name, folder_of, locate, read_rows
from transfer.tasks import Splits

TITLE = "SUN397, partition 01 (Xiao et al. 2010)"
METRIC = "accuracy"
SIZES = (397, 19_850, None, 19_850)
FOLDERS = ("SUN397",)
MARKER = "ClassName.txt"
_LISTS = "ClassName.txt, Training_01.txt and Testing_01.txt come from the authors' Partitions.zip"
WHERE = (
    f"the images come from the authors' SUN397.tar.gz (37 GB), {_LISTS}; their host answers 404, see "
    "https://github.com/pytorch/vision/issues/9348"
)
_ADVICE = f"{_LISTS}; put them into the folder SUN397"


def splits(root: Path, *, check_sizes: bool = True) -> Splits:
    """The published splits. Images that are in neither list, most of the 108,754, may be absent.

    Args:
        root: the data root.
        check_sizes: False accepts an excerpt.

    Raises:
        InputError: the data set or a list is missing, incomplete or damaged.
    """
    folder = locate(TITLE, root, FOLDERS, MARKER, WHERE)
    classes = [row.fields[0] for row in read_rows(folder / MARKER, "/a/abbey", _ADVICE)]

    def name_and_image(row: Row) -> tuple[str, Path]:
        entry = row.fields[0]
        if not entry.startswith("/"):  # as every entry does, though it is a path below the folder
            raise InputError(f"{row.place}: expected a path like '/a/abbey/sun_x.jpg', got '{entry}'; {_ADVICE}")
        return folder_of(row, _ADVICE), folder / entry.removeprefix("/")

    example = "/a/abbey/sun_aakbdcgfpksytcwj.jpg"
    lists = [read_rows(folder / f"{name}_01.txt", example, _ADVICE) for name in ("Training", "Testing")]
    train, test = (by_class_name(rows, classes, name_and_image) for rows in lists)
    return assemble(TITLE, classes, train, None, test, SIZES, certain=False, check_sizes=check_sizes)
