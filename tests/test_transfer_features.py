"""Frozen features: every image once, the backbone untouched, fast and plain alike, found again; several ranks as one.

The file is also the program that the two ranks run.
"""

import os
import resource
import socket
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from converters import distributed
from converters.backbones import build_backbone
from converters.checkpoint import Pixels
from converters.distributed import Ranks
from converters.errors import InputError
from transfer import features, inference, progress
from transfer.features import Features, calibrate_batch_norm, frozen_features
from transfer.inference import FrozenBackbone, fingerprint, full_precision
from transfer.preprocessing import Images, normalise, prepared

CPU = torch.device("cpu")
ALONE = Ranks(0, 1, CPU)
PIXELS = Pixels(size=32)
WORLD_SIZE = 2
TIMEOUT_S = 300  # only so that a hanging process ends; what they do takes seconds


def random_images(num: int = 11, size: int = 32) -> Tensor:
    return torch.randint(256, (num, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def build(arch: str = "resnet18") -> nn.Module:
    """With statistics and gains that folding must respect."""
    torch.manual_seed(0)
    backbone = build_backbone(arch)
    for module in backbone.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias)
            nn.init.normal_(module.running_mean)  # type: ignore[arg-type]
            nn.init.uniform_(module.running_var, 0.5, 2)  # type: ignore[arg-type]
    return backbone


def toy() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 5, 3, 2), nn.BatchNorm2d(5), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())


@torch.no_grad()
def plain(backbone: nn.Module, images: Images, pixels: Pixels = PIXELS) -> Tensor:
    """One image after the other."""
    backbone.eval()
    with prepared(images, [[index] for index in range(len(images))], pixels.size, workers=0) as batches:
        return torch.cat([backbone(normalise(batch, pixels, CPU).contiguous()) for batch in batches])


def compute(backbone: nn.Module, images: Images, folder: Path, pixels: Pixels = PIXELS) -> Tensor:
    return torch.from_numpy(frozen_features(backbone, images, pixels, ranks=ALONE, folder=folder).copy())


def files(folder: Path, num: int = 11) -> tuple[Path, ...]:
    folder.mkdir(parents=True)
    paths = tuple(folder / f"{index}.png" for index in range(num))
    for image, path in zip(random_images(num), paths, strict=True):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(path)
    return paths


class Drifting(nn.Module):
    """Counts its calls in a buffer, in evaluation mode too."""

    calls: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(1))

    def forward(self, images: Tensor) -> Tensor:
        self.calls += 1
        return images.mean(dim=(2, 3))


class Scaling(nn.Module):
    """Features that depend on what else is in the batch."""

    def forward(self, images: Tensor) -> Tensor:
        return images.mean(dim=(2, 3)) * images.stride(1)


@pytest.fixture(autouse=True)
def _small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inference, "_LARGEST_BATCH", 4)  # 11 images: two batches and a partial one


@pytest.mark.parametrize("arch", ["resnet18", "resnet50", "resnet18_cifar", "resnet50_same"])
def test_features_equal_a_plain_loop_over_single_images(arch: str, tmp_path: Path) -> None:
    backbone, images = build(arch), random_images()
    computed, expected = compute(backbone, images, tmp_path), plain(backbone, images)
    assert computed.dtype == torch.float32
    assert computed.shape == expected.shape
    assert (computed - expected).abs().max() <= 1e-5 * (1 + expected.abs().max())


def test_features_of_files_are_those_of_their_pixels(tmp_path: Path) -> None:
    backbone = toy()
    computed = compute(backbone, files(tmp_path / "images"), tmp_path / "cache")
    torch.testing.assert_close(computed, compute(backbone, random_images(), tmp_path / "cache"), rtol=0, atol=0)


def test_raw_pixels_are_a_backbone_too(tmp_path: Path) -> None:
    images = random_images()
    computed = compute(nn.Flatten(), images, tmp_path, Pixels(32, mean=(0, 0, 0), std=(1, 1, 1)))
    assert computed.equal(images.flatten(1) / 255)


