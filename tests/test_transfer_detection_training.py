"""The stream of training images, and what a resumed run finds again."""

import json
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from converters.distributed import Ranks
from converters.errors import InputError
from converters.targets import quiet
from transfer.detection_config import read_protocol
from transfer.detection_training import SeededMapper, Stream, _divergence
from transfer.training_folder import forget_lines

with quiet():
    from detectron2.data import build_detection_train_loader
    from detectron2.structures import BoxMode

NUM_IMAGES, BATCH, SEED = 11, 2, 5


def ranks(rank: int = 0, world_size: int = 1) -> Ranks:
    return Ranks(rank, world_size, torch.device("cpu"))


def places(stream: Stream, count: int) -> list[tuple[int, int]]:
    return list(islice(stream.positions(), count))


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """Images of two shapes with a box each."""
    folder, draw = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    records = []
    for index in range(NUM_IMAGES):
        width, height = ((40, 30), (30, 40))[index % 3 == 0]
        path = folder / f"{index}.png"
        Image.fromarray(draw.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(path)
        box = {"bbox": [2.0, 3.0, 20.0, 25.0], "bbox_mode": BoxMode.XYXY_ABS, "category_id": 0}
        records.append(
            {"file_name": str(path), "image_id": index, "width": width, "height": height, "annotations": [box]}
        )
    return records


def batches(
    records: list[dict[str, Any]], start: int, count: int, workers: int = 0, rank: int = 0, size: int = 1
) -> Any:
    """What Detectron2's loader gives from an iteration on: ids and pixels of every batch."""
    config = read_protocol("voc", "published")
    config.INPUT.MIN_SIZE_TRAIN = (32, 48)
    loader = build_detection_train_loader(
        Stream(records, SEED, ranks(rank, size), BATCH, start),
        mapper=SeededMapper(config, SEED),
        total_batch_size=BATCH,
        num_workers=workers,
    )
    return [[(each["image_id"], each["image"]) for each in batch] for batch in islice(loader, count)]


def same(some: Any, others: Any) -> bool:
    flat = [[each for batch in batches for each in batch] for batches in (some, others)]
    assert len(flat[0]) == len(flat[1]) > 0
    return all(a[0] == b[0] and torch.equal(a[1], b[1]) for a, b in zip(*flat, strict=True))


def test_every_image_comes_once_in_an_epoch_and_the_order_changes(records: list[dict[str, Any]]) -> None:
    order = [index for _, index in places(Stream(records, SEED, ranks(), BATCH, 0), 3 * NUM_IMAGES)]
    epochs = [order[at : at + NUM_IMAGES] for at in range(0, len(order), NUM_IMAGES)]
    assert all(sorted(epoch) == list(range(NUM_IMAGES)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]
    assert order != [index for _, index in places(Stream(records, SEED + 1, ranks(), BATCH, 0), 3 * NUM_IMAGES)]


@pytest.mark.parametrize("world_size", [2, 3])
def test_processes_share_the_stream_of_one(records: list[dict[str, Any]], world_size: int) -> None:
    whole = places(Stream(records, SEED, ranks(), BATCH, 0), 60)
    for rank in range(world_size):
        assert places(Stream(records, SEED, ranks(rank, world_size), BATCH, 0), 20) == whole[rank::world_size][:20]


def test_batches_hold_images_of_one_shape(records: list[dict[str, Any]]) -> None:
    for batch in batches(records, 0, 20):
        assert len({records[index]["width"] > records[index]["height"] for index, _ in batch}) == 1


@pytest.mark.parametrize("start", [1, 2, 7, 16])
def test_stream_from_an_iteration_goes_on_with_the_batches_of_the_unbroken_one(
    records: list[dict[str, Any]], start: int
) -> None:
    assert same(batches(records, start, 10), batches(records, 0, start + 10)[start:])


def test_second_process_resumes_as_well(records: list[dict[str, Any]]) -> None:
    assert same(batches(records, 5, 6, rank=1, size=2), batches(records, 0, 11, rank=1, size=2)[5:])


@pytest.mark.parametrize("workers", [1, 2])
def test_number_of_workers_changes_no_pixel(records: list[dict[str, Any]], workers: int) -> None:
    assert same(batches(records, 3, 12, workers), batches(records, 3, 12))


def test_augmentation_differs_between_epochs(records: list[dict[str, Any]]) -> None:
    seen: dict[int, list[torch.Tensor]] = {}
    for batch in batches(records, 0, 40):
        for index, image in batch:
            seen.setdefault(index, []).append(image)
    assert all(len({tuple(image.shape) for image in images}) == 2 for images in seen.values())
    assert any(
        not torch.equal(a, b) for images in seen.values() for a in images for b in images if a.shape == b.shape
    ), "nothing was flipped"


def test_metrics_that_will_be_computed_again_are_dropped(tmp_path: Path) -> None:
    path = tmp_path / "metrics.json"
    lines = [json.dumps({"iteration": iteration, "lr": 0.1}) for iteration in (19, 39, 59)]
    path.write_text("\n".join([*lines, '{"iteration": 7']))
    forget_lines(path, 40)
    assert path.read_text().splitlines() == lines[:2]


def test_divergence_names_iteration_rate_batch_and_last_state(tmp_path: Path) -> None:
    config = read_protocol("voc", "published")
    before = str(_divergence(412, 0.00125, config, tmp_path))
    assert before == (
        "the loss is not finite in iteration 412 (learning rate 0.00125 of 0.0025, batch 2); no state was saved "
        "before; start again in another --output with a lower rate: --opts SOLVER.BASE_LR 0.00125"
    )
    (tmp_path / "last_checkpoint").write_text("model_0000399.pth")
    assert f"last good state: {tmp_path / 'model_0000399.pth'}" in str(_divergence(412, 0.00125, config, tmp_path))
    assert isinstance(_divergence(412, 0.00125, config, tmp_path), InputError)
