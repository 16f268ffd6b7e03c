"""The checkpoint file: what goes in comes out, what does not fit is refused, and no save leaves a broken file."""

import contextlib
import dataclasses
import hashlib
import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import safetensors
import safetensors.torch
import torch
from torch import Tensor

from converters.backbones import build_backbone
from converters.checkpoint import IMAGENET_MEAN, IMAGENET_STD, Checkpoint, Pixels, Source, atomic_write, load, save
from converters.checkpoint import sha256 as file_sha256
from converters.errors import InputError

ROOT = Path(__file__).parents[1]

SOURCE = Source(
    method="byol-guided", branch="target", dataset='Übung "1"', epochs=20, seed=3, sha256="ab" * 32, version="0.1.0"
)
PIXELS = Pixels(size=32, mean=(0.1, 0.25, 1 / 3), std=(0.5, 0.2, 0.7))


def random_checkpoint(arch: str = "resnet18_cifar", seed: int = 0) -> Checkpoint:
    torch.manual_seed(seed)
    backbone = build_backbone(arch)
    backbone(torch.randn(2, 3, 32, 32))  # so that statistics and counters are not the initial ones
    return Checkpoint(arch, backbone.state_dict(), PIXELS, SOURCE)


@pytest.fixture(scope="module")
def checkpoint() -> Checkpoint:
    return random_checkpoint()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where a checkpoint may lie."""
    return tmp_path / "backbone.safetensors"


def assert_bit_equal(loaded: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert loaded.keys() == expected.keys()
    for name, tensor in expected.items():
        assert loaded[name].dtype == tensor.dtype, name
        assert loaded[name].shape == tensor.shape, name
        # as integers: 0.0 and -0.0 are equal, and not the same
        bits = (x.flatten().view(torch.uint8) for x in (loaded[name], tensor.detach().contiguous()))
        assert torch.equal(*bits), name


def write(path: Path, tensors: dict[str, Tensor], header: dict[str, str] | None) -> None:
    """A safetensors file that need not be a checkpoint."""
    safetensors.torch.save_file({name: x.contiguous() for name, x in tensors.items()}, path, header)


def header_of(checkpoint: Checkpoint) -> dict[str, str]:
    facts = {"format": 1, "arch": checkpoint.arch, "pixels": vars(checkpoint.pixels), "source": vars(checkpoint.source)}
    return {"checkpoint": json.dumps(facts)}


def test_checkpoint_comes_back_bit_for_bit_with_its_facts(checkpoint: Checkpoint, path: Path) -> None:
    state = dict(checkpoint.backbone)
    state["bn1.bias"] = torch.full((64,), -0.0)
    state["bn1.weight"] = torch.full((64,), 1e-42)  # a subnormal number
    original = dataclasses.replace(checkpoint, backbone=state)
    save(original, path)
    loaded = load(path)
    assert_bit_equal(loaded.backbone, state)
    assert (loaded.arch, loaded.pixels, loaded.source) == ("resnet18_cifar", PIXELS, SOURCE)
    assert loaded.backbone["bn1.num_batches_tracked"] == 1
    build_backbone(loaded.arch).load_state_dict(loaded.backbone, strict=True)


def test_unknown_seed_and_origin_come_back_as_none(checkpoint: Checkpoint, path: Path) -> None:
    source = dataclasses.replace(SOURCE, seed=None, sha256=None)
    save(dataclasses.replace(checkpoint, source=source, pixels=Pixels(size=224)), path)
    loaded = load(path)
    assert loaded.source == source
    assert loaded.pixels == Pixels(224, IMAGENET_MEAN, IMAGENET_STD, "RGB")


def test_tensors_of_any_memory_layout_and_trainable_parameters_can_be_saved(path: Path) -> None:
    torch.manual_seed(0)
    backbone = build_backbone("resnet18_cifar").to(memory_format=torch.channels_last)
    state = {**dict(backbone.named_parameters()), **dict(backbone.named_buffers())}
    save(Checkpoint("resnet18_cifar", state, PIXELS, SOURCE), path)
    loaded = load(path).backbone
    assert_bit_equal(loaded, state)
    assert not any(x.requires_grad for x in loaded.values())


def test_saved_file_is_plain_safetensors_with_facts_as_json(checkpoint: Checkpoint, path: Path) -> None:
    save(checkpoint, path)
    with safetensors.safe_open(path, framework="pt") as file:
        facts = json.loads(file.metadata()["checkpoint"])
    assert facts["arch"] == "resnet18_cifar"
    assert facts["source"] == vars(SOURCE)
    assert_bit_equal(safetensors.torch.load_file(path), checkpoint.backbone)


def test_equal_checkpoints_are_equal_files(checkpoint: Checkpoint, path: Path) -> None:
    """A result names its checkpoint by this number."""
    digests = set()
    for _ in range(4):
        save(checkpoint, path)
        digests.add(file_sha256(path))
    assert digests == {hashlib.sha256(path.read_bytes()).hexdigest()}


def test_saving_replaces_an_older_file_and_leaves_nothing_else(checkpoint: Checkpoint, path: Path) -> None:
    save(checkpoint, path)
    newer = random_checkpoint(seed=1)
    save(newer, path)
    assert_bit_equal(load(path).backbone, newer.backbone)
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize(
    ("name", "value", "problem"),
    [
        ("layer1.0.conv1.weight", None, r"missing layer1\.0\.conv1\.weight"),
        ("fc.weight", torch.zeros(10, 512), r"unexpected fc\.weight"),
        ("bn1.bias", torch.zeros(63), r"bn1\.bias has shape \(63,\) instead of \(64,\)"),
        ("bn1.bias", torch.full((64,), float("nan")), r"bn1\.bias is not finite"),
        ("bn1.running_var", torch.full((64,), float("inf")), r"bn1\.running_var is not finite"),
        ("bn1.bias", torch.zeros(64, dtype=torch.float16), r"bn1\.bias is torch\.float16 instead of torch\.float32"),
    ],
    ids=["missing", "extra", "misshapen", "nan", "infinite", "half"],
)
def test_wrong_tensor_is_refused_by_load_and_by_save(
    checkpoint: Checkpoint, path: Path, name: str, value: Tensor | None, problem: str
) -> None:
    state = {**checkpoint.backbone, name: value} if value is not None else dict(checkpoint.backbone)
    if value is None:
        del state[name]
    with pytest.raises(ValueError, match=problem) as refused:
        save(dataclasses.replace(checkpoint, backbone=state), path)
    assert not isinstance(refused.value, InputError)  # our own mistake, not the user's
    assert list(path.parent.iterdir()) == []
    write(path, state, header_of(checkpoint))
    with pytest.raises(InputError, match=rf"{path.name} does not hold exactly one resnet18_cifar backbone: {problem}"):
        load(path)


def test_many_problems_are_told_in_one_short_line(path: Path, checkpoint: Checkpoint) -> None:
    write(path, {"conv1.weight": checkpoint.backbone["conv1.weight"]}, header_of(checkpoint))
    with pytest.raises(InputError, match=r"missing bn1\.weight, .*, and 115 more$") as refused:
        load(path)
    assert len(str(refused.value)) < 500


@pytest.mark.parametrize("arch", ["resnet18", "resnet34"])
def test_file_that_claims_another_architecture_is_refused(checkpoint: Checkpoint, path: Path, arch: str) -> None:
    write(path, checkpoint.backbone, header_of(dataclasses.replace(checkpoint, arch=arch)))
    with pytest.raises(InputError, match=rf"does not hold exactly one {arch} backbone: "):
        load(path)


def test_unknown_architecture_in_the_header_is_refused(checkpoint: Checkpoint, path: Path) -> None:
    write(path, {"x": torch.zeros(1)}, header_of(dataclasses.replace(checkpoint, arch="resnet19")))
    with pytest.raises(InputError, match=r"unknown architecture 'resnet19'; did you mean"):
        load(path)


def test_truncated_file_is_refused_at_any_length(checkpoint: Checkpoint, path: Path) -> None:
    save(checkpoint, path)
    whole = path.stat().st_size
    for length in (whole - 1, whole // 2, 1000, 9, 8, 7, 1, 0):
        os.truncate(path, length)
        with pytest.raises(InputError, match=rf"{path.name} is truncated or no safetensors file"):
            load(path)


def test_file_that_is_no_safetensors_is_refused(path: Path) -> None:
    torch.save({"state_dict": {}}, path)
    with pytest.raises(InputError, match=r"truncated or no safetensors file"):
        load(path)


@pytest.mark.parametrize("header", [None, {}, {"format": "pt"}], ids=str)
def test_safetensors_of_others_are_refused(path: Path, header: dict[str, str] | None) -> None:
    write(path, {"conv1.weight": torch.zeros(64, 3, 7, 7)}, header)
    with pytest.raises(InputError, match=r"does not describe a checkpoint of this project; convert foreign"):
        load(path)


@pytest.mark.parametrize(
    "facts",
    [
        "",
        "{",
        "null",
        "[]",
        "{}",
        '{"arch": "resnet18", "pixels": null, "source": {}}',
        '{"arch": "resnet18", "pixels": [32], "source": {}}',
        '{"arch": "resnet18", "pixels": {"size": 32}, "source": {"method": "byol"}}',
        '{"arch": "resnet18", "pixels": {"size": 32, "colour": 1}, "source": {}}',
    ],
)
def test_header_that_describes_no_checkpoint_is_refused(path: Path, facts: str) -> None:
    write(path, {"x": torch.zeros(1)}, {"checkpoint": facts})
    with pytest.raises(InputError, match=r"its header does not describe a checkpoint"):
        load(path)


@pytest.mark.parametrize("arch", [["resnet18"], None], ids=str)
def test_architecture_in_the_header_that_is_no_name_is_refused(checkpoint: Checkpoint, path: Path, arch: str) -> None:
    write(path, {"x": torch.zeros(1)}, header_of(dataclasses.replace(checkpoint, arch=arch)))
    with pytest.raises(InputError):
        load(path)


@pytest.mark.parametrize("name", ["absent.safetensors", ""], ids=["absent", "folder"])
def test_path_that_is_no_file_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match=r"checkpoint .* not found; expected a \.safetensors file"):
        load(tmp_path / name)


@pytest.mark.parametrize("place", ["absent/backbone.safetensors", "file/backbone.safetensors"])
def test_folder_that_cannot_be_written_is_the_users_mistake(checkpoint: Checkpoint, tmp_path: Path, place: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=rf"cannot write .*{place}: .+; choose another --output"):
        save(checkpoint, tmp_path / place)
    assert [x.name for x in tmp_path.iterdir()] == ["file"]


@contextlib.contextmanager
def largest_file(num_bytes: int) -> Iterator[None]:
    """As on a disk that fills up: what is written beyond the limit fails."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)


