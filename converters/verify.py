"""The certificate: that a written file computes in every framework what the original file computes in torchvision.

Pictures go in as files, so that each framework's own reading, channel order and normalisation are part of the proof.
"""

import json
import platform
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import sklearn
import torch
from PIL import Image
from sklearn.datasets import load_sample_images
from torch import Tensor

from converters import __version__, targets
from converters.backbones import COUNTER, build_backbone
from converters.checkpoint import Checkpoint, sha256, to_header
from converters.errors import first_few
from converters.reading import Read, Request, read_checkpoint
from converters.targets import STAGES, Loaded
from converters.targets.to_torchvision import loaded as as_torchvision

FORMAT = 1

# largest relative difference of a stage's output, max |a - b| / max |b|
TOLERANCE = {"float32": 1e-5, "float64": 1e-10}

# height and width: the usual one, and an odd one, at which padding and strides show
_PICTURES = {"china.jpg": (224, 224), "flower.jpg": (193, 257)}

FRAMEWORKS = ("torchvision", "detectron2", "mmseg")

PASSED, FAILED, UNCHECKED, NOT_APPLICABLE = "passed", "failed", "not checked", "not applicable"


@dataclass(frozen=True)
class Part:
    """What was found with one framework.

    Attributes:
        framework: its name.
        status: ``"passed"``, ``"failed"``, ``"not checked"`` (it is not installed) or ``"not applicable"``.
        reasons: why it has not passed.
        tensors: how many of its tensors equal the original's bit for bit, and how many it has.
        differences: largest relative difference of each stage, by dtype.
        versions: of its packages.
    """

    framework: str
    status: str
    reasons: tuple[str, ...] = ()
    tensors: tuple[int, int] = (0, 0)
    differences: dict[str, dict[str, float]] | None = None
    versions: dict[str, str] | None = None


@dataclass(frozen=True)
class Certificate:
    """The account of a conversion, as it stands in JSON beside the output.

    Attributes:
        target: name of the target.
        read: how the original was read.
        files: name and sha256 of the original, the output, and the file of facts.
        parts: by framework.
    """

    target: str
    read: Read
    files: dict[str, dict[str, str]]
    parts: tuple[Part, ...]

    @property
    def failures(self) -> list[str]:
        """Why the output must not be used; empty if nothing speaks against it."""
        return [
            f"{part.framework}: {reason}" for part in self.parts if part.status == FAILED for reason in part.reasons
        ]

    @property
    def unchecked(self) -> list[str]:
        """What could not be checked."""
        return [
            f"{part.framework}: {reason}" for part in self.parts if part.status == UNCHECKED for reason in part.reasons
        ]

    def to_json(self) -> str:
        """The certificate as text."""
        read = self.read
        content = {
            "format": FORMAT,
            "target": self.target,
            **self.files,
            "sources": read.sources,
            "evidence": read.evidence,
            "notes": read.notes,
            "dropped": read.dropped,
            "checkpoint": to_header(read.checkpoint),
            "tolerance": TOLERANCE,
            "pictures": {name: {"height": size[0], "width": size[1]} for name, size in _PICTURES.items()},
            "frameworks": [asdict(part) for part in self.parts],
            "versions": {
                "gsg-transfer": __version__,
                "python": platform.python_version(),
                "torch": torch.__version__,
                "scikit-learn": sklearn.__version__,
            },
        }
        return json.dumps(content, indent=1) + "\n"


def certify(
    original: Path, request: Request, output: Path, target: str, frameworks: Sequence[str] = FRAMEWORKS
) -> Certificate:
    """Compare what a written file computes with what the original computes.

    Args:
        original: the file that was converted; it is read again.
        request: as which source and branch.
        output: the written file, with its facts beside it.
        target: of which kind it is.
        frameworks: that are asked besides the target itself.

    Raises:
        InputError: the original cannot be read.
    """
    read = read_checkpoint(original, request)
    checkpoint = read.checkpoint
    facts = facts_path(output, target)
    written = {"input": original, "output": output} | ({} if facts is None else {"facts": facts})
    files = {role: {"file": path.name, "sha256": sha256(path)} for role, path in written.items()}
    with tempfile.TemporaryDirectory() as folder:
        pictures = list(write_pictures(Path(folder)))
        expected = expected_stages(checkpoint, pictures)
        parts = []
        for framework in dict.fromkeys((target, *frameworks)):
            path = output
            if framework != target and targets.plain_resnet_only(framework, checkpoint.arch) is None:
                path = Path(folder) / f"{framework}{targets.find(framework).SUFFIX}"
                write(checkpoint, framework, path, path)
            parts.append(_part(framework, path, checkpoint, pictures, expected))
    fresh = list(_fresh_norms(checkpoint))
    if fresh:
        reason = f"{len(fresh)} batch norms have mean 0 and variance 1, as if never trained: {first_few(fresh)}"
        parts = [replace(part, status=FAILED, reasons=(*part.reasons, reason)) for part in parts[:1]] + parts[1:]
    return Certificate(target, read, files, tuple(parts))


