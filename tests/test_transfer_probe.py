import json
import math
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision import transforms

from converters.checkpoint import Pixels
from converters.distributed import Ranks
from converters.errors import InputError
from converters.images import load_images
from converters.randomness import generator
from transfer import tasks
from transfer.features import Features
from transfer.probe import ProbeOutcome, build_optimizer, learning_rate, train_probe
from transfer.probe_config import ProbeConfig, load_probe_config, probe_config_path
from transfer.probe_data import (
    BackboneFeatures,
    crop_and_flip,
    gather_features,
    image_sources,
    resize_and_crop,
)
from transfer.tasks import Split, Splits, imagenet

CPU = torch.device("cpu")
ALONE = Ranks(0, 1, CPU)
PIXELS = Pixels(size=12)
CONFIG = ProbeConfig(batch_size=16, optimizer="sgd", lr=2.0, epochs=4)
CACHED = replace(CONFIG, augment=False)


class Backbone(nn.Module):
    """A toy with a batch norm, whose statistics must not move.

    Args:
        num_calls: after so many a kill of the process comes, in the middle of an epoch.
    """

    def __init__(self, num_calls: float = math.inf) -> None:
        super().__init__()
        self.num_calls = num_calls
        torch.manual_seed(0)
        pooled = nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten())
        self.layers = nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), pooled)

    def forward(self, images: Tensor) -> Tensor:
        self.num_calls -= 1
        if self.num_calls < 0:
            raise KeyboardInterrupt
        features: Tensor = self.layers(images)
        return features


class ForgetfulBackbone(Backbone):
    def forward(self, images: Tensor) -> Tensor:
        self.layers[1].running_mean.add_(1e-3)
        return super().forward(images)


