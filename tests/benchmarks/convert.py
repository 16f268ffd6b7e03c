"""Time and memory of converting and certifying a ResNet-50 with each target: python tests/benchmarks/convert.py."""

import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
import torchvision

ROOT = Path(__file__).parents[2]


def main() -> None:
    """Print a line per target: seconds of the command, of which importing torch and torchvision, and its memory."""
    with tempfile.TemporaryDirectory() as folder:
        original = Path(folder) / "resnet50.pth"
        network = torchvision.models.resnet50()
        with torch.no_grad():
            network(torch.randn(4, 3, 64, 64))  # so that no batch norm is as it was made
        torch.save(network.state_dict(), original)
        started = time.monotonic()
        subprocess.run([sys.executable, "-c", "import torch, torchvision"], check=True)
        print(f"importing torch and torchvision: {time.monotonic() - started:.1f} s")
        for target, suffix in (
            ("torchvision", "pth"),
            ("detectron2", "pth"),
            ("mmseg", "pth"),
            ("safetensors", "safetensors"),
        ):
            output = Path(folder) / f"{target}.{suffix}"
            command = [str(ROOT / "converters" / "convert.py"), str(original), "--target", target, str(output)]
            started = time.monotonic()
            subprocess.run([sys.executable, *command], check=True, stdout=subprocess.DEVNULL)
            memory = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1e6
            print(f"{target}: {time.monotonic() - started:.1f} s, at most {memory:.2f} GB so far")


if __name__ == "__main__":
    main()
