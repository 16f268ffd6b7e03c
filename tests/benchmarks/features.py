"""Images per second of frozen features: the published loop and ours, interleaved in one run on the same JPEGs.

ResNet-50 at 224 pixels: python tests/benchmarks/features.py [JPEGs [workers]]. The compiled backbone's time to compile
says from how many images on it pays.
"""

import os
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch._inductor.config
import torchvision.transforms as transforms
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

sys.path.insert(0, str(Path(__file__).parents[2]))

from converters.backbones import build_backbone
from converters.checkpoint import Pixels
from converters.distributed import Ranks
from converters.images import load_images
from transfer import inference
from transfer.features import frozen_features
from transfer.inference import FrozenBackbone
from transfer.preprocessing import prepared

ARCH, PIXELS, CPU = "resnet50", Pixels(224), torch.device("cpu")
PUBLISHED_BATCH = 64  # protocols: ssl-transfer, linear.py
ROUNDS = 2


class Files(Dataset[Tensor]):
    """The published transform, in worker processes."""

    def __init__(self, paths: tuple[Path, ...]):
        self.paths = paths
        self.transform = transforms.Compose(
            [
                transforms.Resize(PIXELS.size, interpolation=transforms.InterpolationMode.BICUBIC),
                transforms.CenterCrop(PIXELS.size),
                transforms.ToTensor(),
                transforms.Normalize(list(PIXELS.mean), list(PIXELS.std)),
            ]
        )

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Tensor:
        with self.paths[index].open("rb") as file:
            image: Tensor = self.transform(Image.open(file).convert("RGB"))
        return image


def published(backbone: nn.Module, paths: tuple[Path, ...], workers: int) -> Tensor:
    """One batch after the other, as a plain PyTorch loop computes it."""
    loader = DataLoader(Files(paths), batch_size=PUBLISHED_BATCH, num_workers=workers)
    with torch.no_grad():
        return torch.cat([backbone(batch) for batch in loader])


def ours(backbone: nn.Module, paths: tuple[Path, ...], workers: int) -> Tensor:
    """With an empty cache, the proof included."""
    with tempfile.TemporaryDirectory() as folder:
        features = frozen_features(
            backbone, paths, PIXELS, ranks=Ranks(0, 1, CPU), folder=Path(folder), workers=workers
        )
        return torch.from_numpy(features.copy())


def write_jpegs(folder: Path, num: int) -> tuple[Path, ...]:
    """The sample's pictures, twelve on each, 500 x 375 pixels."""
    pictures = load_images("sample", "train").images
    random = torch.Generator().manual_seed(0)
    paths = tuple(folder / f"{index}.jpg" for index in range(num))
    for path in paths:
        tiles = pictures[torch.randint(len(pictures), (12,), generator=random)].view(3, 4, 3, 64, 64)
        sheet = Image.fromarray(tiles.permute(0, 3, 1, 4, 2).reshape(192, 256, 3).numpy())
        sheet.resize((500, 375), Image.Resampling.BICUBIC).save(path, quality=90)
    return paths


def decode(paths: tuple[Path, ...], workers: int) -> None:
    """Decode and prepare only."""
    groups = np.array_split(np.arange(len(paths)), len(paths) // 8)
    with prepared(paths, groups, PIXELS.size, workers) as batches:
        for _ in batches:
            continue


def seconds(action: Callable[[], object]) -> float:
    """How long it takes."""
    started = time.perf_counter()
    action()
    return time.perf_counter() - started


def compare_loops(backbone: nn.Module, paths: tuple[Path, ...], workers: int) -> None:
    """Both loops, decoding included."""
    best = {published: float("inf"), ours: float("inf")}
    features: dict[Callable[..., Tensor], Tensor] = {}
    for _ in range(ROUNDS):
        for loop in best:
            started = time.perf_counter()
            features[loop] = loop(backbone, paths, workers)
            best[loop] = min(best[loop], time.perf_counter() - started)
    difference = (features[published] - features[ours]).abs().max()
    theirs = len(paths) / best[published]
    once = seconds(partial(ours, backbone, paths[:1], workers))
    here = (len(paths) - 1) / (best[ours] - once)
    print(
        f"published loop, batch {PUBLISHED_BATCH}: {theirs:.1f} images/s; ours, not compiled: {here:.1f} after ", end=""
    )
    print(
        f"{once:.1f} s of folding and proof; ratio {here / theirs:.2f}, with these {best[published] / best[ours]:.2f}"
    )
    print(f"largest difference of features: {difference / features[published].abs().max():.1e} of the largest one")
    for count in (0, 1, 2):
        taken = seconds(partial(decode, paths, count))
        print(f"decoding alone, {count} workers: {len(paths) / taken:.0f} images/s")


def compare_compiled(backbone: nn.Module, paths: tuple[Path, ...]) -> None:
    """The forward pass alone, folded and compiled, and what compiling costs."""
    with prepared(paths, [range(inference.NUM_PROOF)], PIXELS.size) as batches:
        first = next(batches)
    folded = FrozenBackbone(backbone, first, PIXELS, CPU, num_images=0)
    with tempfile.TemporaryDirectory() as folder, torch._inductor.config.patch(fx_graph_cache=False):
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = folder  # nothing compiled before counts
        started = time.perf_counter()
        compiled = FrozenBackbone(backbone, first, PIXELS, CPU, num_images=10**9)
        cost = time.perf_counter() - started
    batch = first[torch.arange(folded.batch_size) % len(first)]
    best = {folded: float("inf"), compiled: float("inf")}
    for _ in range(10 * ROUNDS):
        for network in best:
            best[network] = min(best[network], seconds(partial(network, batch)) / len(batch))
    saved = best[folded] - best[compiled]
    print(f"forward alone, batch {len(batch)}: folded {1 / best[folded]:.1f} images/s, ", end="")
    print(f"compiled {1 / best[compiled]:.1f} after {cost:.0f} s of compiling: ", end="")
    print(f"it pays from {cost / saved:.0f} images on" if saved > 0 else "it does not pay", end="")
    print(f" (done from {inference.COMPILE_FROM})")


def main() -> None:
    """Write the JPEGs, and print what is measured on them."""
    num = int(sys.argv[1]) if sys.argv[1:] else 256
    workers = int(sys.argv[2]) if sys.argv[2:] else 2
    print(f"{ARCH}, {PIXELS.size} pixels, {num} JPEGs, {torch.get_num_threads()} threads, {workers} workers", end="")
    print(f", best of {ROUNDS} rounds")
    torch.manual_seed(0)
    backbone = build_backbone(ARCH).eval()
    with tempfile.TemporaryDirectory() as folder:
        paths = write_jpegs(Path(folder), num)
        compare_loops(backbone, paths, workers)
        compare_compiled(backbone, paths)


if __name__ == "__main__":
    main()
