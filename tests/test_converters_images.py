import csv
import gzip
import hashlib
import io
import pickle
import re
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

from converters.checkpoint import Pixels
from converters.errors import InputError
from converters.images import NAMES, SAMPLE_ROOT, LabelledImages, load_drawings, load_images, prepare

CIFAR10_FILES = (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch")


@pytest.fixture(scope="module")
def sample() -> dict[str, LabelledImages]:
    return {split: load_images("sample", split) for split in ("train", "test")}


def index() -> list[dict[str, str]]:
    with (SAMPLE_ROOT / "index.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_sample_holds_the_same_number_of_pictures_of_every_class_in_each_split(
    sample: dict[str, LabelledImages],
) -> None:
    for split, per_class in ("train", 200), ("test", 50):
        loaded = sample[split]
        assert loaded.images.shape == (10 * per_class, 3, 64, 64)
        assert loaded.labels.bincount().tolist() == [per_class] * 10
        assert len(loaded.classes) == 10


@pytest.mark.parametrize(
    ("split", "digest"),
    [
        ("train", "967a1db1c573ed41731a0dfbdd5e71285cc28c3fa8ddaf6addb2c5767e8528eb"),
        ("test", "4d2ec515472d55eea0590ae5df679fa423d1cc25c74ccdf03c6f887b45fa158d"),
    ],
)
def test_sample_decodes_to_the_recorded_pixels(split: str, digest: str, sample: dict[str, LabelledImages]) -> None:
    assert hashlib.sha256(sample[split].images.numpy().tobytes()).hexdigest() == digest


def test_sample_names_every_drawing_once_and_every_class_after_its_sheet() -> None:
    rows = index()
    assert max(Counter(row["md5"] for row in rows).values()) == 1
    assert max(Counter(row["origin"] for row in rows).values()) == 1
    assert all(row["sheet"] == f"{row['class']}.webp" for row in rows)
    assert {row["sheet"] for row in rows} == {path.name for path in SAMPLE_ROOT.glob("*.webp")}
    for sheet in {row["sheet"] for row in rows}:
        assert [int(row["tile"]) for row in rows if row["sheet"] == sheet] == list(range(250))


def test_no_series_of_the_sample_is_divided_between_train_and_test() -> None:
    splits: dict[str, set[str]] = {}
    for row in index():
        splits.setdefault(re.sub(r"_bw(?=[_.])|[\d_]", "", row["origin"]), set()).add(row["split"])
    assert all(len(sides) == 1 for sides in splits.values())


def test_no_test_picture_of_the_sample_resembles_a_training_picture_of_its_class(
    sample: dict[str, LabelledImages],
) -> None:
    train, test = sample["train"], sample["test"]
    small = [255 - torch.nn.functional.avg_pool2d(x.images.float(), 4) for x in (train, test)]
    bank, queries = (torch.nn.functional.normalize(x.flatten(1), dim=1) for x in small)
    mirrored = torch.nn.functional.normalize(small[1].flip(-1).flatten(1), dim=1)
    same_class = test.labels[:, None] == train.labels
    for prints in (queries, mirrored):
        similarity = prints @ bank.T
        assert similarity.max() < 0.985  # DUPLICATE of configs/demo/make_pictures.py
        assert similarity[same_class].max() < 0.97  # RELATED


def test_every_tile_of_the_sample_shows_something(sample: dict[str, LabelledImages]) -> None:
    for split in ("train", "test"):
        images = sample[split].images
        visible = ((255 - images) > 25).any(1).float().mean((1, 2))
        assert visible.min() > 0.04


@pytest.mark.parametrize("split", ["train", "test"])
def test_drawings_are_the_sample_with_its_transparency(split: str, sample: dict[str, LabelledImages]) -> None:
    drawings, loaded = load_drawings(split), sample[split]
    assert drawings.images.dtype == torch.uint8
    assert drawings.classes == loaded.classes
    assert drawings.labels.equal(loaded.labels)
    colours, alpha = drawings.images[:, :3].float(), drawings.images[:, 3:].float() / 255
    assert (alpha == 0).any((1, 2, 3)).float().mean() > 0.9  # each has a margin, though a sheet rounds its values
    on_white = alpha * colours + (1 - alpha) * 255
    assert (on_white - loaded.images).abs().max() <= 1  # rounding


def test_sample_and_its_licence_stay_small() -> None:
    assert "public domain" in (SAMPLE_ROOT / "LICENSE").read_text()
    assert sum(path.stat().st_size for path in SAMPLE_ROOT.iterdir()) < 5_500_000


def test_transparent_parts_of_the_sample_are_white(sample: dict[str, LabelledImages]) -> None:
    row = next(row for row in index() if row["split"] == "test" and row["class"] == "people")
    tile = int(row["tile"])
    with Image.open(SAMPLE_ROOT / row["sheet"]) as image:
        sheet = np.asarray(image.convert("RGBA"))
    drawing = sheet[tile // 20 * 64 :, tile % 20 * 64 :][:64, :64]
    loaded = sample["test"]
    picture = loaded.images[loaded.labels == loaded.classes.index("people")][0].permute(1, 2, 0).numpy()
    assert (drawing[..., 3] == 0).any()
    assert (picture[drawing[..., 3] == 0] == 255).all()
    assert (picture[drawing[..., 3] == 255] == drawing[..., :3][drawing[..., 3] == 255]).all()


@pytest.fixture
def sample_copy(tmp_path: Path) -> Path:
    return Path(shutil.copytree(SAMPLE_ROOT, tmp_path / "pictures"))


def test_missing_sample_says_where_it_lies(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"expected .*index\.csv; they lie in configs/demo/pictures of a checkout"):
        load_images("sample", "train", tmp_path)


def test_truncated_sheet_is_named(sample_copy: Path) -> None:
    sheet = sample_copy / "food.webp"
    sheet.write_bytes(sheet.read_bytes()[:1000])
    with pytest.raises(InputError, match=r"cannot read .*food\.webp"):
        load_images("sample", "train", sample_copy)


def test_missing_sheet_is_named(sample_copy: Path) -> None:
    (sample_copy / "food.webp").unlink()
    with pytest.raises(InputError, match=r"cannot read .*food\.webp"):
        load_images("sample", "test", sample_copy)


def test_index_truncated_within_a_row_is_named(sample_copy: Path) -> None:
    index_file = sample_copy / "index.csv"
    index_file.write_text("\n".join(index_file.read_text().splitlines()[:10]) + "\nanimals.webp,10")
    with pytest.raises(InputError, match=r"index\.csv does not describe"):
        load_images("sample", "train", sample_copy)


def test_index_truncated_between_rows_is_noticed(sample_copy: Path) -> None:
    index_file = sample_copy / "index.csv"
    index_file.write_text("\n".join(index_file.read_text().splitlines()[:-250]))
    with pytest.raises(InputError, match="expected 2000 train images, got 1800"):
        load_images("sample", "train", sample_copy)


def idx(array: np.ndarray) -> bytes:
    sizes = b"".join(size.to_bytes(4, "big") for size in array.shape)
    return bytes((0, 0, 8, array.ndim)) + sizes + array.astype(np.uint8).tobytes()


def write_fashion_mnist(folder: Path, num_images: int = 10_000, *, compressed: bool) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    images = np.zeros((num_images, 28, 28))
    images[1, 0, 3] = 7  # one pixel tells rows from columns, and images from each other
    for name, array in ("images-idx3", images), ("labels-idx1", np.arange(num_images) % 10):
        content = idx(array)
        path = folder / f"t10k-{name}-ubyte{'.gz' if compressed else ''}"
        path.write_bytes(gzip.compress(content, 1) if compressed else content)
    return folder


@pytest.mark.parametrize("layout", ["FashionMNIST/raw", "."])
@pytest.mark.parametrize("compressed", [False, True])
def test_fashion_mnist_is_read_in_both_layouts(tmp_path: Path, layout: str, compressed: bool) -> None:
    write_fashion_mnist(tmp_path / layout, compressed=compressed)
    loaded = load_images("fashion_mnist", "test", tmp_path)
    assert loaded.images.shape == (10_000, 3, 28, 28)
    assert loaded.images.dtype == torch.uint8
    assert loaded.images.nonzero().tolist() == [[1, channel, 0, 3] for channel in range(3)]
    assert loaded.labels[:12].tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1]
    assert loaded.classes[8] == "Bag"


def test_grey_images_take_the_memory_of_one_channel(tmp_path: Path) -> None:
    images = load_images("fashion_mnist", "test", write_fashion_mnist(tmp_path, compressed=False)).images
    assert images.stride(1) == 0
    assert images.untyped_storage().nbytes() < images.numel() / 2


def test_fashion_mnist_is_found_below_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_fashion_mnist(tmp_path / "data" / "FashionMNIST" / "raw", compressed=False)
    monkeypatch.chdir(tmp_path)
    assert len(load_images("fashion_mnist", "test").labels) == 10_000


def test_wrong_number_of_images_says_expected_and_got(tmp_path: Path) -> None:
    write_fashion_mnist(tmp_path, 12, compressed=False)
    with pytest.raises(InputError, match="fashion_mnist: expected 10000 test images, got 12"):
        load_images("fashion_mnist", "test", tmp_path)


def test_labels_of_another_set_are_refused(tmp_path: Path) -> None:
    write_fashion_mnist(tmp_path, compressed=False)
    labels = tmp_path / "t10k-labels-idx1-ubyte"
    labels.write_bytes(idx(np.arange(10_000) % 12))
    with pytest.raises(InputError, match="expected 10000 test labels below 10"):
        load_images("fashion_mnist", "test", tmp_path)
    labels.write_bytes(idx(np.arange(9_999) % 10))
    with pytest.raises(InputError, match="expected 10000 test labels below 10, got 9999"):
        load_images("fashion_mnist", "test", tmp_path)


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("length", [0, 3, 12, 200])
def test_truncated_idx_file_is_named(tmp_path: Path, compressed: bool, length: int) -> None:
    write_fashion_mnist(tmp_path, compressed=compressed)
    path = next(tmp_path.glob("t10k-images*"))
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(InputError, match=rf"{re.escape(str(path))} is truncated or corrupt"):
        load_images("fashion_mnist", "test", tmp_path)


def test_garbled_gzip_file_is_named(tmp_path: Path) -> None:
    write_fashion_mnist(tmp_path, compressed=True)
    path = tmp_path / "t10k-labels-idx1-ubyte.gz"
    content = bytearray(path.read_bytes())
    content[30:60] = bytes(30)
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"t10k-labels-idx1-ubyte\.gz is truncated or corrupt"):
        load_images("fashion_mnist", "test", tmp_path)


