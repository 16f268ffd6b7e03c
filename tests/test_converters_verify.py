"""The certificate: what passes, and that every known way to spoil a transfer silently fails it."""

import dataclasses
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from converters import targets, verify
from converters.backbones import build_backbone
from converters.checkpoint import Checkpoint, Pixels, sha256
from converters.reading import Request, read_checkpoint
from converters.verify import FAILED, NOT_APPLICABLE, PASSED, TOLERANCE, UNCHECKED, Certificate, certify

DENSE = ("detectron2", "mmseg")


def trained_state(arch: str, seed: int) -> dict[str, Tensor]:
    """As after training: no batch norm has its initial statistics, no counter is 0."""
    torch.manual_seed(seed)
    state = build_backbone(arch).state_dict()
    for name, tensor in state.items():
        if name.endswith("running_mean"):
            tensor.normal_(0, 0.1)
        elif name.endswith("running_var"):
            tensor.uniform_(0.5, 1.5)
        elif name.endswith("num_batches_tracked"):
            tensor.fill_(40 + seed)
    return state


def moco_file(path: Path, online: dict[str, Tensor], momentum: dict[str, Tensor]) -> Path:
    state = {f"module.encoder_q.{name}": tensor for name, tensor in online.items()}
    state |= {f"module.encoder_k.{name}": tensor for name, tensor in momentum.items()}
    torch.save({"epoch": 200, "arch": "resnet18", "state_dict": state}, path)
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("verify")
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def original(folder: Path) -> Path:
    return moco_file(folder / "original.pth", trained_state("resnet18", 1), trained_state("resnet18", 2))


ONLINE = Request(branch="online")


@pytest.fixture(scope="module")
def checkpoint(original: Path) -> Checkpoint:
    return read_checkpoint(original, ONLINE).checkpoint


@pytest.fixture
def written(tmp_path: Path, checkpoint: Checkpoint) -> Callable[[str], Path]:
    """Writes the checkpoint as a target's file, facts beside it."""

    def write(target: str) -> Path:
        path = tmp_path / f"{target}{targets.find(target).SUFFIX}"
        verify.write(checkpoint, target, path, path)
        return path

    return write


def statuses(certificate: Certificate) -> dict[str, str]:
    return {part.framework: part.status for part in certificate.parts}


def reasons(certificate: Certificate, framework: str) -> str:
    return "; ".join(next(part.reasons for part in certificate.parts if part.framework == framework))


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert text.count(old) == 1
    path.write_text(text.replace(old, new))


@pytest.mark.parametrize("target", targets.names())
def test_conversion_passes_in_every_framework_bit_for_bit(
    target: str, original: Path, written: Callable[[str], Path]
) -> None:
    output = written(target)
    certificate = certify(original, ONLINE, output, target)
    expected = dict.fromkeys(("torchvision", *DENSE), PASSED)
    assert statuses(certificate) == ({target: PASSED} if target == "safetensors" else {}) | expected
    assert certificate.failures == certificate.unchecked == []
    tensors = {part.framework: part.tensors for part in certificate.parts}
    # checkpoints of ResNet-18: 120 tensors, 100 without the counters that Detectron2's frozen batch norm lacks
    assert (tensors["torchvision"], tensors["detectron2"], tensors["mmseg"]) == ((120, 120), (100, 100), (120, 120))
    content = json.loads(certificate.to_json())
    assert content["input"]["sha256"] == sha256(original)
    assert content["output"]["sha256"] == sha256(output)
    assert ("facts" in content) == (target in DENSE)
    for part in content["frameworks"]:
        for dtype, limit in TOLERANCE.items():
            assert list(part["differences"][dtype]) == ["layer1", "layer2", "layer3", "layer4"]
            assert all(0 <= value < limit for value in part["differences"][dtype].values())
        assert part["versions"]


@pytest.mark.usefixtures("small_pictures")
def test_certificate_of_the_same_conversion_is_the_same_text(original: Path, written: Callable[[str], Path]) -> None:
    output = written("torchvision")
    first, second = (certify(original, ONLINE, output, "torchvision").to_json() for _ in range(2))
    assert first == second


# what is changed in the facts, and the framework that then computes something else
SPOILT_FACTS = {
    "BGR in Detectron2": ("detectron2", "FORMAT: RGB", "FORMAT: BGR"),
    "std 1 in Detectron2": ("detectron2", "PIXEL_STD: [58.395, 57.12, 57.375]", "PIXEL_STD: [1.0, 1.0, 1.0]"),
    "mean of another order": ("detectron2", "[123.675, 116.28, 103.53]", "[103.53, 116.28, 123.675]"),
    "BGR in MMSegmentation": ("mmseg", "bgr_to_rgb=True", "bgr_to_rgb=False"),
    "std 1 in MMSegmentation": ("mmseg", "std=[58.395, 57.12, 57.375]", "std=[1.0, 1.0, 1.0]"),
    "ResNetV1c": ("mmseg", 'type="ResNet",', 'type="ResNetV1c",'),
    "deep stem": ("mmseg", "deep_stem=False", "deep_stem=True"),
    "another depth": ("mmseg", "depth=18", "depth=34"),
    "another prefix": ("mmseg", 'prefix="backbone."', 'prefix="encoder."'),
}


