"""What is watched: spread, effective rank, and k-NN accuracy."""

from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from converters.checkpoint import Pixels
from converters.distributed import Ranks
from converters.errors import InputError
from converters.images import load_images, prepare
from pretrain.config import MonitorConfig
from pretrain.monitor import CollapseWatch, KnnMonitor, effective_rank, open_labelled, spread

RANKS = Ranks(0, 1, torch.device("cpu"))
PIXELS = Pixels(size=16)


class Mean(nn.Module):
    """Mean colour as features, from 16 x 16 patches."""

    def forward(self, images: Tensor) -> Tensor:
        return nn.functional.avg_pool2d(images, 4).flatten(1)


def test_spread_of_even_directions_is_one_and_of_a_point_zero() -> None:
    z = torch.randn(4096, 256, generator=torch.Generator().manual_seed(0))
    assert float(spread(z)) == pytest.approx(1, abs=0.01)
    assert float(spread(z[:1].expand(64, 256))) == pytest.approx(0, abs=1e-6)


def test_spread_does_not_depend_on_length() -> None:
    z = torch.randn(64, 8, generator=torch.Generator().manual_seed(0))
    assert float(spread(100 * z)) == pytest.approx(float(spread(z)), rel=1e-5)


@pytest.mark.parametrize("rank", [1, 3, 16])
def test_effective_rank_counts_equal_directions(rank: int) -> None:
    z = torch.zeros(48, 32)
    z[torch.arange(48), torch.arange(48) % rank] = 1  # rank directions, alike in number
    assert float(effective_rank(z)) == pytest.approx(rank, rel=0.02)


def test_effective_rank_is_the_papers_formula() -> None:
    z = torch.randn(40, 12, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    singular = torch.linalg.svdvals(z)
    p = singular / singular.sum() + 1e-7
    assert float(effective_rank(z)) == pytest.approx(float(torch.exp(-(p * p.log()).sum())), rel=1e-4)


def test_watch_speaks_once_and_names_the_sign() -> None:
    watch = CollapseWatch()
    assert watch.check(spread=0.5) is None
    assert watch.check(rank=40) is None
    assert "spread is 0.050, below 0.1" in str(watch.check(spread=0.05))
    assert watch.check(spread=0.01, rank=1) is None
    assert "effective rank is 1.00, below 3" in str(CollapseWatch().check(rank=1))


def test_few_images_are_not_taken_for_a_collapse() -> None:
    assert CollapseWatch().check(rank=2.9, full_rank=4) is None
    assert "effective rank is 1.90, below 2" in str(CollapseWatch().check(rank=1.9, full_rank=4))


def test_accuracy_is_that_of_a_loop_over_the_queries() -> None:
    monitor = KnnMonitor(MonitorConfig(labelled="sample", k=1), PIXELS, RANKS, workers=0)
    train, test = load_images("sample", "train"), load_images("sample", "test")
    bank, queries = (nn.functional.normalize(Mean()(prepare(x.images, PIXELS)), dim=1) for x in (train, test))
    nearest = [int((bank @ query).argmax()) for query in queries]
    right = sum(int(train.labels[i] == label) for i, label in zip(nearest, test.labels, strict=True))
    assert monitor.accuracy(Mean()) == pytest.approx(right / len(test.labels), abs=1e-9)


def test_backbone_is_evaluated_without_changing_it() -> None:
    backbone = nn.Sequential(nn.BatchNorm2d(3), Mean()).train()
    before = {name: tensor.clone() for name, tensor in backbone.state_dict().items()}
    KnnMonitor(MonitorConfig(labelled="sample", k=1), PIXELS, RANKS, workers=0).accuracy(backbone)
    assert backbone.training
    assert all(torch.equal(before[name], tensor) for name, tensor in backbone.state_dict().items())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for split, count in (("train", 3), ("val", 2)):
        for red, name in ((0, "dark"), (255, "light")):
            (tmp_path / split / name).mkdir(parents=True)
            for index in range(count):
                Image.new("RGB", (40 + index, 30), (red, 10 * index, 0)).save(tmp_path / split / name / f"{index}.png")
    return tmp_path


def test_folder_in_imagenets_layout_is_read(folder: Path) -> None:
    config = MonitorConfig(labelled="folder", root=str(folder), k=1)
    monitor = KnnMonitor(config, PIXELS, RANKS, workers=0)
    images, labels = next(monitor.queries.batches(0, 1))
    assert images.shape == (4, 3, 16, 16)
    assert labels.tolist() == [0, 0, 1, 1]
    assert monitor.accuracy(Mean()) == 1.0


def test_every_image_belongs_to_one_rank(folder: Path) -> None:
    bank, _, _ = open_labelled(MonitorConfig(labelled="folder", root=str(folder)), PIXELS, workers=0)
    shares = [next(bank.batches(rank, 4))[1] for rank in range(4)]
    assert [len(share) for share in shares] == [2, 2, 1, 1]


def test_folders_with_different_classes_are_refused(folder: Path) -> None:
    (folder / "val/dark").rename(folder / "val/grey")
    with pytest.raises(InputError, match="expected the same class folders in train/ and val/"):
        open_labelled(MonitorConfig(labelled="folder", root=str(folder)), PIXELS, workers=0)


@pytest.mark.parametrize("workers", [0, 1])
def test_image_that_cannot_be_decoded_is_named_in_one_line(folder: Path, workers: int) -> None:
    broken = folder / "train/light/1.png"
    broken.write_bytes(broken.read_bytes()[:60])
    monitor = KnnMonitor(MonitorConfig(labelled="folder", root=str(folder), k=1), PIXELS, RANKS, workers=workers)
    with pytest.raises(InputError, match=rf"^{broken} cannot be decoded \(.*\); remove it") as refused:
        monitor.accuracy(Mean())
    assert "\n" not in str(refused.value)


def test_image_outside_the_class_folders_is_refused(folder: Path) -> None:
    Image.new("RGB", (8, 8)).save(folder / "train/stray.png")
    with pytest.raises(InputError, match=r"expected images in every class folder of .* and nowhere else: stray\.png"):
        open_labelled(MonitorConfig(labelled="folder", root=str(folder)), PIXELS, workers=0)


def test_class_without_an_image_is_refused(folder: Path) -> None:
    for path in (folder / "val/dark").iterdir():
        path.unlink()
    with pytest.raises(InputError, match=r"monitor\.root: .*dark"):
        open_labelled(MonitorConfig(labelled="folder", root=str(folder)), PIXELS, workers=0)
