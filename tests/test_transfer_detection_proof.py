"""What a detection run proves of the detector that it is going to train, and what it refuses."""

import copy
import json
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from converters import checkpoint as checkpoints
from converters import verify
from converters.backbones import build_backbone
from converters.checkpoint import Checkpoint, Pixels, Source
from converters.errors import InputError
from converters.reading import Request, certificate_path
from converters.targets import quiet, to_detectron2
from transfer.detection_config import build_plan
from transfer.detection_proof import check_features, check_trainable, trial
from transfer.starting_weights import certify, choose

with quiet():
    from detectron2.checkpoint import DetectionCheckpointer
    from detectron2.modeling import build_model
    from detectron2.structures import BoxMode

CPU = torch.device("cpu")


@cache
def trained_like() -> Checkpoint:
    """A ResNet-18 whose batch norms do not look untouched."""
    torch.manual_seed(0)
    backbone = build_backbone("resnet18")
    with torch.no_grad():
        for name, buffer in backbone.named_buffers():
            if name.endswith("running_mean"):
                buffer.normal_(0, 0.1)
            elif name.endswith("running_var"):
                buffer.uniform_(0.5, 1.5)
    source = Source("simsiam", "online", "drawings", 2, 0, None, "0")
    return Checkpoint("resnet18", backbone.state_dict(), Pixels(64), source)


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("original") / "checkpoint.safetensors"
    checkpoints.save(trained_like(), path)
    return path


def detector(tmp_path: Path, *opts: str) -> tuple[Any, Any]:
    """A detector with the weights of `trained_like`, and its configuration."""
    path = tmp_path / "backbone.pth"
    to_detectron2.write(trained_like(), path)
    run = {"MODEL.DEVICE": "cpu", "MODEL.ROI_HEADS.NUM_CLASSES": 3}
    config = build_plan("sample", "sample", trained_like(), path, run, opts=opts).config
    with quiet():
        model = build_model(config)
        DetectionCheckpointer(model).load(str(path))
    return model, config


@pytest.mark.parametrize(("freeze_at", "count"), [(0, 20), (1, 19), (2, 15), (3, 10), (4, 5), (5, 0)])
def test_protocol_trains_what_its_freeze_at_says(tmp_path: Path, freeze_at: int, count: int) -> None:
    model, config = detector(tmp_path, "MODEL.BACKBONE.FREEZE_AT", str(freeze_at))
    lines = check_trainable(model, config)
    assert f"({count} tensors, " in lines[0]
    stages = ["stem", "res2", "res3", "res4", "res5"][freeze_at:] or ["nothing"]
    assert lines[0].startswith(f"trains of the backbone: {', '.join(stages)} (")


def test_one_tensor_too_many_is_refused(tmp_path: Path) -> None:
    model, config = detector(tmp_path)
    model.backbone.bottom_up.stem.conv1.weight.requires_grad = True
    with pytest.raises(InputError, match=r"FREEZE_AT 4: expected 5 tensors of the backbone to train, got 6 \(stem"):
        check_trainable(model, config)


def test_detector_that_computes_what_the_checkpoint_does_passes(tmp_path: Path) -> None:
    model, config = detector(tmp_path)
    assert "pixels: RGB, mean [123.675, 116.28, 103.53]" in check_features(model, config, trained_like())


def _swap_stem(model: Any) -> None:
    weight = model.backbone.bottom_up.stem.conv1.weight
    weight.data = weight.data.flip(1)


def _random_stem(model: Any) -> None:
    torch.nn.init.kaiming_normal_(model.backbone.bottom_up.stem.conv1.weight)


def _one_tensor_of_another(model: Any) -> None:
    model.backbone.bottom_up.res5[1].conv2.weight.data += 1e-3


def _std_one(model: Any) -> None:
    model.pixel_std.fill_(1.0)


@pytest.mark.usefixtures("small_pictures")
@pytest.mark.parametrize("damage", [_swap_stem, _random_stem, _one_tensor_of_another, _std_one])
def test_damaged_detector_is_refused(tmp_path: Path, damage: Callable[[Any], None]) -> None:
    model, config = detector(tmp_path)
    with torch.no_grad():
        damage(model)
    with pytest.raises(InputError, match="the network's backbone does not compute what the checkpoint does"):
        check_features(model, config, trained_like())


@pytest.mark.usefixtures("small_pictures")
@pytest.mark.parametrize(
    "opts",
    [
        ("INPUT.FORMAT", "BGR"),  # swapped channels
        ("MODEL.PIXEL_MEAN", "[103.53, 116.28, 123.675]"),
        ("MODEL.RESNETS.STEM_OUT_CHANNELS", "32"),  # a stem that the weights do not fit: it stays random
    ],
)
def test_options_that_make_the_backbone_another_are_refused(tmp_path: Path, opts: tuple[str, ...]) -> None:
    with pytest.raises(InputError, match="the network's backbone does not compute what the checkpoint does"):
        check_features(*detector(tmp_path, *opts), trained_like())


@pytest.fixture
def records(tmp_path: Path) -> list[dict[str, Any]]:
    path = tmp_path / "image.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)).save(path)
    box = {"bbox": [5.0, 5.0, 40.0, 50.0], "bbox_mode": BoxMode.XYXY_ABS, "category_id": 1}
    return [{"file_name": str(path), "image_id": 0, "width": 80, "height": 60, "annotations": [box]}]