@pytest.mark.usefixtures("small_pictures")
@pytest.mark.parametrize("spoilt", SPOILT_FACTS)
def test_certificate_fails_for_facts_that_spoil_the_features(
    spoilt: str, original: Path, written: Callable[[str], Path]
) -> None:
    target, old, new = SPOILT_FACTS[spoilt]
    output = written(target)
    facts = verify.facts_path(output, target)
    assert facts is not None
    edit(facts, old, new)
    certificate = certify(original, ONLINE, output, target)
    assert statuses(certificate) == {"torchvision": PASSED, **dict.fromkeys(DENSE, PASSED), target: FAILED}
    assert certificate.failures


@pytest.mark.usefixtures("small_pictures")
def test_certificate_fails_for_the_stride_in_the_other_convolution(tmp_path: Path) -> None:
    """Only bottlenecks have the choice: ResNet-50. Names and shapes are the same; only the outputs differ."""
    state = trained_state("resnet50", 3)
    original = tmp_path / "plain.pth"
    torch.save(state, original)
    request = Request(source="torchvision")
    output = tmp_path / "out.pth"
    verify.write(read_checkpoint(original, request).checkpoint, "detectron2", output, output)
    edit(output.with_suffix(".yaml"), "STRIDE_IN_1X1: False", "STRIDE_IN_1X1: True")
    certificate = certify(original, request, output, "detectron2")
    assert statuses(certificate) == {"torchvision": PASSED, "mmseg": PASSED, "detectron2": FAILED}
    part = next(part for part in certificate.parts if part.framework == "detectron2")
    assert part.tensors == (265, 265)
    assert "outputs differ" in reasons(certificate, "detectron2")


@pytest.mark.usefixtures("small_pictures")
@pytest.mark.parametrize("target", targets.names())
def test_certificate_fails_for_the_momentum_branch_taken_for_the_online_one(
    target: str, original: Path, tmp_path: Path
) -> None:
    output = tmp_path / f"out{targets.find(target).SUFFIX}"
    momentum = read_checkpoint(original, Request(branch="target")).checkpoint
    verify.write(momentum, target, output, output)
    certificate = certify(original, ONLINE, output, target, frameworks=())
    assert statuses(certificate) == {target: FAILED}
    assert "not equal to the original: " in reasons(certificate, target)
    assert certify(original, Request(branch="target"), output, target).failures == []


def swap_pair(model: dict[str, Tensor]) -> None:
    """Two convolutions of equal shape."""
    first, second = [name for name in model if name.endswith("0.conv2.weight")][:1] * 2
    second = first.replace(".0.conv2.", ".1.conv2.")
    assert model[first].shape == model[second].shape
    model[first], model[second] = model[second], model[first]


def drop_layer(model: dict[str, Tensor]) -> None:
    for name in [name for name in model if ".1.conv1." in name]:
        del model[name]


def change_one_value(model: dict[str, Tensor]) -> None:
    """By one unit in the last place of one batch-norm variance: no output shows it."""
    name = next(name for name in model if name.endswith("running_var"))
    model[name][0] = torch.nextafter(model[name][0], torch.tensor(2.0))


def transpose(model: dict[str, Tensor]) -> None:
    name = next(name for name in model if name.endswith("1.conv2.weight"))
    model[name] = model[name].transpose(0, 1).contiguous()


@pytest.mark.usefixtures("small_pictures")
@pytest.mark.parametrize("target", ["detectron2", "mmseg", "torchvision"])
@pytest.mark.parametrize("spoil", [swap_pair, drop_layer, change_one_value, transpose])
def test_certificate_fails_for_spoilt_weights(
    target: str, spoil: Callable[[dict[str, Tensor]], None], original: Path, written: Callable[[str], Path]
) -> None:
    output = written(target)
    content = torch.load(output, weights_only=True)
    spoil(content.get("model") or content.get("state_dict") or content)
    torch.save(content, output)
    certificate = certify(original, ONLINE, output, target)
    assert statuses(certificate) == {"torchvision": PASSED, **dict.fromkeys(DENSE, PASSED), target: FAILED}


@pytest.mark.usefixtures("small_pictures")
def test_network_that_was_never_trained_fails(tmp_path: Path) -> None:
    original, output = tmp_path / "fresh.pth", tmp_path / "out.pth"
    torch.save(build_backbone("resnet18").state_dict(), original)
    request = Request(source="torchvision")
    verify.write(read_checkpoint(original, request).checkpoint, "torchvision", output, output)
    assert "as if never trained" in certify(original, request, output, "torchvision", frameworks=()).failures[0]