@cache
def sample_splits(num_train: int = 40, num_test: int = 21) -> Splits:
    """Every n-th picture of the sample, in four of its classes."""
    parts = []
    for name, number in (("train", num_train), ("test", num_test)):
        loaded = load_images("sample", name)  # type: ignore[arg-type]
        rows = (loaded.labels < 4).nonzero().flatten()
        rows = rows[:: len(rows) // number][:number]
        parts.append(Split(loaded.images[rows], loaded.labels[rows]))
    return Splits(("a", "b", "c", "d"), parts[0], None, parts[1])


def gaussians(num_train: int = 50, num_test: int = 30, spread: float = 0.3) -> tuple[Splits, tuple[Features, Features]]:
    """Three classes in six dimensions, as features and as images that are never looked at."""
    random = torch.Generator().manual_seed(1)
    centres = torch.eye(3, 6)
    splits, features = [], []
    for number in (num_train, num_test):
        labels = torch.arange(number) % 3
        noise = spread * torch.randn(number, 6, generator=random)
        splits.append(Split(torch.zeros(number, 3, 2, 2, dtype=torch.uint8), labels))
        features.append((centres[labels] + noise).numpy())
    return Splits(("a", "b", "c"), splits[0], None, splits[1]), (features[0], features[1])


def probe(folder: Path, splits: Splits | None = None, config: ProbeConfig = CONFIG, **options: Any) -> ProbeOutcome:
    arguments: dict[str, Any] = {"ranks": ALONE, "resume": False, "workers": 0, **options}
    backbone = arguments.pop("backbone", None) or Backbone()
    return train_probe(backbone, splits or sample_splits(), PIXELS, config, folder=folder, **arguments)


def saved(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = torch.load(folder / "state.pt", weights_only=True)
    return content


def layer(folder: Path) -> dict[str, Tensor]:
    weights: dict[str, Tensor] = saved(folder)["linear"]
    return weights


def assert_same(one: ProbeOutcome, other: ProbeOutcome) -> None:
    """In all but the time."""
    assert (one.accuracy, one.loss, one.best_epoch) == (other.accuracy, other.loss, other.best_epoch)
    for name in ("last", "best"):
        assert torch.equal(getattr(one, name).classes, getattr(other, name).classes)
        assert torch.equal(getattr(one, name).confidence, getattr(other, name).confidence)


# --- protocols


def test_imagenet_protocol_is_the_published_one() -> None:
    """simsiam, main_lincls.py with --lars: 90 epochs, rate .1 * 4096 / 256, no decay, crops as torchvision's."""
    config = load_probe_config(probe_config_path("imagenet"))
    assert (config.epochs, config.batch_size, config.optimizer) == (90, 4096, "lars")
    assert config.lr == pytest.approx(0.1 * 4096 / 256)
    assert (config.momentum, config.weight_decay, config.schedule) == (0.9, 0.0, "cosine")
    assert (config.size, config.test_resize, config.augment) == (224, 256, True)
    assert (config.crop_scale, config.crop_ratio, config.flip_p) == ((0.08, 1.0), (3 / 4, 4 / 3), 0.5)


def test_cifar10_protocol_is_the_published_one() -> None:
    """Lee & Lee 2023, 5.1: 90 epochs, batch 256, rate 30, momentum .9, cosine; the rest is this project's."""
    config = load_probe_config(probe_config_path("cifar10"))
    assert (config.epochs, config.batch_size, config.optimizer, config.lr) == (90, 256, "sgd", 30.0)
    assert (config.momentum, config.weight_decay, config.schedule) == (0.9, 0.0, "cosine")
    assert (config.size, config.test_resize, config.augment) == (32, None, True)
    assert (config.crop_scale, config.crop_ratio, config.flip_p) == ((0.08, 1.0), (3 / 4, 4 / 3), 0.5)


@pytest.mark.parametrize("task", ["fashion_mnist", "sample"])
def test_sets_without_a_published_protocol_follow_cifar10_at_the_checkpoints_size(task: str) -> None:
    ours, published = (load_probe_config(probe_config_path(name)) for name in (task, "cifar10"))
    assert replace(ours, size=32) == published
    assert ours.size is None


def test_every_protocol_belongs_to_a_task_with_top_1_accuracy() -> None:
    names = {path.stem.removeprefix("sgd_") for path in probe_config_path("sample").parent.glob("sgd_*.yaml")}
    assert names == {"imagenet", "cifar10", "fashion_mnist", "sample"}
    assert {tasks.find(name).METRIC for name in names} == {"accuracy"}


def test_learning_rate_is_half_a_cosine_by_epoch() -> None:
    rates = [learning_rate(load_probe_config(probe_config_path("imagenet")), epoch) for epoch in range(90)]
    assert rates == pytest.approx([1.6 * (1 + math.cos(math.pi * epoch / 90)) / 2 for epoch in range(90)])
    assert (rates[0], rates[45]) == pytest.approx((1.6, 0.8))
    assert 0 < rates[89] < 1e-3


def test_task_without_a_probe_is_refused_with_those_that_have_one() -> None:
    with pytest.raises(InputError, match="no SGD probe for 'dtd'; choose from: cifar10, fashion_mnist, imagenet, sam"):
        probe_config_path("dtd")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("epoch=3", "unknown key in .*sgd_cifar10.yaml 'epoch'; did you mean 'epochs'"),
        ("epochs=many", "sgd_cifar10.yaml: epochs: Value 'many'"),
        ("epochs=0", "epochs: expected 1 or more, got 0"),
        ("lr=nan", "lr: expected 0 or more, got nan"),
        ("flip_p=2", "flip_p: expected 0 to 1, got 2"),
        ("crop_scale=[0.5,2]", r"crop_scale: expected two numbers, 0 < low <= high <= 1, got \[0.5, 2.0\]"),
        ("optimizer=adam", "unknown optimizer 'adam'; choose from: lars, sgd"),
        ("schedule=step", "unknown schedule 'step'"),
        ("--lr", "expected key=value, got '--lr'"),
    ],
)
def test_wrong_override_is_refused(override: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_probe_config(probe_config_path("cifar10"), [override])


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "not found; see configs/linear"), ("lr: 3", "missing mandatory value: batch_size"), ("a: [", "probe.yaml")],
)
def test_wrong_file_is_refused(tmp_path: Path, content: str | None, message: str) -> None:
    path = tmp_path / "probe.yaml"
    if content:
        path.write_text(content)
    with pytest.raises(InputError, match=message) as refused:
        load_probe_config(path)
    assert "\n" not in str(refused.value)