@pytest.mark.parametrize("num", [1, 3, 4, 5])
def test_every_number_of_images_is_computed_exactly_once(num: int, tmp_path: Path) -> None:
    images = random_images(num)
    torch.testing.assert_close(compute(toy(), images, tmp_path), plain(toy(), images))


def test_frozen_probe_leaves_backbone_bit_identical(tmp_path: Path) -> None:
    backbone = build().train()
    before = {name: tensor.clone() for name, tensor in backbone.state_dict().items()}
    compute(backbone, random_images(), tmp_path)
    after = backbone.state_dict()
    assert all(before[name].equal(after[name]) for name in before)
    assert before.keys() == after.keys()
    assert all(module.training for module in backbone.modules())
    assert all(module.weight.is_contiguous() for module in backbone.modules() if isinstance(module, nn.Conv2d))


def test_backbone_that_changes_in_evaluation_is_noticed(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="frozen backbone changed"):
        compute(Drifting(), random_images(), tmp_path)


def test_backbone_that_is_not_the_same_when_fast_is_noticed(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match=r"features differ from the plain one's by [\d.e+]+ \(the largest is"):
        compute(Scaling(), random_images(), tmp_path)
    assert not list(tmp_path.iterdir())


def test_backbone_that_amplifies_rounding_is_judged_in_float64(tmp_path: Path) -> None:
    backbone, images = toy(), random_images()
    backbone[3] = nn.AdaptiveMaxPool2d(1)  # type: ignore[index]
    nn.init.constant_(backbone[0].bias, 1e5)  # type: ignore[index, arg-type]
    nn.init.constant_(backbone[1].running_mean, 1e5)  # type: ignore[index, arg-type]
    nn.init.zeros_(backbone[1].running_var)  # type: ignore[index, arg-type]
    computed, expected = compute(backbone, images, tmp_path), plain(backbone, images)
    assert (computed - expected).abs().max() > 1e-5 * (1 + expected.abs().max())
    with prepared(images, [range(11)], 32) as batches, torch.no_grad():
        exact = backbone.double()(normalise(next(batches), PIXELS, CPU).double())
    assert (computed - exact).abs().max() < (expected - exact).abs().max()


def test_compiled_backbone_agrees_and_serves_full_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inference, "COMPILE_FROM", 0)
    images = random_images(8).permute(0, 2, 3, 1).contiguous()
    network = FrozenBackbone(toy(), images, PIXELS, CPU, num_images=8)
    assert network._fast is not network._folded
    expected = plain(toy(), random_images(8))
    torch.testing.assert_close(network(images[:4]), expected[:4])
    torch.testing.assert_close(network(images[:3]), expected[:3])


def test_machine_without_compiler_goes_on_and_says_so(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(inference, "COMPILE_FROM", 0)
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "inductor"))
    torch._dynamo.reset()
    with torch._inductor.config.patch({"cpp.cxx": (str(tmp_path / "no-compiler"),), "fx_graph_cache": False}):
        computed = compute(toy(), random_images(), tmp_path / "cache")
    torch.testing.assert_close(computed, plain(toy(), random_images()))
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("going on without torch.compile, which needs a working C++ compiler: ")


@pytest.mark.parametrize(
    ("backbone", "size", "num_images", "pays"),
    [
        (toy(), 224, 15_000, True),
        (toy(), 224, 14_999, False),
        (toy(), 112, 59_999, False),
        (toy(), 112, 60_000, True),
        (nn.Flatten(), 224, 10**6, False),
    ],
)
def test_compiling_pays_for_many_images(backbone: nn.Module, size: int, num_images: int, pays: bool) -> None:
    assert inference._pays_to_compile(backbone, size, num_images) == pays


