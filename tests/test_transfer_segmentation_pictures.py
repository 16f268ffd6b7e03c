"""What the pictures show, pixel by pixel, which names stand below them, and which files are refused."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from converters.errors import InputError
from transfer import sample_data
from transfer.segmentation_pictures import (
    Row,
    Shown,
    draw_curves,
    draw_rows,
    draw_segmentations,
    legend,
    running_median,
)

Pixels = npt.NDArray[np.uint8]

CLASSES = sample_data.ADE20K_CLASSES
# all saturated, so that no text, frame or paper has one of them
PALETTE = tuple((20 * label, 255 - 20 * label, 40 if label % 2 else 215) for label in range(len(CLASSES)))
CELL = 300  # pixels, of a column
PITCH = 306  # from a column to the next one
LEGEND = 45  # pixels at the bottom that hold no picture: at least so many


def opened(path: Path) -> Pixels:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def column(picture: Pixels, index: int) -> Pixels:
    """A column of the figure without the names below."""
    left = 6 + PITCH * index
    return picture[:-LEGEND, left : left + CELL]


def has_colour(picture: Pixels, colour: tuple[int, int, int]) -> npt.NDArray[np.bool_]:
    return (picture == np.array(colour, np.uint8)).all(axis=-1)


def blocks(size: tuple[int, int], labels: tuple[int, ...]) -> Pixels:
    """A label map of vertical stripes."""
    width, height = size
    stripes = np.array(labels, np.uint8)[np.arange(width) * len(labels) // width]
    return np.tile(stripes, (height, 1))


def row(size: tuple[int, int], truth: tuple[int, ...], *predictions: tuple[int, ...]) -> Row:
    width, height = size
    image = np.full((height, width, 3), (250, 10, 130), np.uint8)
    return Row(image, blocks(size, truth), tuple(blocks(size, each) for each in predictions))


def test_every_column_shows_its_own_labels_in_the_colours_of_the_classes(tmp_path: Path) -> None:
    rows = [row((192, 144), (1, 2), (3, 4), (5, 6)), row((144, 192), (2, 1), (4, 3), (6, 5))]
    draw_rows(rows, ["one", "two"], CLASSES, PALETTE, tmp_path / "figure.png")
    picture = opened(tmp_path / "figure.png")
    assert picture.shape[1] == 4 * PITCH + 6
    assert np.count_nonzero(has_colour(column(picture, 0), (250, 10, 130))) > 100 * 1000
    for index in (1, 2, 3):
        seen = {each for each in range(1, 12) if has_colour(column(picture, index), PALETTE[each - 1]).sum() > 1000}
        assert seen == {2 * index - 1, 2 * index}
        one = has_colour(column(picture, index), PALETTE[2 * index - 2])
        left, right = one[:, : CELL // 2 - 3], one[:, CELL // 2 + 3 :]
        for row_of_figure, here, there in ((slice(40, 240), left, right), (slice(280, 480), right, left)):
            assert here[row_of_figure].sum() > 10_000
            assert not there[row_of_figure].any()


@pytest.mark.parametrize("size", [(192, 144), (144, 192), (683, 512), (512, 683), (700, 150), (600, 600)])
def test_pictures_of_all_sizes_keep_their_shape_and_their_pure_colours(tmp_path: Path, size: tuple[int, int]) -> None:
    draw_rows([row(size, (0, 1), (2, 3, 4, 5))], ["one"], CLASSES, PALETTE, tmp_path / "figure.png")
    shown = column(opened(tmp_path / "figure.png"), 2)
    pure = np.any([has_colour(shown, PALETTE[label - 1]) for label in (2, 3, 4, 5)], axis=0)
    ys, xs = np.flatnonzero(pure.any(1)), np.flatnonzero(pure.any(0))
    inside = pure[ys[0] : ys[-1] + 1, xs[0] : xs[-1] + 1][4:-4, 4:-4]  # without the frame, which is blended with them
    assert inside.all()
    scale = min(CELL / size[0], 240 / size[1])
    assert xs[-1] - xs[0] + 1 == pytest.approx(scale * size[0], abs=5)
    assert ys[-1] - ys[0] + 1 == pytest.approx(scale * size[1], abs=5)


def test_unlabelled_pixels_of_the_truth_are_white(tmp_path: Path) -> None:
    draw_rows([row((192, 144), (0, 1), (1,))], ["one"], CLASSES, PALETTE, tmp_path / "figure.png")
    shown = column(opened(tmp_path / "figure.png"), 1)
    ys = np.flatnonzero(has_colour(shown, PALETTE[0]).any(1))
    assert has_colour(shown, (255, 255, 255))[ys[0] + 4 : ys[-1] - 4, 4 : CELL // 2 - 4].all()


def test_same_pictures_give_the_same_file_without_a_date(tmp_path: Path) -> None:
    for name in ("one.png", "two.png"):
        draw_rows([row((192, 144), (0, 1, 2), (3,))], ["title"], CLASSES, PALETTE, tmp_path / name)
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()
    with Image.open(tmp_path / "one.png") as image:
        assert not [key for key in image.info if "date" in key.lower() or "time" in key.lower()]


def test_long_titles_stay_above_their_columns_whatever_they_say(tmp_path: Path) -> None:
    """Three long ones once ran over each other's columns; dollars are no formula."""
    titles = [f"{each}: a checkpoint of $x_^$, resnet50, 800 epochs of " + "imagenet " * 6 for each in range(3)]
    draw_rows([row((192, 144), (1,), (1,), (1,), (1,))], titles, CLASSES, PALETTE, tmp_path / "figure.png")
    picture = opened(tmp_path / "figure.png")
    top = np.flatnonzero(has_colour(picture, PALETTE[0]).any(1))[0] - 5
    assert (picture[:top] < 128).any(), "there are titles"
    for index in range(6):
        assert (picture[:top, PITCH * index : PITCH * index + 6] == 255).all()