@pytest.mark.usefixtures("small_pictures")
def test_framework_that_is_not_installed_is_named_and_nothing_else_suffers(
    original: Path, written: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    output = written("mmseg")
    monkeypatch.setitem(__import__("sys").modules, "detectron2", None)  # as if absent: the import raises
    certificate = certify(original, ONLINE, output, "mmseg")
    assert statuses(certificate) == {"torchvision": PASSED, "detectron2": UNCHECKED, "mmseg": PASSED}
    assert certificate.failures == []
    assert "cannot be imported" in certificate.unchecked[0]


@pytest.mark.usefixtures("small_pictures")
@pytest.mark.parametrize("arch", ["resnet18_cifar", "resnet18_cifar_pad2", "resnet50_same"])
def test_architecture_that_frameworks_lack_is_certified_where_it_can_be(arch: str, tmp_path: Path) -> None:
    checkpoint = dataclasses.replace(
        read_own(tmp_path, "resnet18"), arch=arch, backbone=trained_state(arch, 4), pixels=Pixels(32)
    )
    original, output = tmp_path / "own.safetensors", tmp_path / "out.safetensors"
    verify.write(checkpoint, "safetensors", original, original)
    verify.write(checkpoint, "safetensors", output, output)
    certificate = certify(original, Request(), output, "safetensors")
    frameworks = dict.fromkeys(("torchvision", *DENSE), NOT_APPLICABLE)
    assert statuses(certificate) == {"safetensors": PASSED, **frameworks}
    assert f"this is {arch}" in reasons(certificate, "detectron2")


def read_own(folder: Path, arch: str) -> Checkpoint:
    path = folder / "plain.pth"
    torch.save(trained_state(arch, 1), path)
    return read_checkpoint(path, Request(source="torchvision")).checkpoint


@pytest.mark.usefixtures("small_pictures")
def test_pixels_of_the_origin_reach_every_framework(tmp_path: Path) -> None:
    """SimCLR v1 of TensorFlow wants images in 0..1 without mean."""
    original = tmp_path / "simclr.pth"
    torch.save({"state_dict": trained_state("resnet18", 5)}, original)
    request = Request(source="tf_simclr")
    checkpoint = read_checkpoint(original, request).checkpoint
    assert (checkpoint.pixels.mean, checkpoint.pixels.std) == ((0, 0, 0), (1, 1, 1))
    output = tmp_path / "out.pth"
    verify.write(checkpoint, "detectron2", output, output)
    assert "PIXEL_MEAN: [0.0, 0.0, 0.0]\n  PIXEL_STD: [255.0, 255.0, 255.0]" in output.with_suffix(".yaml").read_text()
    assert certify(original, request, output, "detectron2").failures == []


@pytest.mark.parametrize("target", targets.names())
@pytest.mark.parametrize("arch", ["resnet18", "resnet34"])
def test_ours_to_theirs_to_ours_is_the_identity(target: str, arch: str, tmp_path: Path) -> None:
    """Weights, counters, pixels and source: through a target's file and back."""
    checkpoint = read_own(tmp_path, arch)
    checkpoint = dataclasses.replace(checkpoint, pixels=Pixels(192, (0.1, 0.2, 0.3), (0.4, 0.5, 0.6)))
    output = tmp_path / f"out{targets.find(target).SUFFIX}"
    verify.write(checkpoint, target, output, output)
    if target == "torchvision":  # a flat dict has no room for facts: they stand in the certificate
        request = Request(source="torchvision", mean=checkpoint.pixels.mean, std=checkpoint.pixels.std)
        back = read_checkpoint(output, request).checkpoint
    else:
        back = read_checkpoint(output, Request()).checkpoint
        assert (back.pixels, back.source) == (checkpoint.pixels, checkpoint.source)
    assert back.arch == arch
    assert list(back.backbone) == list(checkpoint.backbone)
    assert all(torch.equal(back.backbone[name], tensor) for name, tensor in checkpoint.backbone.items())
    assert {x.dtype for x in back.backbone.values()} == {torch.float32, torch.int64}


def test_every_output_loads_without_running_code(written: Callable[[str], Path]) -> None:
    for target in ("torchvision", "detectron2", "mmseg"):
        content = torch.load(written(target), weights_only=True)
        assert content
    model = torch.load(written("detectron2"), weights_only=True)
    # "Caffe2" there, or heuristics, would let Detectron2 rename
    assert (model["__author__"], model["matching_heuristics"]) == ("gsg-transfer", False)


@pytest.mark.parametrize(
    ("arch", "tensors"), [("resnet18", 100), ("resnet34", 180), ("resnet50", 265), ("resnet101", 520)]
)
def test_names_of_detectron2_are_one_to_one_at_every_depth(arch: str, tensors: int, tmp_path: Path) -> None:
    """Counts of Detectron2's bottom_up with frozen batch norm; the file loads there by exact names."""
    path = tmp_path / "out.pth"
    checkpoint = read_own(tmp_path, arch)
    verify.write(checkpoint, "detectron2", path, path)
    model = torch.load(path, weights_only=True)["model"]
    assert len(model) == tensors
    loaded = targets.find("detectron2").load(path, checkpoint)
    assert len(loaded.tensors) == tensors
    assert all(torch.equal(tensor, checkpoint.backbone[name]) for name, tensor in loaded.tensors.items())