def test_reduced_precision_is_off_while_features_are_computed_and_as_before_afterwards() -> None:
    torch.set_float32_matmul_precision("medium")
    try:
        before = torch.backends.cudnn.allow_tf32
        with full_precision():
            assert torch.get_float32_matmul_precision() == "highest"
            assert not torch.backends.cudnn.allow_tf32
        assert torch.get_float32_matmul_precision() == "medium"
        assert torch.backends.cudnn.allow_tf32 == before
    finally:
        torch.set_float32_matmul_precision("highest")


@pytest.fixture
def computations(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """One entry for each time that features had to be computed."""
    counted: list[int] = []
    rows = features._rows

    def counting(*arguments) -> Iterator[Features]:  # type: ignore[no-untyped-def]
        counted.append(1)
        return rows(*arguments)

    monkeypatch.setattr(features, "_rows", counting)
    return counted


def test_features_are_mapped_read_only_and_found_again(tmp_path: Path, computations: list[int]) -> None:
    first = frozen_features(toy(), random_images(), PIXELS, ranks=ALONE, folder=tmp_path / "a" / "b")
    again = frozen_features(toy(), random_images(), PIXELS, ranks=ALONE, folder=tmp_path / "a" / "b")
    assert isinstance(again, np.memmap)
    assert not again.flags.writeable
    assert np.array_equal(first, again)
    assert len(computations) == 1
    assert [path.suffix for path in (tmp_path / "a" / "b").iterdir()] == [".npy"]


def test_whatever_changes_features_is_computed_anew(tmp_path: Path, computations: list[int]) -> None:
    images, changed = random_images(), random_images()
    changed[10, 2, 31, 31] ^= 1
    other = toy()
    with torch.no_grad():
        other[0].weight[0, 0, 0, 0] += 1e-3  # type: ignore[index]
    stride = toy()
    stride[0].stride = (1, 1)
    for backbone, pictures, pixels in [
        (toy(), images, PIXELS),
        (toy(), changed, PIXELS),
        (toy(), images[:10], PIXELS),
        (toy(), images.flatten(1).view(11, 3, 64, 16), PIXELS),
        (other, images, PIXELS),
        (stride, images, PIXELS),
        (toy(), images, Pixels(24)),
        (toy(), images, Pixels(32, mean=(0.5, 0.5, 0.5))),
        (toy(), images, Pixels(32, std=(0.5, 0.5, 0.5))),
    ]:
        compute(backbone, pictures, tmp_path, pixels)
    assert len(computations) == len(list(tmp_path.iterdir())) == 9


def test_files_are_known_by_name_size_time_and_order_but_not_by_where_they_lie(
    tmp_path: Path, computations: list[int]
) -> None:
    paths, cache = files(tmp_path / "before" / "images"), tmp_path / "cache"
    compute(toy(), paths, cache)
    (tmp_path / "before").rename(tmp_path / "after")
    moved = tuple(tmp_path / "after" / "images" / path.name for path in paths)
    compute(toy(), moved, cache)
    assert len(computations) == 1
    compute(toy(), moved[::-1], cache)
    os.utime(moved[3], ns=(0, 0))
    compute(toy(), moved, cache)
    renamed = moved[3].rename(moved[3].with_name("other.png"))
    compute(toy(), (*moved[:3], renamed, *moved[4:]), cache)
    assert len(computations) == 4


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 4)


def shorten(path: Path) -> None:
    np.save(path, np.load(path)[:-1])


def widen(path: Path) -> None:
    np.save(path, np.load(path).astype(np.float64))


def empty(path: Path) -> None:
    path.write_bytes(b"")


def scribble(path: Path) -> None:
    path.write_text("features")


@pytest.mark.parametrize("damage", [truncate, shorten, widen, empty, scribble])
def test_damaged_file_is_computed_again_with_a_note(
    damage,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],  # type: ignore[no-untyped-def]
) -> None:
    first = compute(toy(), random_images(), tmp_path)
    (path,) = tmp_path.iterdir()
    damage(path)
    assert compute(toy(), random_images(), tmp_path).equal(first)
    assert capsys.readouterr().out == f"{path} is damaged; its features are computed again\n"