def expected_stages(checkpoint: Checkpoint, pictures: list[Path]) -> dict[str, list[list[Tensor]]]:
    """What the original computes in torchvision's network: by dtype, by picture, by stage."""
    backbone = build_backbone(checkpoint.arch)
    backbone.load_state_dict(checkpoint.backbone, strict=True)
    reference = as_torchvision(backbone, checkpoint.pixels)
    return {dtype: _outputs(reference, pictures, dtype) for dtype in TOLERANCE}


def facts_path(output: Path, target: str) -> Path | None:
    """Where the facts about an output lie; None for a target that has none."""
    suffix = targets.find(target).FACTS_SUFFIX
    return None if suffix is None else output.with_suffix(suffix)


def write(checkpoint: Checkpoint, target: str, path: Path, final: Path) -> None:
    """Write an output and its facts.

    Args:
        checkpoint: what to write.
        target: as what.
        path: of the output.
        final: where it will lie, for the facts.
    """
    module = targets.find(target)
    module.write(checkpoint, path)
    facts = facts_path(path, target)
    if facts is not None:
        facts.write_text(module.facts(checkpoint, final), encoding="utf-8")


def write_pictures(folder: Path) -> Iterator[Path]:
    """Crops of scikit-learn's two photographs as PNG files, so that every reader finds the same pixels."""
    photographs = load_sample_images()
    for name, image in zip(map(Path, photographs.filenames), photographs.images, strict=True):
        height, width = _PICTURES[name.name]
        top, left = (image.shape[0] - height) // 2, (image.shape[1] - width) // 2
        path = folder / f"{name.stem}.png"
        Image.fromarray(np.ascontiguousarray(image[top : top + height, left : left + width])).save(path)
        yield path


def _part(
    framework: str,
    path: Path,
    checkpoint: Checkpoint,
    pictures: list[Path],
    expected: dict[str, list[list[Tensor]]],
) -> Part:
    refusal = targets.plain_resnet_only(framework, checkpoint.arch) if framework in FRAMEWORKS else None
    if refusal is not None:
        return Part(framework, NOT_APPLICABLE, (refusal,))
    try:
        loaded: Loaded = targets.find(framework).load(path, checkpoint)
    except ImportError as error:
        return Part(framework, UNCHECKED, (f"cannot be imported ({error}); install its packages",))
    except Exception as error:  # whatever a framework raises: the file is of no use to it
        reason = f"does not load: {type(error).__name__}: {' '.join(str(error).split())[:300]}"
        return Part(framework, FAILED, (reason,))
    equal, reasons = _compare_tensors(loaded, checkpoint)
    differences: dict[str, dict[str, float]] = {}
    for dtype, outputs in expected.items():
        found = _outputs(loaded, pictures, dtype)
        differences[dtype] = {
            stage: max(relative_difference(ours[i], theirs[i]) for ours, theirs in zip(found, outputs, strict=True))
            for i, stage in enumerate(STAGES)
        }
        far = {stage: value for stage, value in differences[dtype].items() if not value < TOLERANCE[dtype]}
        if far:
            worst = ", ".join(f"{stage} {value:.1e}" for stage, value in far.items())
            reasons.append(f"{dtype} outputs differ by more than {TOLERANCE[dtype]:.0e}: {worst}")
    status = FAILED if reasons else PASSED
    return Part(framework, status, tuple(reasons), (equal, len(loaded.tensors)), differences, loaded.versions)


def _compare_tensors(loaded: Loaded, checkpoint: Checkpoint) -> tuple[int, list[str]]:
    """How many of a framework's tensors equal the original's, and what is wrong with the others.

    A framework whose batch norms are frozen has no counters; apart from these, all must be there.
    """
    expected = {name: x for name, x in checkpoint.backbone.items() if not name.endswith(COUNTER)}
    missing = [name for name in expected if name not in loaded.tensors]
    strange = [name for name in loaded.tensors if name not in checkpoint.backbone]
    common = [name for name in loaded.tensors if name in checkpoint.backbone]
    different = [name for name in common if not torch.equal(loaded.tensors[name], checkpoint.backbone[name])]
    problems = (("missing", missing), ("not in the original", strange), ("not equal to the original", different))
    reasons = [f"{len(found)} tensors {what}: {first_few(found)}" for what, found in problems if found]
    return len(common) - len(different), reasons


def _outputs(loaded: Loaded, pictures: list[Path], dtype: str) -> list[list[Tensor]]:
    kind: torch.dtype = getattr(torch, dtype)
    loaded.backbone.to(kind)
    with torch.no_grad():
        return [loaded.stages(loaded.read(picture, kind)) for picture in pictures]


def relative_difference(found: Tensor, expected: Tensor) -> float:
    """Max |a - b| / max |b|, infinite where the shapes differ."""
    if found.shape != expected.shape:
        return float("inf")
    return float((found - expected).abs().max() / expected.abs().max())


def _fresh_norms(checkpoint: Checkpoint) -> Iterator[str]:
    for name, mean in checkpoint.backbone.items():
        norm = name.removesuffix(".running_mean")
        if norm != name and not mean.any() and (checkpoint.backbone[f"{norm}.running_var"] == 1).all():
            yield norm