def test_overrides_stand_over_the_file() -> None:
    config = load_probe_config(probe_config_path("sample"), ["augment=false", "lr=3", "crop_scale=[0.5,1]"])
    assert (config.augment, config.lr, config.crop_scale) == (False, 3.0, (0.5, 1.0))


# --- the step


def test_lars_is_the_published_larc() -> None:
    """apex, LARC with trust coefficient .001 and clip off, around SGD with momentum .9; the rate changes by step."""
    config = replace(CONFIG, optimizer="lars", lr=1.6)
    linear = nn.Linear(5, 3).double()
    nn.init.zeros_(linear.bias)
    optimizer = build_optimizer(config, linear)
    ours = [p.detach().clone() for p in linear.parameters()]
    velocity = [torch.zeros_like(p) for p in ours]
    random = torch.Generator().manual_seed(0)
    for epoch in range(3):
        optimizer.param_groups[0]["lr"] = rate = learning_rate(config, epoch)
        for index, parameter in enumerate(linear.parameters()):
            gradient = torch.randn(parameter.shape, generator=random, dtype=torch.float64)
            parameter.grad = gradient.clone()
            weight_norm, gradient_norm = ours[index].norm(), gradient.norm()
            if weight_norm != 0 and gradient_norm != 0:  # the bias starts at 0, and is not adapted then
                gradient = gradient * 0.001 * weight_norm / (gradient_norm + 1e-8)
            velocity[index] = 0.9 * velocity[index] + gradient
            ours[index] = ours[index] - rate * velocity[index]
        optimizer.step()
        for expected, parameter in zip(ours, linear.parameters(), strict=True):
            torch.testing.assert_close(parameter.detach(), expected, rtol=1e-12, atol=1e-14)


def test_training_is_that_of_a_written_out_loop(tmp_path: Path) -> None:
    """Rate by epoch, the mean loss of a batch, momentum, and the last batch of an epoch, which is smaller: 50 by 16."""
    splits, features = gaussians()
    outcome = probe(tmp_path, splits, CACHED, features=features)
    linear = nn.Linear(6, 3)
    nn.init.normal_(linear.weight, std=0.01, generator=generator(0, "layer"))
    nn.init.zeros_(linear.bias)
    optimizer = torch.optim.SGD(linear.parameters(), lr=1.0, momentum=0.9)
    x, test = (torch.from_numpy(each) for each in features)
    confidence = []
    for epoch in range(4):
        optimizer.param_groups[0]["lr"] = 2.0 * (1 + math.cos(math.pi * epoch / 4)) / 2
        losses = []
        order = torch.randperm(50, generator=generator(0, "order", epoch))
        for rows in (order[:16], order[16:32], order[32:48], order[48:]):
            optimizer.zero_grad()
            loss = F.cross_entropy(linear(x[rows]), splits.train.labels[rows])
            loss.backward()
            optimizer.step()
            losses.append(len(rows) * loss.item())
        assert outcome.loss[epoch] == pytest.approx(sum(losses) / 50, rel=1e-5)
        accuracy = (linear(test).argmax(1) == splits.test.labels).double().mean().item()
        assert outcome.accuracy[epoch] == pytest.approx(accuracy)
        confidence.append(linear(test).softmax(1).max(1).values.detach())
    torch.testing.assert_close(layer(tmp_path), dict(linear.state_dict()))
    torch.testing.assert_close(outcome.last.confidence, confidence[-1])
    assert outcome.accuracy.count(max(outcome.accuracy)) > 1  # of equally good epochs the first is the best
    torch.testing.assert_close(outcome.best.confidence, confidence[outcome.best_epoch - 1])