def test_image_that_cannot_be_decoded_leaves_no_file(tmp_path: Path) -> None:
    paths = files(tmp_path / "images")
    paths[9].write_bytes(paths[9].read_bytes()[:100])
    with pytest.raises(InputError, match=f"cannot decode the image {paths[9]} "):
        compute(toy(), paths, tmp_path / "cache")
    assert not list((tmp_path / "cache").iterdir())


def test_missing_image_is_named(tmp_path: Path) -> None:
    paths = files(tmp_path / "images")
    paths[9].unlink()
    with pytest.raises(InputError, match=f"cannot read the image {paths[9]}: No such file or directory"):
        compute(toy(), paths, tmp_path / "cache")


@pytest.mark.parametrize("index", [0, 10])  # among the first, which are the proof, and after them
def test_image_whose_features_are_not_finite_is_named(index: int, tmp_path: Path) -> None:
    class Inverse(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return 1 / images.mean(dim=(2, 3))

    images = random_images()
    images[index] = 0
    with pytest.raises(InputError, match=f"features of image {index} are not finite; look at"):
        compute(Inverse(), images, tmp_path, Pixels(32, mean=(0, 0, 0)))
    assert not list(tmp_path.iterdir())


def test_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=f"cannot write features to {tmp_path}/file: .*; make room, or choose another"):
        compute(toy(), random_images(), tmp_path / "file")