def counts(**pixels: int) -> npt.NDArray[np.int64]:
    """Pixels by label, written as l0=3 for three unlabelled ones."""
    found = np.zeros(256, np.int64)
    for label, count in pixels.items():
        found[int(label[1:])] = count
    return found


def test_legend_names_only_classes_that_occur_the_largest_first() -> None:
    assert legend(counts(l2=5, l11=70, l1=20), CLASSES, PALETTE) == [
        ("transportation", PALETTE[10]),
        ("background", PALETTE[0]),
        ("animals", PALETTE[1]),
    ]
    assert legend(counts(l3=5, l0=70), CLASSES, PALETTE) == [("flags", PALETTE[2]), ("unlabelled", (255, 255, 255))]


def test_legend_says_how_many_of_many_classes_it_leaves_out() -> None:
    classes = [f"class {label}" for label in range(1, 151)]
    pixels = counts(**{f"l{label}": 1000 - label for label in range(1, 41)})
    entries = legend(pixels, classes, [(label, 0, 0) for label in range(150)])
    assert [name for name, _ in entries] == [*classes[:24], "and 16 more"]
    assert entries[-1][1] is None, "it is no colour"
    assert legend(pixels * (np.arange(256) <= 24), classes, [(0, 0, 0)] * 150)[-1][0] == "class 24"


def shown_scenes(root: Path, count: int) -> Shown:
    """The first validation scenes of a sample in ADE20K's layout."""
    base = root / "ADEChallengeData2016"
    names = tuple(path.stem for path in sorted((base / "images" / "validation").iterdir()))[:count]
    images = tuple(str(base / "images" / "validation" / f"{name}.jpg") for name in names)
    annotations = tuple(str(base / "annotations" / "validation" / f"{name}.png") for name in names)
    return Shown(names, images, annotations, CLASSES, PALETTE)


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A few scenes in ADE20K's layout, not to be changed."""
    return sample_data.sample_root("ade20k", tmp_path_factory.mktemp("scenes"), num_train=1, num_test=2)


@pytest.fixture
def scene(scenes: Path, tmp_path: Path) -> tuple[Shown, Path]:
    """Two scenes that may be damaged, with a folder of predictions that are the truth, and background elsewhere."""
    shown = shown_scenes(Path(shutil.copytree(scenes, tmp_path / "scenes")), 2)
    predictions = tmp_path / "predictions"
    predictions.mkdir()
    for name, annotation in zip(shown.names, shown.annotations, strict=True):
        with Image.open(annotation) as labels:
            Image.fromarray(np.maximum(np.asarray(labels), 1)).save(predictions / f"{name}.png")
    return shown, predictions


def test_files_of_a_run_are_drawn_side_by_side(scene: tuple[Shown, Path], tmp_path: Path) -> None:
    shown, predictions = scene
    draw_segmentations(shown, {"one": predictions}, tmp_path / "figure.png")
    picture = opened(tmp_path / "figure.png")
    assert picture.shape[1] == 3 * PITCH + 6
    truth, predicted = (has_colour(column(picture, index), PALETTE[0]).sum() for index in (1, 2))
    assert predicted > truth > 10_000, "the seams are white in the truth and background in the prediction"


def test_pictures_are_read_as_they_were_written(scene: tuple[Shown, Path], tmp_path: Path) -> None:
    scene[0].write(tmp_path / "shown.json")
    assert Shown.read(tmp_path / "shown.json") == scene[0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: content.pop("palette"), r"shown.json is damaged \('palette'\); validate that run again"),
        (lambda content: content.pop("names"), "shown.json is damaged .*names"),
        (lambda content: content["images"].pop(), r"colours are \[2, 1, 2, 11, 11\]"),
        (lambda content: content["palette"].pop(), r"colours are \[2, 2, 2, 11, 10\]"),
        (lambda content: content["palette"].append([1, 2]), "shown.json is damaged .*unpack"),
    ],
)
def test_damaged_list_of_pictures_is_refused(
    scene: tuple[Shown, Path], tmp_path: Path, change: Callable[[dict[str, list[object]]], object], message: str
) -> None:
    path = tmp_path / "shown.json"
    scene[0].write(path)
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    with pytest.raises(InputError, match=message):
        Shown.read(path)