@pytest.mark.parametrize("optimizer", ["sgd", "lars"])
@pytest.mark.parametrize("parts", [4, 5, 30])
def test_accumulated_batch_takes_the_step_of_the_whole(tmp_path: Path, optimizer: str, parts: int) -> None:
    """16 images in parts of different sizes, and 2 in the last batch, which leave some parts empty."""
    splits, features = gaussians()
    config = replace(CACHED, optimizer=optimizer)
    whole = probe(tmp_path / "whole", splits, config, features=features)
    divided = probe(tmp_path / "divided", splits, replace(config, accumulate=parts), features=features)
    torch.testing.assert_close(layer(tmp_path / "divided"), layer(tmp_path / "whole"), rtol=1e-5, atol=1e-6)
    assert divided.loss == pytest.approx(whole.loss, rel=1e-5)


def test_layer_starts_small_and_without_bias(tmp_path: Path) -> None:
    probe(tmp_path, config=replace(CONFIG, lr=0.0, epochs=1), splits=gaussians()[0], backbone=nn.Flatten())
    weights = layer(tmp_path)
    assert weights["weight"].std().item() == pytest.approx(0.01, rel=0.1)
    assert weights["weight"].mean().abs().item() < 1e-3
    assert torch.equal(weights["bias"], torch.zeros(3))


# --- what it finds


def test_separable_classes_are_learned_and_permuted_labels_give_chance(tmp_path: Path) -> None:
    splits, features = gaussians(600, 600, spread=0.1)
    permuted = splits.train.labels[torch.randperm(600, generator=torch.Generator().manual_seed(0))]
    control = replace(splits, train=Split(splits.train.images, permuted))
    config = replace(CACHED, lr=0.5)
    assert probe(tmp_path / "true", splits, config, features=features).accuracy[-1] > 0.99
    chance = probe(tmp_path / "permuted", control, config, features=features)
    assert chance.accuracy[-1] == pytest.approx(1 / 3, abs=0.25)  # whole classes are named alike
    assert chance.loss[-1] == pytest.approx(math.log(3), abs=0.05)


def test_last_and_best_epoch_are_both_kept(tmp_path: Path) -> None:
    splits, features = gaussians(spread=2.0)  # noise: the accuracy goes up and down
    outcome = probe(tmp_path, splits, replace(CACHED, epochs=9, lr=5.0), features=features)
    assert outcome.best_epoch == outcome.accuracy.index(max(outcome.accuracy)) + 1
    assert outcome.best_epoch < 9
    for predictions, accuracy in ((outcome.last, outcome.accuracy[-1]), (outcome.best, max(outcome.accuracy))):
        assert (predictions.classes == splits.test.labels).double().mean().item() == pytest.approx(accuracy)
    assert not torch.equal(outcome.last.classes, outcome.best.classes)
    assert outcome.last.classes.dtype == torch.int64
    assert len(outcome.accuracy) == len(outcome.loss) == 9


