"""Views per second of our augmentation and of the published per-image pipeline, on one core, in one interleaved run.

Run by `make bench`, or by itself: python tests/benchmarks/augment.py
"""

import random
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

if not __package__:  # started by path: import this checkout, not this folder
    sys.path[0] = str(Path(__file__).resolve().parents[2])

import cv2
import torch
from PIL import Image, ImageFilter
from torch import Tensor
from torchvision import transforms
from torchvision.transforms.v2.functional import resize, to_pil_image

from converters.folder import open_folder
from converters.images import load_images
from pretrain.config import ViewConfig
from pretrain.data import Loader, Pool

ROUNDS = 10
NUM_VIEWS = 2
NUM_JPEGS = 16  # a batch whose memory is used again: asking for new pages would take a fifth of the time
Run = Callable[[], int]  # returns the number of views it made


def _published(config: ViewConfig) -> transforms.Compose:
    """The pipeline of SimSiam's and GSG's code (main_simsiam.py, gsg/loader.py); both blur with PIL."""

    def blur(image: Image.Image) -> Image.Image:
        return image.filter(ImageFilter.GaussianBlur(radius=random.uniform(*config.blur_sigma)))

    return transforms.Compose(
        [
            transforms.RandomResizedCrop(config.size, config.crop_scale),
            transforms.RandomApply([transforms.ColorJitter(*config.jitter)], p=config.jitter_p),
            transforms.RandomGrayscale(p=config.gray_p),
            transforms.RandomApply([transforms.Lambda(blur)], p=config.blur_p),
            transforms.RandomHorizontalFlip(config.flip_p),
            transforms.ToTensor(),
            transforms.Normalize(config.mean, config.std),
        ]
    )


def _one_by_one(config: ViewConfig, images: list[Path] | list[Image.Image]) -> Run:
    pipeline = _published(config)

    def run() -> int:
        views: list[list[Tensor]] = [[] for _ in range(NUM_VIEWS)]
        for image in images:
            decoded = Image.open(image).convert("RGB") if isinstance(image, Path) else image
            for view in views:
                view.append(pipeline(decoded))
        return sum(len(torch.stack(view)) for view in views)

    return run


def _ours(loader: Loader) -> Run:
    return lambda: sum(len(view) for views in loader.epoch(0) for view in views)


def _from_memory(images: Tensor) -> tuple[Run, Run]:
    """CIFAR-10's recipe on images in memory (GSG paper, B.2): no blur."""
    config = ViewConfig(size=32, crop_scale=(0.08, 1.0), blur_p=0.0)
    small = resize(images, [32, 32], antialias=True)
    loader = Loader(Pool(small), config, NUM_VIEWS, len(small), seed=0, device=torch.device("cpu"))
    return _one_by_one(config, [to_pil_image(image) for image in small]), _ours(loader)


def _from_jpegs(images: Tensor, folder: Path) -> tuple[Run, Run]:
    """ImageNet's recipe on JPEGs of ImageNet's usual size, 500 x 375, decoding included."""
    tiles = images[: NUM_JPEGS * 48].view(NUM_JPEGS, 6, 8, 3, 64, 64)
    sheets = tiles.permute(0, 3, 1, 4, 2, 5).reshape(NUM_JPEGS, 3, 384, 512)
    for index, sheet in enumerate(sheets):
        to_pil_image(sheet[:, :375, :500]).save(folder / f"{index:03d}.jpg", quality=90)
    loader = Loader(open_folder(folder), ViewConfig(), NUM_VIEWS, NUM_JPEGS, seed=0, device=torch.device("cpu"))
    return _one_by_one(ViewConfig(), sorted(folder.iterdir())), _ours(loader)


def _best_rates(runs: tuple[Run, Run]) -> list[float]:
    """Views per second of CPU time, the best of the rounds; CPU time, for others may use the machine meanwhile."""
    best = [0.0, 0.0]
    for _ in range(ROUNDS):
        for which, run in enumerate(runs):
            started = time.process_time()
            num = run()
            best[which] = max(best[which], num / (time.process_time() - started))
    return best


def main() -> None:
    """Print the table."""
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    images = load_images("sample", "train").images
    with tempfile.TemporaryDirectory() as folder:
        cases = {
            "32 px, CIFAR-10 recipe, from memory, batch 512": _from_memory(images[:512]),
            "224 px, ImageNet recipe, from 500 x 375 JPEGs": _from_jpegs(images, Path(folder)),
        }
        print(f"{'views/s on one core':48} {'PIL':>8} {'ours':>8} {'ratio':>6}")
        for name, runs in cases.items():
            published, ours = _best_rates(runs)
            print(f"{name:48} {published:8.0f} {ours:8.0f} {ours / published:6.2f}")


if __name__ == "__main__":
    main()