def test_save_onto_a_full_disk_leaves_the_old_file_whole_and_no_other(checkpoint: Checkpoint, path: Path) -> None:
    save(checkpoint, path)
    with largest_file(10_000_000), pytest.raises((OSError, safetensors.SafetensorError, InputError)):
        save(random_checkpoint(seed=1), path)
    assert list(path.parent.iterdir()) == [path]
    assert_bit_equal(load(path).backbone, checkpoint.backbone)


HALF_A_SAVE = """
import dataclasses, sys, time
from pathlib import Path
import safetensors.torch
from converters import checkpoint

def write_half(tensors, path, metadata):
    content = safetensors.torch.save(tensors, metadata)
    Path(path).write_bytes(content[: len(content) // 2])
    print("half written", flush=True)
    time.sleep(3600)

path = Path(sys.argv[1])
old = checkpoint.load(path)
new = dataclasses.replace(old, backbone={name: 2 * tensor for name, tensor in old.backbone.items()})
safetensors.torch.save_file = write_half
checkpoint.save(new, path)
"""


def test_save_that_is_killed_half_way_leaves_the_old_file_whole(checkpoint: Checkpoint, path: Path) -> None:
    save(checkpoint, path)
    process = subprocess.Popen(
        [sys.executable, "-c", HALF_A_SAVE, path],
        env=os.environ | {"PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "half written\n"
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert_bit_equal(load(path).backbone, checkpoint.backbone)
    (rest,) = set(path.parent.iterdir()) - {path}
    assert not rest.match("*.safetensors")  # nobody takes it for a checkpoint
    newer = random_checkpoint(seed=1)
    save(newer, path)
    assert_bit_equal(load(path).backbone, newer.backbone)


def test_atomic_write_shows_the_new_content_only_when_the_block_has_ended(tmp_path: Path) -> None:
    path = tmp_path / "log.json"
    path.write_text("old")
    with atomic_write(path) as temporary:
        assert temporary.parent == tmp_path  # the same file system, else moving is copying
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_atomic_write_that_fails_keeps_the_old_file_and_no_temporary_one(
    tmp_path: Path, error: type[BaseException]
) -> None:
    path = tmp_path / "log.json"
    path.write_text("old")

    def interrupted() -> None:
        with atomic_write(path) as temporary:
            temporary.write_text("ne")
            raise error

    with pytest.raises(error):
        interrupted()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_written_files_can_be_read_by_others(tmp_path: Path) -> None:
    with atomic_write(tmp_path / "log.json") as temporary:
        temporary.write_text("new")
    assert (tmp_path / "log.json").stat().st_mode & 0o777 == 0o644