def test_metrics_have_a_line_for_each_epoch(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    outcome = probe(tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [1, 2, 3, 4]
    assert [line["lr"] for line in lines] == [learning_rate(CONFIG, epoch) for epoch in range(4)]
    assert tuple(line["accuracy"] for line in lines) == outcome.accuracy
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == 4
    assert printed[1].startswith(f"probe, epoch 2/4: loss {outcome.loss[1]:.3f}, accuracy")


# --- the frozen backbone


def test_backbone_is_bit_identical_and_has_no_gradient_afterwards(tmp_path: Path) -> None:
    backbone = Backbone().train()
    before = {name: tensor.clone() for name, tensor in backbone.state_dict().items()}
    probe(tmp_path, backbone=backbone)
    assert all(torch.equal(before[name], tensor) for name, tensor in backbone.state_dict().items())
    assert all(parameter.grad is None for parameter in backbone.parameters())
    assert not backbone.training


def test_backbone_that_changes_is_noticed(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="the frozen backbone changed while its probe was trained"):
        probe(tmp_path, backbone=ForgetfulBackbone())


# --- images


def test_cache_and_augmentation_that_does_nothing_are_the_same(tmp_path: Path) -> None:
    splits = sample_splits()
    idle = replace(CONFIG, size=64, crop_scale=(1.0, 1.0), crop_ratio=(1.0, 1.0), flip_p=0.0)
    augmented = probe(tmp_path / "augmented", splits, idle)
    sources = image_sources(Backbone().eval(), splits, PIXELS, idle, ALONE, workers=0)
    train, test = (
        gather_features(source, torch.arange(len(split))).numpy()
        for source, split in zip(sources, (splits.train, splits.test), strict=True)
    )
    cached = probe(tmp_path / "cached", splits, replace(idle, augment=False), features=(train, test))
    assert cached.accuracy == augmented.accuracy
    assert cached.loss == pytest.approx(augmented.loss, rel=1e-4)
    torch.testing.assert_close(layer(tmp_path / "cached"), layer(tmp_path / "augmented"), rtol=1e-3, atol=1e-4)


def test_features_on_disk_serve_as_those_in_memory(tmp_path: Path) -> None:
    splits, features = gaussians()
    mapped = []
    for name, array in zip(("train", "test"), features, strict=True):
        np.save(tmp_path / f"{name}.npy", array)
        mapped.append(np.load(tmp_path / f"{name}.npy", mmap_mode="r"))
    on_disk = probe(tmp_path / "disk", splits, CACHED, features=(mapped[0], mapped[1]))
    assert_same(on_disk, probe(tmp_path / "memory", splits, CACHED, features=features))


def views(splits: Splits, epoch: int, rows: list[int], workers: int = 0) -> Tensor:
    """What a backbone would see, as features."""
    source = image_sources(nn.Flatten(), splits, PIXELS, CONFIG, ALONE, workers)[0]
    return torch.cat(list(source.parts(epoch, [torch.tensor([row]) for row in rows])))


def test_augmentation_depends_on_seed_epoch_and_image_alone() -> None:
    splits = sample_splits(10)
    state = torch.get_rng_state()
    seen = views(splits, 1, list(range(10)))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(seen, views(splits, 1, list(range(10)), workers=2))
    assert torch.equal(seen[[7, 3]], views(splits, 1, [7, 3]))
    later = views(splits, 2, list(range(10)))
    assert not any(torch.equal(one, other) for one, other in zip(seen, later, strict=True))


def test_crops_are_drawn_anew_and_flipped_half_of_the_time() -> None:
    """A ramp from left to right shows the flip, and by its slope the crop."""
    ramp = (4 * torch.arange(60, dtype=torch.uint8)).expand(1, 3, 60, 60)
    splits = Splits(("a",), Split(ramp, torch.tensor([0])), None, Split(ramp, torch.tensor([0])))
    source = image_sources(nn.Flatten(), splits, PIXELS, CONFIG, ALONE, workers=0)[0]
    rows = torch.cat([next(source.parts(epoch, [torch.tensor([0])])) for epoch in range(200)])
    rows = rows.view(200, 3, 12, 12)[:, 0, 0]
    slopes = rows[:, -1] - rows[:, 0]
    assert 70 < (slopes > 0).sum() < 130
    assert len(slopes.unique()) > 100


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    """ImageNet's layout: two classes of four training and two validation pictures, none of them square."""
    picture = load_images("sample", "train").images[:12].permute(0, 2, 3, 1).numpy()
    for index, tile in enumerate(picture):
        split, number = ("train", index % 4) if index < 8 else ("val", index % 2)
        folder = tmp_path / "data/imagenet" / split / ("n01", "n02")[index // 4 if index < 8 else index // 2 - 4]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(tile).resize((50 + index, 40)).save(folder / f"{number}.JPEG")
    return tmp_path / "data"


@pytest.fixture(autouse=True)
def caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The listings of these tests are remembered in a folder of their own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))


def test_test_images_are_resized_and_cropped_as_published(photographs: Path) -> None:
    """simsiam, main_lincls.py: Resize, CenterCrop, ToTensor, Normalize of torchvision's first transforms."""
    splits = imagenet.splits(photographs, check_sizes=False)
    config = replace(CONFIG, size=14, test_resize=16)
    published = transforms.Compose(
        [
            *(transforms.Resize(16), transforms.CenterCrop(14), transforms.ToTensor()),
            transforms.Normalize(PIXELS.mean, PIXELS.std),
        ]
    )
    assert isinstance(splits.test.images, tuple)
    expected = torch.stack([published(Image.open(path).convert("RGB")) for path in splits.test.images])
    source = image_sources(nn.Flatten(), splits, PIXELS, config, ALONE, workers=0)[1]
    seen = gather_features(source, torch.arange(4)).view(4, 3, 14, 14)
    torch.testing.assert_close(seen, expected, rtol=0, atol=1e-5)


def test_images_of_the_wanted_size_are_tested_as_they_are() -> None:
    images = sample_splits().test.images
    assert isinstance(images, Tensor)
    assert torch.equal(resize_and_crop(CONFIG, 64)(images[3]), images[3])


@pytest.mark.parametrize("workers", [0, 2])
def test_image_that_cannot_be_decoded_is_named_in_one_line(photographs: Path, tmp_path: Path, workers: int) -> None:
    broken = photographs / "imagenet/train/n02/1.JPEG"
    broken.write_bytes(broken.read_bytes()[:200])
    splits = imagenet.splits(photographs, check_sizes=False)
    with pytest.raises(InputError, match=rf"^cannot decode the image {broken} \(.*\); put the") as refused:
        probe(tmp_path / "probe", splits, workers=workers)
    assert "\n" not in str(refused.value)


def test_grey_and_palette_files_are_seen_in_colour(tmp_path: Path) -> None:
    paths = (tmp_path / "L.png", tmp_path / "P.png")
    for path in paths:
        Image.new("L", (20, 30), 128).convert(path.stem).save(path)
    source = BackboneFeatures(
        nn.Flatten(), paths, crop_and_flip(CONFIG, 8), PIXELS, CPU, workers=0, seed=0, part_size=2
    )
    seen = gather_features(source, torch.arange(2)).view(2, 3, 64)
    grey = (128 / 255 - torch.tensor(PIXELS.mean)) / torch.tensor(PIXELS.std)
    torch.testing.assert_close(seen, grey[None, :, None].expand(2, 3, 64))


# --- resuming


@pytest.mark.parametrize("optimizer", ["sgd", "lars"])
def test_killed_and_resumed_probe_ends_bit_for_bit_like_the_unbroken_one(tmp_path: Path, optimizer: str) -> None:
    config = replace(CONFIG, optimizer=optimizer)
    unbroken = probe(tmp_path / "unbroken", config=config)
    broken = tmp_path / "broken"
    # a call for the test images, then 3 batches an epoch: killed in the first epoch, and then in the third
    for num_calls in (3, 9):
        with pytest.raises(KeyboardInterrupt):
            probe(broken, config=config, backbone=Backbone(num_calls), resume=True)
    assert len(saved(broken)["history"]) == 2
    assert_same(probe(broken, config=config, resume=True), unbroken)
    one, other = saved(broken), saved(tmp_path / "unbroken")
    assert all(torch.equal(one["linear"][name], tensor) for name, tensor in other["linear"].items())
    for key, state in other["optimizer"]["state"].items():
        assert torch.equal(one["optimizer"]["state"][key]["momentum_buffer"], state["momentum_buffer"])
    assert len((broken / "metrics.jsonl").read_text().splitlines()) == 4


def test_probe_that_ran_out_of_memory_goes_on_with_more_parts(tmp_path: Path) -> None:
    unbroken = probe(tmp_path / "unbroken")
    with pytest.raises(KeyboardInterrupt):
        probe(tmp_path / "broken", backbone=Backbone(6))
    resumed = probe(tmp_path / "broken", config=replace(CONFIG, accumulate=2), resume=True)
    assert len(resumed.loss) == len(unbroken.loss)
    assert resumed.loss == pytest.approx(unbroken.loss, rel=1e-4)


def test_finished_probe_is_returned_at_once(tmp_path: Path) -> None:
    first = probe(tmp_path)
    again = probe(tmp_path, backbone=Backbone(0), resume=True)
    assert_same(again, first)
    assert again.seconds == first.seconds


def test_folder_with_a_probe_is_not_overwritten(tmp_path: Path) -> None:
    probe(tmp_path)
    before = (tmp_path / "state.pt").read_bytes()
    with pytest.raises(InputError, match=f"{tmp_path} holds a probe already; resume it, or choose another folder"):
        probe(tmp_path)
    assert (tmp_path / "state.pt").read_bytes() == before


def test_other_configuration_backbone_or_data_is_not_resumed(tmp_path: Path) -> None:
    probe(tmp_path)
    with pytest.raises(InputError, match=r"state.pt belongs to another probe: lr is 2.0 there and 3.0 here"):
        probe(tmp_path, config=replace(CONFIG, lr=3.0), resume=True)
    other = Backbone()
    with torch.no_grad():
        next(other.parameters()).view(-1)[0] += 1e-6
    with pytest.raises(InputError, match=r"belongs to another probe: backbone is '\w{64}' there and '\w{64}' here$"):
        probe(tmp_path, backbone=other, resume=True)
    splits = sample_splits()
    relabelled = Split(splits.train.images, splits.train.labels.roll(1))
    with pytest.raises(InputError, match=r"belongs to another probe: data is"):
        probe(tmp_path, replace(splits, train=relabelled), resume=True)


def test_damaged_state_is_refused_in_one_line(tmp_path: Path) -> None:
    probe(tmp_path)
    state = tmp_path / "state.pt"
    state.write_bytes(state.read_bytes()[:-500])
    with pytest.raises(InputError, match=r"state.pt is truncated or no state file \(.*\); start again") as refused:
        probe(tmp_path, resume=True)
    assert "\n" not in str(refused.value)
    torch.save({"step": 3}, state)
    with pytest.raises(InputError, match="expected a probe's state of format 1"):
        probe(tmp_path, resume=True)


def test_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"cannot write .*file/probe: .*; choose another --output"):
        probe(tmp_path / "file" / "probe")