def test_list_of_pictures_that_is_no_json_or_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"shown.json not found; expected the folder of a finished"):
        Shown.read(tmp_path / "shown.json")
    (tmp_path / "shown.json").write_text('{"names": [')
    with pytest.raises(InputError, match=r"shown.json is damaged .*--eval-only"):
        Shown.read(tmp_path / "shown.json")


def rewritten(path: Path, change: Callable[[Pixels], Pixels]) -> None:
    with Image.open(path) as image:
        labels = np.array(image)
    Image.fromarray(change(labels)).save(path)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda image, _, __: image.unlink(), r"cannot read .*\.jpg .*put it back, or validate again"),
        (lambda image, _, __: image.write_bytes(image.read_bytes()[:300]), r"cannot read .*\.jpg"),
        (lambda _, truth, __: truth.unlink(), r"cannot read .*annotations.*\.png"),
        (lambda _, __, found: found.unlink(), r"cannot read .*predictions.*\.png"),
        (lambda _, truth, __: rewritten(truth, lambda labels: labels[1:]), r"annotations.*pixels, as its picture has"),
        (lambda _, __, found: rewritten(found, lambda labels: labels[:, 1:]), "predictions.*validate that run again"),
        (lambda _, __, found: rewritten(found, lambda labels: labels - 1), "labels from 1 to 11 .* got .* and 0 to"),
        (lambda _, truth, __: rewritten(truth, lambda labels: labels + 11), "labels from 0 to 11 .* to [12]"),
    ],
)
def test_file_that_is_gone_or_of_another_kind_is_refused_and_nothing_is_drawn(
    scene: tuple[Shown, Path], tmp_path: Path, damage: Callable[[Path, Path, Path], object], message: str
) -> None:
    shown, predictions = scene
    damage(Path(shown.images[1]), Path(shown.annotations[1]), predictions / f"{shown.names[1]}.png")
    with pytest.raises(InputError, match=message):
        draw_segmentations(shown, {"one": predictions}, tmp_path / "figure.png")
    assert not (tmp_path / "figure.png").exists()


def metrics_line(iteration: int) -> dict[str, float]:
    return {"iteration": iteration, "loss": 1 / (1 + iteration), "acc_seg": 50.0, "lr": 0.01, "seconds": 0.1}


def blue(path: Path) -> list[int]:
    """How many pixels of the curves' colour there are in each third of a picture."""
    thirds = np.array_split(opened(path), 3, axis=1)
    return [int(has_colour(third, (31, 119, 180)).sum()) for third in thirds]


def test_curves_show_loss_accuracy_and_rate_and_no_line_that_a_kill_cut_off(tmp_path: Path) -> None:
    metrics = tmp_path / "metrics.jsonl"
    lines = "".join(json.dumps(metrics_line(iteration)) + "\n" for iteration in range(0, 400, 20))
    metrics.write_text(lines)
    draw_curves(metrics, tmp_path / "whole.png")
    assert min(blue(tmp_path / "whole.png")) > 100
    metrics.write_text(lines + '{"iteration": 400, "lo')
    draw_curves(metrics, tmp_path / "cut.png")
    assert (tmp_path / "cut.png").read_bytes() == (tmp_path / "whole.png").read_bytes()


def test_curves_of_a_head_without_accuracy_and_of_no_line_at_all_are_empty(tmp_path: Path) -> None:
    metrics = tmp_path / "metrics.jsonl"
    lines = [{k: v for k, v in metrics_line(at).items() if k != "acc_seg"} for at in range(0, 400, 20)]
    metrics.write_text("".join(json.dumps(line) + "\n" for line in lines))
    draw_curves(metrics, tmp_path / "curves.png")
    loss, accuracy, rate = blue(tmp_path / "curves.png")
    assert min(loss, rate) > 100 > accuracy
    metrics.write_text("")
    draw_curves(metrics, tmp_path / "curves.png")
    assert max(blue(tmp_path / "curves.png")) < 100


def test_running_median_takes_the_neighbours_that_there_are() -> None:
    assert running_median([1, 9, 2, 3, 100], 3) == [5, 2, 3, 3, 51.5]
    assert running_median([], 9) == []
    noisy = np.random.default_rng(0).normal(size=50)
    windows = np.lib.stride_tricks.sliding_window_view(noisy, 9)
    np.testing.assert_array_equal(running_median(noisy.tolist(), 9)[4:-4], np.median(windows, axis=1))