def test_trial_of_an_iteration_leaves_no_trace(tmp_path: Path, records: list[dict[str, Any]]) -> None:
    model, config = detector(tmp_path)
    before = copy.deepcopy(model.state_dict())
    cost = trial(model, config, records, batch=2)
    assert 0 < cost.seconds < 60
    assert cost.memory > 2**27
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_trial_without_memory_is_a_sentence(
    tmp_path: Path, records: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, config = detector(tmp_path)

    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(model.backbone, "forward", full)
    with pytest.raises(
        InputError, match=r"not enough memory \(CUDA out of memory\); 2 images of 144 px in a process: lower"
    ):
        trial(model, config, records, batch=2)


def test_checkpoint_is_certified_for_detectron2(tmp_path: Path, original: Path) -> None:
    weights = choose(str(original), Request(), 0, [], CPU)
    path = tmp_path / "backbone.pth"
    [line] = certify(weights, Request(), "detectron2", path, allow_unverified=False)
    assert line.startswith("certificate: ")
    certificate = json.loads(certificate_path(path).read_text())
    assert {part["framework"]: part["status"] for part in certificate["frameworks"]} == {"detectron2": "passed"}


@pytest.fixture(scope="module")
def certified_once(tmp_path_factory: pytest.TempPathFactory, original: Path) -> Path:
    path = tmp_path_factory.mktemp("certified") / "converted.pth"
    certify(choose(str(original), Request(), 0, [], CPU), Request(), "detectron2", path, allow_unverified=False)
    return path


@pytest.fixture
def certified(tmp_path: Path, certified_once: Path) -> Path:
    """A file for Detectron2 with its certificate, as converters/convert.py leaves it."""
    for path in (certified_once, certificate_path(certified_once)):
        shutil.copy(path, tmp_path)
    return tmp_path / certified_once.name


@pytest.mark.usefixtures("small_pictures")
@pytest.mark.parametrize("random", [False, True], ids=["swapped channels", "random stem"])
def test_file_that_changed_after_it_was_certified_is_refused(tmp_path: Path, certified: Path, random: bool) -> None:
    content = torch.load(certified, weights_only=True)
    stem = "backbone.bottom_up.stem.conv1.weight"
    weight = content["model"][stem]
    content["model"][stem] = torch.randn_like(weight) if random else weight.flip(1)
    torch.save(content, certified)
    weights = choose(str(certified), Request(), 0, [], CPU)
    with pytest.raises(InputError, match=r"no valid certificate \(it was changed after converted.pth.certificate.json"):
        certify(weights, Request(), "detectron2", tmp_path / "backbone.pth", allow_unverified=False)
    [line] = certify(weights, Request(), "detectron2", tmp_path / "backbone.pth", allow_unverified=True)
    assert line.startswith("WITHOUT a valid certificate, as asked for: it was changed after")


@pytest.mark.usefixtures("small_pictures")
def test_certified_file_is_accepted_again(tmp_path: Path, certified: Path) -> None:
    weights = choose(str(certified), Request(), 0, [], CPU)
    [line] = certify(weights, Request(), "detectron2", tmp_path / "backbone.pth", allow_unverified=False)
    assert line.startswith("certificate")


@pytest.mark.usefixtures("small_pictures")
def test_conversion_that_swaps_channels_fails_its_certificate(
    tmp_path: Path, original: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    facts = to_detectron2.facts
    monkeypatch.setattr(to_detectron2, "facts", lambda *args: facts(*args).replace("FORMAT: RGB", "FORMAT: BGR"))
    weights = choose(str(original), Request(), 0, [], CPU)
    with pytest.raises(InputError, match=r"no valid certificate \(detectron2: float32 outputs differ"):
        certify(weights, Request(), "detectron2", tmp_path / "backbone.pth", allow_unverified=False)


@pytest.mark.usefixtures("small_pictures")
def test_untrained_batch_norms_have_no_valid_certificate(tmp_path: Path) -> None:
    fresh = trained_like()
    backbone = build_backbone("resnet18").state_dict()
    path = tmp_path / "fresh.safetensors"
    checkpoints.save(Checkpoint("resnet18", backbone, fresh.pixels, fresh.source), path)
    weights = choose(str(path), Request(), 0, [], CPU)
    with pytest.raises(InputError, match="batch norms have mean 0 and variance 1, as if never trained"):
        certify(weights, Request(), "detectron2", tmp_path / "backbone.pth", allow_unverified=False)


def test_control_has_batch_norm_statistics_of_the_images_and_no_certificate(
    tmp_path: Path, records: list[dict[str, Any]]
) -> None:
    images = [record["file_name"] for record in records]
    one, again, other = (choose("random:resnet18", Request(), seed, images, CPU) for seed in (0, 0, 1))
    assert not list(verify._fresh_norms(one.checkpoint))
    assert all(torch.equal(tensor, again.checkpoint.backbone[name]) for name, tensor in one.checkpoint.backbone.items())
    assert not torch.equal(one.checkpoint.backbone["conv1.weight"], other.checkpoint.backbone["conv1.weight"])
    path = tmp_path / "backbone.pth"
    assert certify(one, Request(), "detectron2", path, allow_unverified=False) == [
        "no certificate: this is a control and has no original"
    ]
    assert path.is_file()
    assert not certificate_path(path).exists()