def test_images_in_place_of_labels_are_named(tmp_path: Path) -> None:
    write_fashion_mnist(tmp_path, compressed=False)
    shutil.copy(tmp_path / "t10k-images-idx3-ubyte", tmp_path / "t10k-labels-idx1-ubyte")
    with pytest.raises(InputError, match="t10k-labels-idx1-ubyte is truncated or corrupt: expected 1 dimension"):
        load_images("fashion_mnist", "test", tmp_path)


def test_half_present_fashion_mnist_names_the_missing_file_in_the_folder_that_has_the_rest(tmp_path: Path) -> None:
    write_fashion_mnist(tmp_path, compressed=True)
    (tmp_path / "t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(InputError, match=rf"expected t10k-labels-idx1-ubyte or .*\.gz in {re.escape(str(tmp_path))};"):
        load_images("fashion_mnist", "test", tmp_path)


class Python2Pickler(pickle._Pickler):
    """Writes what Python 2 wrote into the original files: byte strings as strings, numpy under its old name."""

    dispatch = pickle._Pickler.dispatch.copy()

    def save_byte_string(self, content: bytes) -> None:
        self.write(b"T" + len(content).to_bytes(4, "little") + content)
        self.memoize(content)

    def save_text(self, content: str) -> None:
        self.save_byte_string(content.encode())

    dispatch[bytes] = save_byte_string
    dispatch[str] = save_text


def cifar10_batch(num_images: int) -> bytes:
    data = np.zeros((num_images, 3072), np.uint8)
    data[:, 1024 + 32 * 5 + 9] = 200  # green, row 5, column 9
    content = io.BytesIO()
    labels = [number % 10 for number in range(num_images)]
    Python2Pickler(content, protocol=2).dump({"data": data, "labels": labels, "batch_label": "testing"})
    return content.getvalue().replace(b"numpy._core.multiarray", b"numpy.core.multiarray")


def write_cifar10(folder: Path, num_images: int = 10_000) -> Path:
    folder.mkdir(parents=True)
    content = cifar10_batch(num_images)
    for name in CIFAR10_FILES:
        (folder / name).write_bytes(content)
    return folder


@pytest.mark.parametrize(("split", "num_images"), [("train", 50_000), ("test", 10_000)])
def test_cifar10_is_read_in_its_layout(tmp_path: Path, split: str, num_images: int) -> None:
    write_cifar10(tmp_path / "cifar-10-batches-py")
    loaded = load_images("cifar10", split, tmp_path)
    assert loaded.images.shape == (num_images, 3, 32, 32)
    assert loaded.images[:2].nonzero().tolist() == [[0, 1, 5, 9], [1, 1, 5, 9]]
    assert loaded.labels[-11:].tolist() == [9, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9]
    assert loaded.classes[3] == "cat"


def test_missing_cifar10_says_what_is_expected_where(tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"expected data_batch_1 in .*cifar-10-batches-py; .* set root \(--data-root\)"
    ):
        load_images("cifar10", "train", tmp_path)


def test_missing_batch_of_cifar10_is_named(tmp_path: Path) -> None:
    (write_cifar10(tmp_path / "cifar-10-batches-py", 2) / "data_batch_4").unlink()
    with pytest.raises(InputError, match=r"expected data_batch_4 in .*cifar-10-batches-py"):
        load_images("cifar10", "train", tmp_path)


def test_too_small_cifar10_says_expected_and_got(tmp_path: Path) -> None:
    write_cifar10(tmp_path / "cifar-10-batches-py", 3)
    with pytest.raises(InputError, match="cifar10: expected 50000 train images, got 15"):
        load_images("cifar10", "train", tmp_path)


@pytest.mark.parametrize("content", [b"", cifar10_batch(3)[:1000], b"<html>", pickle.dumps([1]), pickle.dumps({})])
def test_truncated_batch_of_cifar10_is_named(tmp_path: Path, content: bytes) -> None:
    folder = write_cifar10(tmp_path / "cifar-10-batches-py", 3)
    (folder / "data_batch_2").write_bytes(content)
    with pytest.raises(InputError, match="data_batch_2 is truncated or no batch of CIFAR-10"):
        load_images("cifar10", "train", tmp_path)


class Intruder:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return Path.touch, (Path("intruded"),)  # type: ignore[return-value]


def test_batch_of_cifar10_cannot_run_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder = write_cifar10(tmp_path / "cifar-10-batches-py", 3)
    (folder / "test_batch").write_bytes(pickle.dumps(Intruder()))
    with pytest.raises(InputError, match="is no part of an array"):
        load_images("cifar10", "test", tmp_path)
    assert not (tmp_path / "intruded").exists()


def test_unknown_set_lists_the_choices() -> None:
    assert NAMES == ("sample", "cifar10", "fashion_mnist")
    with pytest.raises(InputError, match="unknown image set 'cifar'; did you mean 'cifar10'"):
        load_images("cifar", "train")


@pytest.mark.parametrize("size", [32, 64, 96])
def test_prepare_equals_the_ordinary_transform_of_one_image_after_the_other(
    size: int, sample: dict[str, LabelledImages]
) -> None:
    images = sample["test"].images[::50]
    pixels = Pixels(size, mean=(0.1, 0.5, 0.9), std=(0.2, 0.3, 0.4))
    ordinary = v2.Compose(
        [
            v2.Resize(size, antialias=True),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(pixels.mean, pixels.std),
        ]
    )
    prepared = prepare(images, pixels)
    assert prepared.dtype == torch.float32
    assert prepared.shape == (10, 3, size, size)
    torch.testing.assert_close(prepared, torch.stack([ordinary(image) for image in images]), rtol=0, atol=1e-6)


@pytest.mark.parametrize("size", [32, 48, 96])
def test_prepare_resizes_as_pil_does(size: int, sample: dict[str, LabelledImages]) -> None:
    images = sample["test"].images[::50]
    got = prepare(images, Pixels(size, mean=(0, 0, 0), std=(1, 1, 1))) * 255
    for image, resized in zip(images, got, strict=True):
        reference = v2.functional.to_pil_image(image).resize((size, size), Image.Resampling.BILINEAR)
        difference = (resized - v2.functional.pil_to_tensor(reference)).abs()
        assert difference.max() <= 1.001  # the two round differently, by one level of 255


def test_prepare_resizes_expanded_grey_images() -> None:
    grey = torch.randint(256, (4, 1, 28, 28), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    pixels = Pixels(32)
    expanded = grey.expand(-1, 3, -1, -1)
    assert prepare(expanded, pixels).equal(prepare(expanded.contiguous(), pixels))


def test_prepare_leaves_its_input_alone() -> None:
    images = torch.full((2, 3, 8, 8), 51, dtype=torch.uint8)
    prepared = prepare(images, Pixels(8, mean=(0.2, 0, 0), std=(1, 1, 0.5)))
    assert (images == 51).all()
    torch.testing.assert_close(prepared.mean((0, 2, 3)), torch.tensor([0.0, 0.2, 0.4]))


def test_prepare_refuses_images_that_it_would_distort() -> None:
    with pytest.raises(ValueError, match="expected square images, got 8 x 6"):
        prepare(torch.zeros(1, 3, 8, 6, dtype=torch.uint8), Pixels(8))