# --- refusals


def test_loss_that_is_not_finite_names_step_and_rate_and_keeps_the_last_finite_state(tmp_path: Path) -> None:
    splits, (train, test) = gaussians()
    config = replace(CACHED, lr=1e36, epochs=3)
    with pytest.raises(InputError, match=r"^loss is (nan|inf) at step \d \(rate 1e\+36, batch 16\); .*; lower lr") as e:
        probe(tmp_path, splits, config, features=(1e6 * train, test))
    assert f"last finite state: {tmp_path / 'state.pt'}" in str(e.value)
    assert all(tensor.isfinite().all() for tensor in layer(tmp_path).values())


def test_weight_that_is_not_finite_after_the_last_step_is_not_saved(tmp_path: Path) -> None:
    splits, (train, test) = gaussians()
    config = replace(CACHED, lr=1e38, epochs=1, batch_size=50)
    with pytest.raises(InputError, match=r"^a weight is not finite at step 1 \(rate 1e\+38, batch 50\)"):
        probe(tmp_path, splits, config, features=(1e4 * train, test))
    assert all(tensor.isfinite().all() for tensor in layer(tmp_path).values())


def test_features_must_fit_configuration_and_splits(tmp_path: Path) -> None:
    splits, features = gaussians()
    with pytest.raises(ValueError, match="expected cached features if and only if augment is off, got some"):
        probe(tmp_path, splits, CONFIG, features=features)
    with pytest.raises(ValueError, match="expected cached features if and only if augment is off, got none"):
        probe(tmp_path, splits, CACHED)
    with pytest.raises(ValueError, match=r"expected features of \[50, 30\] training and test images, got \[49, 30\]"):
        probe(tmp_path, splits, CACHED, features=(features[0][:49], features[1]))
    labels = torch.ones(50, 3, dtype=torch.int8)
    with pytest.raises(ValueError, match="expected one label for each image, got a multi-label set"):
        probe(tmp_path, replace(splits, train=Split(splits.train.images, labels)))
    assert not list(tmp_path.iterdir())