@pytest.fixture
def _no_room() -> Iterator[None]:
    """No file may grow beyond 50 kB."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.mark.usefixtures("_no_room")
def test_disk_without_room_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=rf"^cannot write features to {tmp_path}: File too large; make room, or choose"
    ):
        compute(nn.Flatten(), random_images(), tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("_no_room")
def test_disk_that_fills_up_is_refused(tmp_path: Path) -> None:
    path = Path(features._create(tmp_path / "features.npy", (2, 1000)))
    with pytest.raises(InputError, match="cannot write features to"):
        features._write(path, range(100), iter([np.zeros((100, 1000), np.float32)]))


def test_interrupted_run_leaves_no_file(tmp_path: Path) -> None:
    calls = []

    def interrupt(*_: object) -> None:
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt

    backbone = toy()
    backbone[0].register_forward_pre_hook(interrupt)  # type: ignore[index, union-attr]
    with pytest.raises(KeyboardInterrupt):
        compute(backbone, random_images(), tmp_path)
    assert not list(tmp_path.iterdir())
    torch.testing.assert_close(compute(toy(), random_images(), tmp_path), plain(toy(), random_images()))


def test_progress_is_lines_where_there_is_no_terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    compute(toy(), random_images(), tmp_path)
    assert capsys.readouterr().out == ""  # it took less than a minute
    monkeypatch.setattr(progress, "_LINE_EVERY_S", 0)
    compute(nn.Flatten(), random_images(), tmp_path)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(",")[0] for line in lines] == [f"features: {done} of 11" for done in (4, 8, 11)]
    assert all(line.endswith(" images/s") for line in lines)


def test_progress_is_a_bar_on_a_terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich takes anything for a terminal then
    compute(toy(), random_images(), tmp_path)
    captured = capsys.readouterr()
    assert "11/11" in captured.err
    assert "images/s" in captured.err
    assert captured.out == ""


def test_unfinished_files_of_dead_runs_are_removed_and_those_of_living_ones_kept(tmp_path: Path) -> None:
    dead, living = tmp_path / ".1.npy.a.part", tmp_path / ".1.npy.b.part"
    for path, age in ((dead, 2 * features._DEAD_AFTER_S), (living, 0)):
        path.touch()
        os.utime(path, (time.time() - age,) * 2)
    compute(toy(), random_images(), tmp_path)
    assert not dead.exists()
    assert living.exists()


def test_fingerprint_knows_structure_names_and_values() -> None:
    same, other = build("resnet50"), build("resnet50_same")
    assert fingerprint(same) == fingerprint(build("resnet50"))
    assert all(one.equal(two) for one, two in zip(same.parameters(), other.parameters(), strict=True))
    assert fingerprint(same) != fingerprint(other)
    half = nn.Linear(2, 2).to(torch.bfloat16)
    assert fingerprint(half) != fingerprint(half.float())


def test_batch_norm_statistics_are_the_datas() -> None:
    images, backbone = random_images(num=8), build()
    calibrate_batch_norm(backbone, images, PIXELS, CPU)
    with torch.no_grad(), prepared(images, [range(8)], 32) as batches:
        first = backbone.conv1(normalise(next(batches), PIXELS, CPU))  # type: ignore[operator]
    norm = backbone.bn1
    assert isinstance(norm, nn.BatchNorm2d)
    torch.testing.assert_close(norm.running_mean, first.mean(dim=(0, 2, 3)), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(norm.running_var, first.transpose(0, 1).flatten(1).var(dim=1), rtol=1e-4, atol=1e-5)
    assert not backbone.training


def test_statistics_are_the_plain_average_of_nearly_equal_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "_CALIBRATION_BATCH", 4)
    images, backbone = random_images(num=9), toy()  # three batches of three, not two of four and one of one
    calibrate_batch_norm(backbone, images, PIXELS, CPU)
    with torch.no_grad(), prepared(images, [range(9)], 32) as batches:
        batches_of_three = backbone[0](normalise(next(batches), PIXELS, CPU)).split(3)  # type: ignore[index]
    variance = torch.stack([batch.transpose(0, 1).flatten(1).var(dim=1) for batch in batches_of_three]).mean(dim=0)
    torch.testing.assert_close(backbone[1].running_var, variance, rtol=1e-4, atol=1e-5)  # type: ignore[index]


def test_of_many_images_so_many_are_drawn_and_always_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "_CALIBRATION_IMAGES", 6)
    images = torch.arange(20, dtype=torch.uint8).view(20, 1, 1, 1).expand(-1, 3, 8, 8)
    seen = []
    for seed in range(2):
        torch.manual_seed(seed)
        norm = nn.BatchNorm2d(3)
        norm.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0][:, 0, 0, 0].mul(255).round().tolist()))
        calibrate_batch_norm(norm, images, Pixels(8, mean=(0, 0, 0), std=(1, 1, 1)), CPU)
    assert seen[0] == seen[1]
    assert len(set(seen[0])) == 6
    assert max(seen[0]) > 5


def test_calibration_forgets_the_statistics_it_finds(tmp_path: Path) -> None:
    images, backbone = files(tmp_path / "images"), build()
    calibrate_batch_norm(backbone, images, PIXELS, CPU)
    once = {name: tensor.clone() for name, tensor in backbone.state_dict().items()}
    calibrate_batch_norm(backbone, 255 - random_images(), PIXELS, CPU)
    calibrate_batch_norm(backbone, images, PIXELS, CPU)
    assert all(once[name].equal(tensor) for name, tensor in backbone.state_dict().items())


def test_calibration_changes_no_parameter() -> None:
    backbone = build()
    before = {name: parameter.clone() for name, parameter in backbone.named_parameters()}
    calibrate_batch_norm(backbone, random_images(), PIXELS, CPU)
    assert all(before[name].equal(parameter) for name, parameter in backbone.named_parameters())


def start(rank: int, port: int, folder: Path) -> subprocess.Popen[str]:
    variables = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": WORLD_SIZE, "MASTER_PORT": port, "OMP_NUM_THREADS": 1}
    environment = os.environ | {key: str(value) for key, value in variables.items()}
    environment |= {"MASTER_ADDR": "127.0.0.1", "PYTHONPATH": str(Path(__file__).parents[1])}
    command = [sys.executable, __file__, str(folder)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def run_ranks(folder: Path) -> list[list[str]]:
    """The lines that each rank prints."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = int(listener.getsockname()[1])
    processes = [start(rank, port, folder) for rank in range(WORLD_SIZE)]
    try:
        printed = [process.communicate(timeout=TIMEOUT_S) for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    assert [process.returncode for process in processes] == [0] * WORLD_SIZE, printed
    return [output.splitlines() for output, _ in printed]


def test_ranks_share_the_work_and_an_error_of_one_stops_all(tmp_path: Path) -> None:
    paths = files(tmp_path / "images")  # 11: six for one rank, five for the other
    damaged = files(tmp_path / "damaged")
    damaged[10].write_bytes(damaged[10].read_bytes()[:100])
    alone = compute(toy(), paths, tmp_path / "alone")
    lines = run_ranks(tmp_path)
    for rank, (num_computed, error, not_user, leftover) in enumerate(lines):
        assert num_computed == f"{[5, 6][rank]} rows"
        assert error.startswith(f"InputError: cannot decode the image {damaged[10]} ")
        assert not_user == ["RuntimeError: another rank failed: broken", "RuntimeError: broken"][rank]
        assert leftover == "[]"
    for rank in range(WORLD_SIZE):
        torch.testing.assert_close(torch.load(tmp_path / f"{rank}.pt"), alone, rtol=0, atol=1e-6)
        assert torch.load(tmp_path / f"single {rank}.pt").shape == (1, 5)


def observe_ranks(ranks: Ranks, folder: Path) -> None:
    """What a rank does and prints in the test of several ranks."""
    inference._LARGEST_BATCH = 4
    counted = []
    write = features._write
    features._write = lambda path, share, rows: write(path, share, (counted.append(len(row)) or row for row in rows))
    paths = tuple((folder / "images").iterdir())
    paths = tuple(sorted(paths, key=lambda path: int(path.stem)))
    cache = folder / "cache"
    computed = frozen_features(toy(), paths, PIXELS, ranks=ranks, folder=cache)
    torch.save(torch.from_numpy(computed.copy()), folder / f"{ranks.rank}.pt")
    single = frozen_features(toy(), paths[:1], PIXELS, ranks=ranks, folder=cache)  # one rank has nothing to do
    torch.save(torch.from_numpy(single.copy()), folder / f"single {ranks.rank}.pt")
    counts = sum(counted) - (ranks.rank == 1)
    print(f"{counts} rows")
    damaged = tuple(folder / "damaged" / path.name for path in paths)
    try:
        frozen_features(toy(), damaged, PIXELS, ranks=ranks, folder=folder / "failed")
    except InputError as error:
        print(f"InputError: {error}")
    features._write = lambda *_: fail() if ranks.rank == 1 else None
    try:
        frozen_features(toy(), paths[:9], PIXELS, ranks=ranks, folder=folder / "failed")
    except RuntimeError as error:
        print(f"RuntimeError: {error}")
    torch.distributed.barrier()
    print(list((folder / "failed").iterdir()))


def fail() -> None:
    raise RuntimeError("broken")


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="only Linux says how much memory is not of files")
def test_memory_does_not_grow_with_the_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inference, "_LARGEST_BATCH", 50)
    image = tmp_path / "image.png"
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(image)
    few, many = (peak_memory((image,) * num, tmp_path, monkeypatch) for num in (1_000, 9_000))
    features_bytes = 8_000 * 3 * 16 * 16 * 4  # 25 MB
    assert many - few < features_bytes / 4


def peak_memory(images: tuple[Path, ...], folder: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    """Bytes of this process while it computes features, what it maps from files excepted."""
    seen: list[int] = []
    write = features._write

    def watching(rows: Iterable[Features]) -> Iterator[Features]:
        for row in rows:
            status = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
            seen.append(1024 * int(status["RssAnon"].split()[0]))
            yield row

    with monkeypatch.context() as patch:
        patch.setattr(features, "_write", lambda path, share, rows: write(path, share, watching(rows)))
        frozen_features(nn.Flatten(), images, Pixels(16), ranks=ALONE, folder=folder, workers=2)
    return max(seen)


if __name__ == "__main__":
    observe_ranks(distributed.join("cpu"), Path(sys.argv[1]))
    distributed.leave()
