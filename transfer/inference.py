"""A frozen backbone made fast: batch norms folded, channels last, small batches, compiled where that pays; and proven.

Images per second of a ResNet-50 at 224 on two cores, of which tests/benchmarks/features.py measures the ends:

    as published: a loop over batches of 64                       15
    batch norms folded into the convolutions, channels last       29
    the same in batches of 8, whose activations fit the cache     45
    the same, compiled by inductor                                49

Neither inductor's freezing nor TorchScript's optimisation added to that, nor did batches side by side, each on a core
of its own. Half precision would move features by 2 per cent.
"""

import copy
import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.fx.experimental.optimization import fuse

from converters.checkpoint import Pixels
from converters.errors import printable
from transfer.preprocessing import normalise

NUM_PROOF = 8  # images on which the fast backbone must agree with the plain one
TOLERANCE = 1e-5  # of features, times one more than the largest of them
_ROUNDING = 2.0  # beyond that: how much larger than the plain backbone's own error the fast one's may be

# Images of 224 pixels from which on compiling pays on two cores: it takes 10 to 30 s and saves 2 ms per image.
COMPILE_FROM = 15_000
_USUAL_SIZE = 224
_BATCH_PER_THREAD = 4
_BATCH_GPU = 256
_LARGEST_BATCH = 1024


class FrozenBackbone:
    """Features of images, as the backbone computes them in evaluation mode and full float32 precision.

    The backbone itself is left alone: this is a copy. It proves itself on a few images before it is used.

    Args:
        backbone: images (B, 3, H, W) to features (B, D).
        first: some of the images, uint8 (B, H, H, 3); `NUM_PROOF` are enough.
        pixels: what the backbone expects.
        device: where to compute.
        num_images: how many will come, which decides whether it is compiled.

    Attributes:
        batch_size: the fastest.
        dim: D, the number of features of an image.

    Raises:
        AssertionError: the features differ from the plain backbone's, or that one changes while it computes them.
    """

    @torch.inference_mode()
    def __init__(self, backbone: nn.Module, first: Tensor, pixels: Pixels, device: torch.device, num_images: int):
        self._pixels, self._device = pixels, device
        self.batch_size = _fastest_batch(pixels.size, device)
        plain = copy.deepcopy(backbone).to(device).eval()
        expected = _plain_features(plain, normalise(first, pixels, device).contiguous())
        self.dim = expected.shape[1]
        self._folded = fuse(plain).to(memory_format=torch.channels_last)
        self._fast: Callable[[Tensor], Tensor] = self._folded
        self._check(first, expected, plain)
        if _pays_to_compile(backbone, pixels.size, num_images):
            self._compile()
            rows = torch.arange(self.batch_size) % len(first)
            self._check(first[rows], expected[rows], plain)

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> Tensor:
        """Features, float32 (B, D) on the CPU.

        Args:
            images: uint8 (B, H, H, 3).
        """
        # compiled for full batches only: another size would be compiled again
        network = self._fast if len(images) == self.batch_size else self._folded
        with full_precision():
            features: Tensor = network(normalise(images, self._pixels, self._device))
        return features.float().cpu()

    def _check(self, images: Tensor, expected: Tensor, plain: nn.Module) -> None:
        """Agree with the plain backbone; where rounding does not let it, be as right as that is, judged in float64.

        A random ResNet-50 whose batch norms know the images is such a case: they amplify the little in which its
        features of two images differ, and what the plain one computes is right to 5e-5.
        """
        difference, largest = (self(images) - expected).abs().max(), expected.abs().max()
        # a comparison with nan is false: what is not finite is the caller's to report
        if not difference > TOLERANCE * (1 + largest):
            return
        batch = normalise(images, self._pixels, self._device).contiguous()
        exact = copy.deepcopy(plain).double()(batch.double()).cpu()
        ours, theirs = ((features - exact).square().mean().sqrt() for features in (self(images), expected))
        assert ours <= _ROUNDING * theirs, (
            f"the fast backbone's features differ from the plain one's by {difference:.2e} (the largest is "
            f"{largest:.2e}), and from float64 by {ours:.2e} (root mean square), the plain one's by {theirs:.2e}"
        )

    def _compile(self) -> None:
        """Compile for full batches; where that fails, say so and go on: only the time depends on it."""
        self._fast = torch.compile(self._folded, dynamic=False)
        try:
            self(torch.zeros(self.batch_size, self._pixels.size, self._pixels.size, 3, dtype=torch.uint8))
        except Exception as error:  # a missing or broken C++ compiler; its exception depends on the version
            reason = str(error).strip().splitlines()[0]
            print(f"going on without torch.compile, which needs a working C++ compiler: {printable(reason)}")
            self._fast = self._folded


@torch.inference_mode()
def _plain_features(backbone: nn.Module, images: Tensor) -> Tensor:
    before = fingerprint(backbone)
    with full_precision():
        features: Tensor = backbone(images).float().cpu()
    assert fingerprint(backbone) == before, "the frozen backbone changed while its features were computed"
    assert features.ndim == 2, f"expected features (B, D) from the backbone, got {tuple(features.shape)}"
    return features


@contextmanager
def full_precision(*, deterministic: bool = False) -> Iterator[None]:
    """No TensorFloat-32, which keeps 10 bits of a product's factors and is cuDNN's default in convolutions.

    Args:
        deterministic: the same bits in every call and process, instead of the fastest algorithm.
    """
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with torch.backends.cudnn.flags(
            enabled=True, benchmark=not deterministic, deterministic=deterministic, allow_tf32=False
        ):
            yield
    finally:
        torch.set_float32_matmul_precision(before)


def fingerprint(backbone: nn.Module) -> str:
    """Hexadecimal SHA-256 of a module's structure and of every tensor of its state dict.

    Args:
        backbone: on any device.
    """
    kind = type(backbone)
    digest = hashlib.sha256(f"{kind.__module__}.{kind.__qualname__} {backbone}".encode())
    for name, tensor in backbone.state_dict().items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def _fastest_batch(size: int, device: torch.device) -> int:
    usual = _BATCH_GPU if device.type == "cuda" else _BATCH_PER_THREAD * torch.get_num_threads()
    return min(max(round(usual * (_USUAL_SIZE / size) ** 2), 1), _LARGEST_BATCH)


def _pays_to_compile(backbone: nn.Module, size: int, num_images: int) -> bool:
    """Smaller networks are compiled sooner and save less: the number of images stays about the same."""
    convolves = any(isinstance(module, nn.Conv2d) for module in backbone.modules())
    return convolves and num_images * (size / _USUAL_SIZE) ** 2 >= COMPILE_FROM