# --- ImageNet


def test_imagenet_is_read_in_sorted_class_folders(photographs: Path) -> None:
    splits = imagenet.splits(photographs, check_sizes=False)
    assert splits.classes == ("n01", "n02")
    assert splits.train.labels.tolist() == [0] * 4 + [1] * 4
    assert splits.test.labels.tolist() == [0, 0, 1, 1]
    assert splits.train.labels.dtype == torch.int64
    images = photographs / "imagenet"
    assert splits.train.images[5] == images / "train/n02/1.JPEG"
    assert splits.test.images == tuple(images / f"val/{name}.JPEG" for name in ("n01/0", "n01/1", "n02/0", "n02/1"))
    assert splits.val is None
    assert splits.notes == (
        "accepted sizes that differ from the published ones: expected 1000 classes, 1281167 training and 50000 test "
        "images, got 2 classes, 8 training and 4 test images",
    )


def test_imagenet_may_lie_in_any_of_its_folders(photographs: Path) -> None:
    assert len(imagenet.splits(photographs / "imagenet", check_sizes=False).test) == 4
    (photographs / "imagenet").rename(photographs / "ImageNet")
    assert len(imagenet.splits(photographs, check_sizes=False).test) == 4


def test_imagenet_that_is_incomplete_is_refused(photographs: Path) -> None:
    with pytest.raises(
        InputError, match="expected 1000 classes, 1281167 training and 50000 test images, got 2 classes"
    ):
        imagenet.splits(photographs)
    with pytest.raises(InputError, match=r"ImageNet .* not found: expected ImageNet/val or imagenet/val or val below"):
        imagenet.splits(photographs / "nowhere")
    (photographs / "imagenet/train").rename(photographs / "imagenet/training")
    with pytest.raises(InputError, match=r"not found: expected train and val in .*imagenet"):
        imagenet.splits(photographs, check_sizes=False)


def test_imagenet_with_other_validation_classes_is_refused(photographs: Path) -> None:
    val = photographs / "imagenet/val"
    (val / "n02").rename(val / "n03")
    with pytest.raises(InputError, match=r"the same class folders in .*imagenet/train and val, only one has n02, n03"):
        imagenet.splits(photographs, check_sizes=False)
    (val / "n03").rename(val / "n02")
    (val / "n01/0.JPEG").rename(val / "unsorted.JPEG")
    with pytest.raises(InputError, match=r"in every class folder of .*val and nowhere else: unsorted\.JPEG"):
        imagenet.splits(photographs, check_sizes=False)


def test_probe_runs_from_files_through_workers(photographs: Path, tmp_path: Path) -> None:
    splits = imagenet.splits(photographs, check_sizes=False)
    config = replace(CONFIG, size=16, test_resize=18, batch_size=3)
    helped = probe(tmp_path / "helped", splits, config, workers=2)
    assert_same(helped, probe(tmp_path / "alone", splits, config))
