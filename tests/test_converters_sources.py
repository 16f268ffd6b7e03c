"""Genuine files of every origin: exactly the right network comes out, and whatever is not exactly one is refused.

The files are built as their repositories build and save them, from real modules where those are short. Sizes of heads
and queues are smaller than there: they are left out anyway.
"""

import argparse
import copy
import functools
import itertools
import pickle
import re
import shutil
import sys
from collections import OrderedDict, namedtuple
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import dill
import numpy as np
import pytest
import safetensors.torch
import torch
import torchvision
from torch import Tensor, nn
from torchvision.models import ResNet
from torchvision.models.resnet import BasicBlock, Bottleneck

from converters import files, sources
from converters.checkpoint import IMAGENET_MEAN, IMAGENET_STD, Checkpoint, Pixels, Source, save
from converters.errors import InputError
from converters.reading import Read, Request, read_checkpoint

UNIT_MEAN, UNIT_STD = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
CIFAR_MEAN, CIFAR_STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)

State = dict[str, Tensor]

# ---- networks and their values

_numbers = torch.Generator().manual_seed(0)
_POOL = torch.rand(26_000_000, generator=_numbers) + 0.05


def filled(module: nn.Module, seed: int) -> nn.Module:
    """The module with values of its own, of which no two tensors in one file are alike."""
    start = 7919 * seed
    for number, tensor in enumerate([*module.parameters(), *module.buffers()]):
        if not tensor.is_floating_point():
            tensor.fill_(1000 * seed + number)
            continue
        start = (start + 13) % (len(_POOL) - tensor.numel())
        with torch.no_grad():
            tensor.copy_(_POOL[start : start + tensor.numel()].view(tensor.shape))
        start += tensor.numel()
    return module


@functools.cache
def _pattern(kind: str) -> ResNet:
    with torch.device("meta"):
        network: ResNet = torchvision.models.get_model(kind)
    return network


def resnet(kind: str = "resnet18", *, small_stem: bool = False) -> ResNet:
    """A network of torchvision, without the time that drawing its first weights takes."""
    network = copy.deepcopy(_pattern(kind))
    if small_stem:
        network.conv1 = nn.Conv2d(3, 64, 3, 1, 1, bias=False)
        network.maxpool = nn.Identity()
    return network.to_empty(device="cpu")


def trunk(network: ResNet) -> State:
    """What a reader must find of the network: the state dict without its classifier."""
    return {name: x.detach().clone() for name, x in network.state_dict().items() if not name.startswith("fc.")}


def sequence(network: ResNet, *more: nn.Module) -> nn.Sequential:
    return nn.Sequential(*list(network.children())[:-1], *more)


def without_fc(network: ResNet) -> ResNet:
    network.fc = nn.Identity()
    return network


def mlp(*widths: int, last_norm: bool = False) -> nn.Sequential:
    layers: list[nn.Module] = []
    for number, (inside, outside) in enumerate(itertools.pairwise(widths)):
        layers.append(nn.Linear(inside, outside))
        if number < len(widths) - 2:
            layers += [nn.BatchNorm1d(outside), nn.ReLU()]
    if last_norm:
        layers.append(nn.BatchNorm1d(widths[-1], affine=False))
    return nn.Sequential(*layers)


class Parts(nn.Module):
    """Named modules and buffers, in the order given."""

    def __init__(self, **parts: nn.Module | Tensor):
        super().__init__()
        for name, part in parts.items():
            if isinstance(part, nn.Module):
                self.add_module(name, part)
            else:
                self.register_buffer(name, part)


def distributed(module: nn.Module) -> State:
    """As DistributedDataParallel and DataParallel name the tensors of what they wrap."""
    return nn.DataParallel(module).state_dict()


def sgd(module: nn.Module) -> dict[str, Any]:
    """The state of an optimiser that has made a step."""
    some = list(module.parameters())[:3]
    optimizer = torch.optim.SGD(some, lr=0.1, momentum=0.9)
    state = optimizer.state_dict()
    state["state"] = {number: {"momentum_buffer": torch.rand_like(x)} for number, x in enumerate(some)}
    return state


@contextmanager
def foreign_class(module: str, name: str, *bases: type, **body: Any) -> Iterator[type]:
    """A class that can be imported while a file is written, and never again."""
    made = type(name, bases or (object,), {"__module__": module, **body})
    with foreign(made):
        yield made


@contextmanager
def foreign(made: type) -> Iterator[None]:
    """Put the class into the module that it names, for a while."""
    added = [part for part in _packages(made.__module__) if part not in sys.modules]
    for part in added:
        sys.modules[part] = ModuleType(part)
    place = vars(sys.modules[made.__module__])
    real = place.get(made.__name__)  # where the package is imported already, other tests need its own class again
    place[made.__name__] = made
    try:
        yield
    finally:
        if real is not None:
            place[made.__name__] = real
        for part in added:
            del sys.modules[part]


def _packages(module: str) -> list[str]:
    parts = module.split(".")
    return [".".join(parts[: count + 1]) for count in range(len(parts))]


# ---- files

CASES: dict[str, Callable[[Path], "Genuine"]] = {}


@dataclass(frozen=True)
class Genuine:
    """A file as its origin writes it, and what must come out of it.

    Attributes:
        networks: what must be read, by branch.
        unsafe_pickle: whether it can be read by unpickling only.
        given: mean and std that the user must give.
    """

    path: Path
    source: str
    networks: dict[str, State] = field(repr=False)
    arch: str = "resnet18"
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    unsafe_pickle: bool = False
    given: bool = False
    epochs: int | None = None
    size: int | None = None
    # from the disk once, though it is read by many tests
    content: Callable[..., dict[str, Any]] = field(default_factory=lambda: functools.cache(files.read), repr=False)

    def read(self, source: str, branch: str | None = None) -> Read:
        pixels = {"mean": self.mean, "std": self.std} if self.given else {}
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(files, "read", self.content)
            return read_checkpoint(self.path, Request(source, branch, self.unsafe_pickle, **pixels))


def case(source: str) -> Callable[[Callable[[Path], Genuine]], Callable[[Path], Genuine]]:
    def register(build: Callable[[Path], Genuine]) -> Callable[[Path], Genuine]:
        CASES[f"{source}-{build.__name__.removeprefix(source).strip('_')}"] = build
        return build

    return register


def written(path: Path, content: Any, source: str, networks: dict[str, State], **facts: Any) -> Genuine:
    torch.save(content, path)
    return Genuine(path, source, networks, **facts)


@case("torchvision")
def torchvision_release(folder: Path) -> Genuine:
    network = filled(resnet(), 1)
    return written(folder / "resnet18-0123abcd.pth", network.state_dict(), "torchvision", {"online": trunk(network)})


@case("torchvision")
def torchvision_of_pytorch_examples(folder: Path) -> Genuine:
    network = filled(resnet(), 1)
    content = {
        "epoch": 90,
        "arch": "resnet18",
        "state_dict": distributed(network),
        "best_acc1": torch.tensor(69.7),
        "optimizer": sgd(network),
        "scheduler": {"step_size": 30, "last_epoch": 90},
    }
    return written(folder / "model_best.pth.tar", content, "torchvision", {"online": trunk(network)})


@case("torchvision")
def torchvision_reference_script_with_average(folder: Path) -> Genuine:
    network, averaged = filled(resnet(), 1), filled(resnet(), 2)
    average = torch.optim.swa_utils.AveragedModel(averaged, use_buffers=True)
    content = {
        "model": network.state_dict(),
        "optimizer": sgd(network),
        "lr_scheduler": {"last_epoch": 600},
        "epoch": 599,
        "args": argparse.Namespace(model="resnet18", lr=0.5),
        "model_ema": average.state_dict(),
    }
    networks = {"online": trunk(network), "target": trunk(averaged)}
    return written(folder / "model_599.pth", content, "torchvision", networks, unsafe_pickle=True)


@case("timm")
def timm_release(folder: Path) -> Genuine:
    network = filled(resnet("resnet34"), 1)
    path = folder / "model.safetensors"
    safetensors.torch.save_file(network.state_dict(), path, {"format": "pt"})
    return Genuine(path, "timm", {"online": trunk(network)}, arch="resnet34")


@case("timm")
def timm_training_with_average(folder: Path) -> Genuine:
    network, averaged = filled(resnet(), 1), filled(resnet(), 2)
    content = {
        "epoch": 299,
        "arch": "resnet18",
        "state_dict": network.state_dict(),
        "optimizer": sgd(network),
        "version": 2,
        "args": argparse.Namespace(model="resnet18"),
        "amp_scaler": {"scale": 65536.0},
        "state_dict_ema": averaged.state_dict(),
        "metric": 71.5,
    }
    networks = {"online": trunk(network), "target": trunk(averaged)}
    return written(folder / "checkpoint-299.pth.tar", content, "timm", networks, unsafe_pickle=True)


def moco(head: Callable[[], nn.Module]) -> tuple[Parts, dict[str, State]]:
    query, key = filled(resnet(), 1), filled(resnet(), 2)
    networks = {"online": trunk(query), "target": trunk(key)}
    query.fc, key.fc = filled(head(), 3), filled(head(), 4)
    queue = torch.rand(16, 64)
    return Parts(encoder_q=query, encoder_k=key, queue=queue, queue_ptr=torch.tensor([32])), networks


def moco_file(state: State, model: nn.Module, epoch: int = 200) -> dict[str, Any]:
    return {"epoch": epoch, "arch": "resnet18", "state_dict": state, "optimizer": sgd(model)}


@case("moco")
def moco_v1(folder: Path) -> Genuine:
    model, networks = moco(lambda: nn.Linear(512, 16))
    path = folder / "checkpoint_0199.pth.tar"
    return written(path, moco_file(distributed(model), model), "moco", networks, epochs=200)


@case("moco")
def moco_v2(folder: Path) -> Genuine:
    model, networks = moco(lambda: nn.Sequential(nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 16)))
    path = folder / "checkpoint_0799.pth.tar"
    return written(path, moco_file(distributed(model), model, 800), "moco", networks, epochs=800)


@case("moco")
def moco_v2_release_without_key_encoder(folder: Path) -> Genuine:
    model, networks = moco(lambda: nn.Sequential(nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 16)))
    state = {name: x for name, x in distributed(model).items() if name.startswith("module.encoder_q.")}
    content = {"epoch": 800, "arch": "resnet18", "state_dict": state}
    online = {"online": networks["online"]}
    return written(folder / "moco_v2_800ep_pretrain.pth.tar", content, "moco", online, epochs=800)


@case("moco")
def moco_on_one_device(folder: Path) -> Genuine:
    model, networks = moco(lambda: nn.Linear(512, 16))
    return written(folder / "checkpoint_0199.pth.tar", moco_file(model.state_dict(), model), "moco", networks)


@case("moco_v3")
def moco_v3_training(folder: Path) -> Genuine:
    base, momentum = filled(resnet(), 1), filled(resnet(), 2)
    networks = {"online": trunk(base), "target": trunk(momentum)}
    base.fc, momentum.fc = filled(mlp(512, 64, 16, last_norm=True), 3), filled(mlp(512, 64, 16, last_norm=True), 4)
    model = Parts(base_encoder=base, momentum_encoder=momentum, predictor=filled(mlp(16, 64, 16, last_norm=True), 5))
    content = moco_file(distributed(model), model, 100) | {"scaler": {"scale": 65536.0, "growth_factor": 2.0}}
    return written(folder / "checkpoint_0099.pth.tar", content, "moco_v3", networks, epochs=100)


@case("simsiam")
def simsiam_training(folder: Path) -> Genuine:
    encoder = filled(resnet(), 1)
    networks = {"online": trunk(encoder)}
    encoder.fc = filled(mlp(512, 64, 64, 64, last_norm=True), 2)
    model = Parts(encoder=encoder, predictor=filled(mlp(64, 16, 64), 3))
    content = moco_file(distributed(model), model, 100)
    return written(folder / "checkpoint_0099.pth.tar", content, "simsiam", networks, epochs=100)


@case("simsiam")
def simsiam_repository_of_guided_byol(folder: Path) -> Genuine:
    encoder, momentum = filled(resnet(), 1), filled(resnet(), 2)
    networks = {"online": trunk(encoder), "target": trunk(momentum)}
    encoder.fc, momentum.fc = filled(mlp(512, 64, 16), 3), filled(mlp(512, 64, 16), 4)
    model = Parts(encoder=encoder, encoder_momentum=momentum, predictor=filled(mlp(16, 64, 16), 5))
    content = moco_file(distributed(model), model, 100)
    return written(folder / "checkpoint_0099.pth.tar", content, "simsiam", networks, epochs=100)


@case("unigrad")
def unigrad_training(folder: Path) -> Genuine:
    net, twin = filled(resnet(), 1), filled(resnet(), 2)

    def projector(seed: int) -> nn.Module:
        first, second = (nn.Sequential(nn.Linear(x, 64, bias=False), nn.BatchNorm1d(64), nn.ReLU()) for x in (512, 64))
        return filled(nn.Sequential(first, second, nn.Sequential(nn.Linear(64, 64))), seed)

    model = Parts(
        encoder=sequence(net, nn.Flatten(1)),
        projector=projector(3),
        momentum_encoder=sequence(twin, nn.Flatten(1)),
        momentum_projector=projector(4),
    )
    content = {
        "model": distributed(model),
        "optimizer": sgd(model),
        "scaler": {"scale": 65536.0},
        "step": 500400,
        "epoch": 99,
        "F": torch.rand(64, 64),
    }
    networks = {"online": trunk(net), "target": trunk(twin)}
    return written(folder / "latest.pth.tar", content, "unigrad", networks)


def swav(network: ResNet, prototypes: nn.Module) -> Parts:
    parts = {name: module for name, module in network.named_children() if name != "fc"}
    head = filled(nn.Sequential(nn.Linear(512, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 16)), 3)
    return Parts(**parts, projection_head=head, prototypes=prototypes)


@case("swav")
def swav_training(folder: Path) -> Genuine:
    network = filled(resnet(), 1)
    model = swav(network, nn.Linear(16, 300, bias=False))
    content = {
        "epoch": 400,
        "state_dict": distributed(model),
        "optimizer": sgd(model),
        "amp": {"loss_scaler0": {"loss_scale": 65536.0, "unskipped": 12}},
    }
    return written(folder / "checkpoint.pth.tar", content, "swav", {"online": trunk(network)}, epochs=400)


@case("swav")
def swav_release(folder: Path) -> Genuine:
    network = filled(resnet(), 1)
    model = swav(network, nn.Linear(16, 300, bias=False))
    return written(folder / "swav_800ep_pretrain.pth.tar", distributed(model), "swav", {"online": trunk(network)})


@case("swav")
def swav_deepcluster_release_with_several_prototypes(folder: Path) -> Genuine:
    network = filled(resnet(), 1)
    prototypes = Parts(**{f"prototypes{number}": nn.Linear(16, 30, bias=False) for number in range(3)})
    path = folder / "deepclusterv2_800ep_pretrain.pth.tar"
    return written(path, distributed(swav(network, prototypes)), "swav", {"online": trunk(network)})


@case("swav")
def swav_of_the_hub(folder: Path) -> Genuine:
    network = filled(resnet(), 1)
    return written(folder / "swav.pth", without_fc(network).state_dict(), "swav", {"online": trunk(network)})


@case("dino")
def dino_released_backbone(folder: Path) -> Genuine:
    network = without_fc(filled(resnet(), 1))
    return written(folder / "dino_resnet50_pretrain.pth", network.state_dict(), "dino", {"target": trunk(network)})


@case("dino")
def dino_training(folder: Path) -> Genuine:
    student, teacher = without_fc(filled(resnet(), 1)), without_fc(filled(resnet(), 2))

    def wrapped(backbone: nn.Module, seed: int) -> Parts:
        layers = nn.Sequential(nn.Linear(512, 64), nn.GELU(), nn.Linear(64, 64), nn.GELU(), nn.Linear(64, 16))
        last = Parts(weight_g=torch.ones(128, 1), weight_v=torch.rand(128, 16))
        return Parts(backbone=backbone, head=filled(Parts(mlp=layers, last_layer=last), seed))

    model = wrapped(student, 3)
    content = {
        "student": distributed(model),
        "teacher": distributed(wrapped(teacher, 4)),
        "optimizer": sgd(model),
        "epoch": 300,
        "args": argparse.Namespace(arch="resnet50", out_dim=65536, global_crops_scale=(0.14, 1.0)),
        "dino_loss": {"center": torch.rand(1, 128)},
        "fp16_scaler": {"scale": 65536.0},
    }
    networks = {"online": trunk(student), "target": trunk(teacher)}
    path = folder / "dino_resnet50_pretrain_full_checkpoint.pth"
    return written(path, content, "dino", networks, unsafe_pickle=True, epochs=300)


@case("barlow_twins")
def barlow_twins_release(folder: Path) -> Genuine:
    network = without_fc(filled(resnet(), 1))
    return written(folder / "resnet50.pth", network.state_dict(), "barlow_twins", {"online": trunk(network)})


@case("barlow_twins")
def barlow_twins_training(folder: Path) -> Genuine:
    network = without_fc(filled(resnet(), 1))
    projector = nn.Sequential(
        nn.Linear(512, 64, bias=False), nn.BatchNorm1d(64), nn.ReLU(),
        nn.Linear(64, 64, bias=False), nn.BatchNorm1d(64), nn.ReLU(),
        nn.Linear(64, 64, bias=False),
    )  # fmt: skip
    norm = nn.BatchNorm1d(64, affine=False)
    model = Parts(backbone=network, projector=filled(projector, 2), bn=filled(norm, 3))
    content = {"epoch": 1000, "model": distributed(model), "optimizer": sgd(model)}
    return written(folder / "checkpoint.pth", content, "barlow_twins", {"online": trunk(network)}, epochs=1000)


@case("vicreg")
def vicreg_release(folder: Path) -> Genuine:
    network = without_fc(filled(resnet(), 1))
    return written(folder / "resnet50.pth", network.state_dict(), "vicreg", {"online": trunk(network)})


@case("vicreg")
def vicreg_training(folder: Path) -> Genuine:
    network = without_fc(filled(resnet(), 1))
    model = Parts(backbone=network, projector=filled(mlp(512, 64, 64, 64), 2))
    content = {"epoch": 100, "model": distributed(model), "optimizer": sgd(model)}
    return written(folder / "model.pth", content, "vicreg", {"online": trunk(network)}, epochs=100)


@case("ssl_transfer")
def ssl_transfer_prepared(folder: Path) -> Genuine:
    network = filled(resnet(), 1)
    return written(folder / "moco-v2.pth", trunk(network), "ssl_transfer", {"online": trunk(network)}, given=True)


@case("tf_simclr")
def tf_simclr_converted(folder: Path) -> Genuine:
    network = filled(resnet(), 1)
    content = {"state_dict": network.state_dict()}
    return written(
        folder / "resnet50-1x.pth", content, "tf_simclr", {"online": trunk(network)}, mean=UNIT_MEAN, std=UNIT_STD
    )


class SeparatedBlock(nn.Module):
    """A bottleneck of SimCLRv2-Pytorch: each batch norm shares a sequence with its ReLU."""

    def __init__(self, block: Bottleneck):
        super().__init__()
        if block.downsample is not None:
            conv, norm = block.downsample
            self.projection = Parts(shortcut=nn.Sequential(conv, nn.Sequential(norm, nn.Identity())))
        self.net = nn.Sequential(
            block.conv1, nn.Sequential(block.bn1, nn.ReLU()),
            block.conv2, nn.Sequential(block.bn2, nn.ReLU()),
            block.conv3, nn.Sequential(block.bn3, nn.Identity()),
        )  # fmt: skip


@case("tf_simclr_v2")
def tf_simclr_v2_converted(folder: Path) -> Genuine:
    network = filled(resnet("resnet50"), 1)
    stem = nn.Sequential(network.conv1, nn.Sequential(network.bn1, nn.ReLU()), nn.MaxPool2d(3, 2))
    stages = (network.layer1, network.layer2, network.layer3, network.layer4)
    blocks = (Parts(blocks=nn.ModuleList(SeparatedBlock(block) for block in stage)) for stage in stages)
    model = Parts(net=nn.Sequential(stem, *blocks), fc=filled(nn.Linear(2048, 10), 2))
    layers = (nn.Linear(64, 64, bias=False), nn.BatchNorm1d(64))
    head = filled(Parts(layers=nn.ModuleList(layers)), 3)
    return written(
        folder / "r50_1x_sk0.pth", {"resnet": model.state_dict(), "head": head.state_dict()}, "tf_simclr_v2",
        {"online": trunk(network)}, arch="resnet50", mean=UNIT_MEAN, std=UNIT_STD,
    )  # fmt: skip


def haiku_modules() -> Iterator[tuple[str, str, str, str]]:
    """Torchvision's convolution and batch norm, and the two modules of haiku."""
    yield "conv1", "bn1", "res_net50/~/initial_conv", "res_net50/~/initial_batchnorm"
    for layer, depth in enumerate((3, 4, 6, 3), 1):
        for number in range(depth):
            ours, theirs = f"layer{layer}.{number}", f"res_net50/~/block_group_{layer - 1}/~/block_{number}/~"
            if number == 0:
                yield (
                    f"{ours}.downsample.0", f"{ours}.downsample.1",
                    f"{theirs}/shortcut_conv", f"{theirs}/shortcut_batchnorm",
                )  # fmt: skip
            for k in range(3):
                yield f"{ours}.conv{k + 1}", f"{ours}.bn{k + 1}", f"{theirs}/conv_{k}", f"{theirs}/batchnorm_{k}"


def haiku(state: State, mapping: type) -> tuple[Any, Any]:
    """A network as haiku keeps it, parameters and state: channels last, statistics as averages with their past."""
    params: dict[str, Any] = {}
    statistics: dict[str, Any] = {}

    def moving(average: np.ndarray, counter: int) -> Any:
        return mapping({"counter": np.array(counter, np.int32), "hidden": average / 2, "average": average})

    for conv, norm, their_conv, their_norm in haiku_modules():
        params[their_conv] = mapping({"w": state[f"{conv}.weight"].permute(2, 3, 1, 0).contiguous().numpy()})
        row = {leaf: state[f"{norm}.{leaf}"].numpy().reshape(1, 1, 1, -1) for leaf in NORM_LEAVES}
        params[their_norm] = mapping({"scale": row["weight"], "offset": row["bias"]})
        statistics[f"{their_norm}/~/mean_ema"] = moving(row["running_mean"], 300_000)
        statistics[f"{their_norm}/~/var_ema"] = moving(row["running_var"], 300_000)
    for head in ("projector", "predictor"):
        params[f"{head}/linear"] = mapping({"w": np.ones((64, 16), np.float32), "b": np.ones(16, np.float32)})
        params[f"{head}/batch_norm"] = mapping({leaf: np.ones((1, 16), np.float32) for leaf in ("scale", "offset")})
        params[f"{head}/linear_1"] = mapping({"w": np.ones((16, 16), np.float32)})
        for average in ("mean_ema", "var_ema"):
            statistics[f"{head}/batch_norm/~/{average}"] = moving(np.ones((1, 16), np.float32), 300_000)
    params["classifier"] = mapping({"w": np.ones((2048, 10), np.float32), "b": np.ones(10, np.float32)})
    return mapping(params), mapping(statistics)


NORM_LEAVES = ("weight", "bias", "running_mean", "running_var")


class FrozenMapping(Mapping[str, Any]):
    def __init__(self, storage: dict[str, Any]):
        self._storage = dict(storage)

    def __getitem__(self, key: str) -> Any:
        return self._storage[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._storage)

    def __len__(self) -> int:
        return len(self._storage)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self._storage,)


def old_numpy(content: bytes) -> bytes:
    """A pickle of a protocol that names functions in lines of text, as NumPy 1 wrote it."""
    assert b"cnumpy._core.multiarray\n" in content
    return content.replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n")


@case("byol_deepmind")
def byol_deepmind_release_written_with_numpy_1(folder: Path) -> Genuine:
    networks = {"online": trunk(filled(resnet("resnet50"), 1)), "target": trunk(filled(resnet("resnet50"), 2))}
    for state in networks.values():  # the format has no counters
        state.update({name: torch.tensor(0) for name in state if name.endswith("num_batches_tracked")})
    path = folder / "pretrain_res50x1.pkl"
    fields = ("online_params", "target_params", "online_state", "target_state", "opt_state")
    experiment_state = namedtuple("_ByolExperimentState", fields, module="byol.byol_experiment")
    lars_state = namedtuple("ScaleByLarsState", ("mu",), module="byol.utils.optimizers")
    with (
        foreign_class("haiku._src.data_structures", "frozendict", FrozenMapping) as mapping,
        foreign(experiment_state),
        foreign(lars_state),
    ):
        params, statistics = zip(*(haiku(state, mapping) for state in networks.values()), strict=True)
        moments = mapping(
            {"classifier": params[0]["classifier"]}
        )  # cut short: the real ones are as large as all weights
        state = experiment_state(*params, *statistics, (lars_state(moments), np.array(7, np.int32)))
        content = {"experiment_state": state, "step": 312_000, "rng": np.array([0, 42], np.uint32)}
        pickled = dill.dumps(content, protocol=2)
    path.write_bytes(old_numpy(pickled))
    return Genuine(path, "byol_deepmind", networks, arch="resnet50_same", unsafe_pickle=True)


def yaox12(network: ResNet, seed: int) -> Parts:
    head = Parts(l1=nn.Linear(512, 64), bn1=nn.BatchNorm1d(64), relu1=nn.ReLU(), l2=nn.Linear(64, 16))
    return Parts(encoder=sequence(network), projetion=filled(head, seed))


@case("byol_yaox12")
def byol_yaox12_training(folder: Path) -> Genuine:
    online, target = filled(resnet(), 1), filled(resnet(), 2)
    predictor = Parts(l1=nn.Linear(16, 64), bn1=nn.BatchNorm1d(64), relu1=nn.ReLU(), l2=nn.Linear(64, 16))
    model = Parts(
        online_network=yaox12(online, 3), target_network=yaox12(target, 4), predictor=Parts(predictor=predictor)
    )
    content = {
        "config": {"model": {"backbone": {"type": "resnet18", "pretrained": False}, "base_momentum": 0.99}},
        "epoch": 300,
        "steps": 93_600,
        "model": distributed(model),
        "optimizer": sgd(model),
        "amp": {"loss_scaler0": {"loss_scale": 65536.0, "unskipped": 12}},
    }
    networks = {"online": trunk(online), "target": trunk(target)}
    return written(folder / "resnet18_300.pth.tar", content, "byol_yaox12", networks)


@case("byol_yaox12")
def byol_yaox12_legacy_release(folder: Path) -> Genuine:
    network = filled(resnet(), 1)
    names = (f"module.part{number}.{name.rpartition('.')[2]}" for number, name in enumerate(trunk(network)))
    backbone = OrderedDict(zip(names, trunk(network).values(), strict=True))
    projection = filled(Parts(l1=nn.Linear(512, 64), bn1=nn.BatchNorm1d(64), l2=nn.Linear(64, 16)), 2)
    content = {"online_backbone": backbone, "online_projection": projection.state_dict()}
    path = folder / "resnet50_byol_imagenet2012.pth.tar"
    return written(path, content, "byol_yaox12", {"online": trunk(network)})


def lucidrains(*, momentum: bool = True) -> tuple[Parts, dict[str, State]]:
    """The learner: the user's network stands in it twice, as ``net`` and in the online encoder."""
    net = filled(resnet(), 1)
    online = Parts(net=net, projector=filled(mlp(512, 64, 16), 3))
    networks = {"online": trunk(net)}
    parts: dict[str, nn.Module] = {"net": net, "online_encoder": online}
    parts["online_predictor"] = filled(mlp(16, 64, 16), 4)
    if momentum:
        twin = filled(resnet(), 2)
        networks["target"] = trunk(twin)
        parts["target_encoder"] = Parts(net=twin, projector=filled(mlp(512, 64, 16), 5))
    return Parts(**parts), networks


@case("byol_lucidrains")
def byol_lucidrains_learner(folder: Path) -> Genuine:
    model, networks = lucidrains()
    return written(folder / "learner.pt", model.state_dict(), "byol_lucidrains", networks)


@case("byol_lucidrains")
def byol_lucidrains_learner_as_simsiam(folder: Path) -> Genuine:
    model, networks = lucidrains(momentum=False)
    return written(folder / "learner.pt", {"state_dict": model.state_dict()}, "byol_lucidrains", networks)


@case("byol_lucidrains")
def byol_lucidrains_lightning_example(folder: Path) -> Genuine:
    model, networks = lucidrains()
    content = lightning(Parts(learner=model))
    return written(folder / "epoch=999-step=1000.ckpt", content, "byol_lucidrains", networks)


@case("byol_sthalles")
def byol_sthalles_training(folder: Path) -> Genuine:
    online, target = filled(resnet(), 1), filled(resnet(), 2)

    def network(encoder: ResNet, seed: int) -> Parts:
        layers = nn.Sequential(nn.Linear(512, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 16))
        return Parts(encoder=sequence(encoder), projetion=filled(Parts(net=layers), seed))

    model = network(online, 3)
    content = {
        "online_network_state_dict": model.state_dict(),
        "target_network_state_dict": network(target, 4).state_dict(),
        "optimizer_state_dict": sgd(model),
    }
    networks = {"online": trunk(online), "target": trunk(target)}
    return written(folder / "model.pth", content, "byol_sthalles", networks, mean=UNIT_MEAN, std=UNIT_STD, size=96)


def lightning(model: nn.Module, epoch: int = 399, **more: Any) -> dict[str, Any]:
    """A checkpoint of pytorch_lightning."""
    return {
        "epoch": epoch,
        "global_step": 195_000,
        "pytorch-lightning_version": "1.9.5",
        "state_dict": model.state_dict(),
        "loops": {"fit_loop": {"state_dict": {}, "epoch_progress": {"current": {"completed": epoch}}}},
        "callbacks": {"ModelCheckpoint{'monitor': None}": {"best_model_path": "", "best_k_models": {}}},
        "optimizer_states": [sgd(model)],
        "lr_schedulers": [{"last_epoch": epoch}],
        "hparams_name": "kwargs",
        "hyper_parameters": {"batch_size": 256, "method": "byol"},
        **more,
    }


def solo_learn(name: str, networks: dict[str, ResNet]) -> Parts:
    online, target = networks["online"], networks["target"]
    return Parts(
        **{name: without_fc(online)},
        classifier=filled(nn.Linear(512, 10), 3),
        **{f"momentum_{name}": without_fc(target)},
        momentum_classifier=filled(nn.Linear(512, 10), 4),
        projector=filled(mlp(512, 64, 16), 5),
        momentum_projector=filled(mlp(512, 64, 16), 6),
        predictor=filled(mlp(16, 64, 16), 7),
        queue=torch.rand(2, 16, 32),
        queue_ptr=torch.tensor([0]),
    )


@case("solo_learn")
def solo_learn_training(folder: Path) -> Genuine:
    nets = {"online": filled(resnet(), 1), "target": filled(resnet(), 2)}
    networks = {branch: trunk(net) for branch, net in nets.items()}
    content = lightning(solo_learn("backbone", nets))
    return written(folder / "byol-400ep-imagenet100.ckpt", content, "solo_learn", networks)


@case("solo_learn")
def solo_learn_old_training_with_pickled_callbacks(folder: Path) -> Genuine:
    nets = {"online": filled(resnet(), 1), "target": filled(resnet(), 2)}
    networks = {branch: trunk(net) for branch, net in nets.items()}
    path = folder / "mocov2plus-400ep.ckpt"
    with foreign_class("pytorch_lightning.callbacks.model_checkpoint", "ModelCheckpoint") as callback:
        content = lightning(solo_learn("encoder", nets), callbacks={callback: {"best_model_path": ""}})
        return written(path, content, "solo_learn", networks, unsafe_pickle=True)


@case("solo_learn")
def solo_learn_cifar(folder: Path) -> Genuine:
    nets = {"online": filled(resnet(small_stem=True), 1), "target": filled(resnet(small_stem=True), 2)}
    networks = {branch: trunk(net) for branch, net in nets.items()}
    content = lightning(solo_learn("backbone", nets), 999)
    return written(
        folder / "byol-cifar10-1000ep.ckpt", content, "solo_learn", networks,
        arch="resnet18_cifar_pad2", mean=CIFAR_MEAN, std=CIFAR_STD, given=True,
    )  # fmt: skip


def lightly_head(seed: int, *widths: int) -> nn.Module:
    return filled(Parts(layers=mlp(*(widths or (512, 64, 16)))), seed)


def lightly_classifier() -> nn.Module:
    return filled(Parts(linear=nn.Linear(512, 10)), 9)


@case("lightly")
def lightly_benchmark_of_byol(folder: Path) -> Genuine:
    student, teacher = filled(resnet(), 1), filled(resnet(), 2)
    model = Parts(
        backbone=without_fc(student),
        projection_head=lightly_head(3),
        prediction_head=lightly_head(4, 16, 64, 16),
        teacher_backbone=without_fc(teacher),
        teacher_projection_head=lightly_head(5),
        online_classifier=lightly_classifier(),
    )
    networks = {"online": trunk(student), "target": trunk(teacher)}
    return written(folder / "epoch=99-step=500400.ckpt", lightning(model), "lightly", networks)


@case("lightly")
def lightly_benchmark_of_dino_whose_backbone_is_the_teacher(folder: Path) -> Genuine:
    student, teacher = filled(resnet(), 1), filled(resnet(), 2)
    model = Parts(
        backbone=without_fc(teacher),
        projection_head=lightly_head(3),
        student_backbone=without_fc(student),
        student_projection_head=lightly_head(4),
        criterion=Parts(center=torch.rand(1, 1, 16)),
        online_classifier=lightly_classifier(),
    )
    networks = {"online": trunk(student), "target": trunk(teacher)}
    return written(folder / "epoch=99-step=500400.ckpt", lightning(model), "lightly", networks)


@case("lightly")
def lightly_benchmark_of_moco_whose_query_backbone_is_trained(folder: Path) -> Genuine:
    query, key = filled(resnet(), 1), filled(resnet(), 2)
    bank = Parts(bank=torch.rand(16, 64), bank_ptr=torch.tensor([32]))
    model = Parts(
        backbone=without_fc(key),
        projection_head=lightly_head(3),
        query_backbone=without_fc(query),
        query_projection_head=lightly_head(4),
        criterion=Parts(memory_bank=bank),
        online_classifier=lightly_classifier(),
    )
    networks = {"online": trunk(query), "target": trunk(key)}
    return written(folder / "epoch=99-step=500400.ckpt", lightning(model), "lightly", networks)


@case("lightly")
def lightly_benchmark_of_swav(folder: Path) -> Genuine:
    network = filled(resnet(), 1)
    queues = nn.ModuleList(Parts(bank=torch.rand(16, 64), bank_ptr=torch.tensor([0])) for _ in range(2))
    model = Parts(
        backbone=without_fc(network),
        projection_head=lightly_head(3),
        prototypes=Parts(heads=nn.ModuleList([nn.Linear(16, 30, bias=False)])),
        online_classifier=lightly_classifier(),
        queues=queues,
    )
    networks = {"online": trunk(network)}
    return written(folder / "epoch=99-step=500400.ckpt", lightning(model), "lightly", networks)


@case("lightly")
def lightly_example_of_moco_in_sequence(folder: Path) -> Genuine:
    query, key = filled(resnet(), 1), filled(resnet(), 2)
    model = Parts(
        backbone=sequence(query),
        projection_head=lightly_head(3),
        backbone_momentum=sequence(key),
        projection_head_momentum=lightly_head(4),
        criterion=Parts(memory_bank=Parts(bank=torch.rand(16, 64), bank_ptr=torch.tensor([32]))),
    )
    networks = {"online": trunk(query), "target": trunk(key)}
    return written(folder / "epoch=9-step=1000.ckpt", lightning(model), "lightly", networks)


@case("lightly")
def lightly_command_line(folder: Path) -> Genuine:
    network = filled(resnet(), 1)
    inner = Parts(backbone=sequence(network), projection_head=lightly_head(3))
    networks = {"online": trunk(network)}
    return written(folder / "lightly_epoch_99.ckpt", lightning(Parts(model=inner)), "lightly", networks)


class SmallBlock(nn.Module):
    """A block as networks for CIFAR often name it: always a shortcut, empty where nothing changes shape."""

    def __init__(self, block: BasicBlock):
        super().__init__()
        self.conv1, self.bn1, self.conv2, self.bn2 = block.conv1, block.bn1, block.conv2, block.bn2
        self.shortcut = nn.Sequential() if block.downsample is None else block.downsample


def small_network(network: ResNet, classifier: str) -> Parts:
    """A network for CIFAR without entries for ReLU and max-pool, with ``shortcut`` and a classifier of that name."""
    layers = {
        f"layer{number}": nn.Sequential(*(SmallBlock(block) for block in getattr(network, f"layer{number}")))
        for number in range(1, 5)
    }
    return Parts(conv1=network.conv1, bn1=network.bn1, **layers, **{classifier: filled(nn.Linear(512, 10), 9)})


def lightly_cifar_model(*, dummy_parameter: bool) -> tuple[Parts, dict[str, State]]:
    student, twin = filled(resnet(small_stem=True), 1), filled(resnet(small_stem=True), 2)
    model = Parts(
        backbone=nn.Sequential(*list(small_network(student, "linear").children())[:-1], nn.AdaptiveAvgPool2d(1)),
        projection_head=lightly_head(3),
        backbone_momentum=nn.Sequential(*list(small_network(twin, "linear").children())[:-1], nn.AdaptiveAvgPool2d(1)),
        projection_head_momentum=lightly_head(4),
        prediction_head=lightly_head(5, 16, 64, 16),
    )
    if dummy_parameter:
        model.dummy_param = nn.Parameter(torch.empty(0))
    return model, {"online": trunk(student), "target": trunk(twin)}


@case("lightly")
def lightly_benchmark_on_cifar(folder: Path) -> Genuine:
    model, networks = lightly_cifar_model(dummy_parameter=False)
    return written(
        folder / "epoch=199-step=78000.ckpt", lightning(model), "lightly", networks,
        arch="resnet18_cifar", mean=CIFAR_MEAN, std=CIFAR_STD, given=True,
    )  # fmt: skip


@case("lightly")
def lightly_older_benchmark_on_cifar_with_dummy_parameter(folder: Path) -> Genuine:
    model, networks = lightly_cifar_model(dummy_parameter=True)
    return written(
        folder / "epoch=199-step=78000.ckpt", lightning(model), "lightly", networks,
        arch="resnet18_cifar", mean=CIFAR_MEAN, std=CIFAR_STD, given=True,
    )  # fmt: skip


def patrickhua_head(seed: int, width: int = 512) -> nn.Module:
    layers = [nn.Sequential(nn.Linear(i, 64), nn.BatchNorm1d(64), nn.ReLU()) for i in (width, 64)]
    last = nn.Sequential(nn.Linear(64, 64), nn.BatchNorm1d(64))
    return filled(Parts(layer1=layers[0], layer2=layers[1], layer3=last), seed)


def patrickhua_simsiam(backbone: nn.Module) -> Parts:
    projector = patrickhua_head(3)
    predictor = filled(Parts(layer1=nn.Sequential(nn.Linear(64, 16), nn.BatchNorm1d(16)), layer2=nn.Linear(16, 64)), 4)
    encoder = nn.Sequential(backbone, projector)
    return Parts(backbone=backbone, projector=projector, encoder=encoder, predictor=predictor)


@case("patrickhua")
def patrickhua_simsiam_with_pickled_arguments(folder: Path) -> Genuine:
    network = filled(resnet(), 1)
    model = patrickhua_simsiam(without_fc(network))
    path = folder / "simsiam-imagenet-epoch100.pth"
    with (
        foreign_class("optimizers.lr_scheduler", "LR_Scheduler") as scheduler_class,
        foreign_class("tools.plotter", "PlotLogger") as logger_class,
    ):
        scheduler, logger = scheduler_class(), logger_class()
        scheduler.optimizer = torch.optim.SGD(list(model.parameters())[:2], lr=0.1)
        scheduler.lr_schedule = np.linspace(0.1, 0.0, 100)
        logger.logger = OrderedDict(epoch=[0, 1], loss=[-0.2, -0.5])
        content = {
            "epoch": 100,
            "state_dict": distributed(model),
            "lr_scheduler": scheduler,
            "args": argparse.Namespace(model="simsiam", backbone="resnet18", image_size=224),
            "plot_logger": logger,
        }
        return written(path, content, "patrickhua", {"online": trunk(network)}, unsafe_pickle=True, epochs=100)


def patrickhua_cifar(folder: Path, network: ResNet, backbone: nn.Module) -> Genuine:
    expected = trunk(network)
    backbone.fc = nn.Identity()
    content = {"epoch": 800, "state_dict": patrickhua_simsiam(backbone).state_dict()}
    path = folder / "simsiam-cifar10-experiment-resnet18.pth"
    return written(path, content, "patrickhua", {"online": expected}, arch="resnet18_cifar", epochs=800, size=32)


@case("patrickhua")
def patrickhua_simsiam_cifar_variant_1(folder: Path) -> Genuine:
    network = filled(resnet(small_stem=True), 1)
    return patrickhua_cifar(folder, network, network)


@case("patrickhua")
def patrickhua_simsiam_cifar_variant_2(folder: Path) -> Genuine:
    network = filled(resnet(small_stem=True), 1)
    return patrickhua_cifar(folder, network, small_network(network, "fc"))


@case("patrickhua")
def patrickhua_byol(folder: Path) -> Genuine:
    network, twin = filled(resnet(), 1), filled(resnet(), 2)
    backbone, projector = without_fc(network), patrickhua_head(3)
    model = Parts(
        backbone=backbone,
        projector=projector,
        online_encoder=nn.Sequential(backbone, projector),
        target_encoder=nn.Sequential(without_fc(twin), patrickhua_head(4)),
        online_predictor=patrickhua_head(5, 64),
    )
    networks = {"online": trunk(network), "target": trunk(twin)}
    content = {"epoch": 300, "state_dict": model.state_dict()}
    return written(folder / "byol-imagenet.pth", content, "patrickhua", networks, epochs=300)


@case("vissl")
def vissl_training(folder: Path) -> Genuine:
    network = filled(resnet(), 1)
    model = Parts(_feature_blocks=without_fc(network))
    head = filled(Parts(clf=nn.Sequential(nn.Linear(512, 64), nn.ReLU(), nn.Linear(64, 16))), 2)
    twin = Parts(trunk=Parts(_feature_blocks=without_fc(filled(resnet(), 3))))
    content = {
        "phase_idx": 199,
        "iteration": 500_400,
        "loss": 6.5,
        "iteration_num": 2501,
        "train_phase_idx": 199,
        "type": "consolidated",
        "classy_state_dict": {
            "train": True,
            "base_model": {
                "model": {"trunk": model.state_dict(), "heads": nn.ModuleList([head]).state_dict()},
                "meters": None,
            },
            "meters": [{"name": "accuracy_list_meter"}],
            "optimizer": {"optim": sgd(model)},
            "phase_idx": 199,
            "losses": [6.7, 6.5],
            "hooks": {},
            "loss": Parts(moco_encoder=twin, queue=torch.rand(16, 64)).state_dict(),
        },
    }
    return written(folder / "model_final_checkpoint_phase199.torch", content, "vissl", {"online": trunk(network)})


@case("vissl")
def vissl_converted_model(folder: Path) -> Genuine:
    network = filled(resnet(), 1)
    content = {"model_state_dict": Parts(_feature_blocks=without_fc(network)).state_dict()}
    return written(folder / "jigsaw_rn50.torch", content, "vissl", {"online": trunk(network)})


def openmmlab_neck(seed: int) -> nn.Module:
    return filled(Parts(fc0=nn.Linear(512, 64), bn0=nn.BatchNorm1d(64), fc1=nn.Linear(64, 16)), seed)


def openmmlab_head(seed: int) -> nn.Module:
    predictor = Parts(fc0=nn.Linear(16, 64), bn0=nn.BatchNorm1d(64), fc1=nn.Linear(64, 16))
    return filled(Parts(predictor=predictor), seed)


META = {"mmselfsup_version": "0.10.0", "config": "model = dict(type='BYOL')", "epoch": 200, "iter": 62_400}


@case("mmselfsup")
def mmselfsup_0_byol(folder: Path) -> Genuine:
    network, twin = filled(resnet(), 1), filled(resnet(), 2)
    backbone, neck = without_fc(network), openmmlab_neck(3)
    model = Parts(
        online_net=nn.Sequential(backbone, neck),
        target_net=nn.Sequential(without_fc(twin), openmmlab_neck(4)),
        backbone=backbone,
        neck=neck,
        head=openmmlab_head(5),
    )
    content = {"meta": META, "state_dict": model.state_dict(), "optimizer": sgd(model)}
    networks = {"online": trunk(network), "target": trunk(twin)}
    return written(folder / "epoch_200.pth", content, "mmselfsup", networks)


@case("mmselfsup")
def mmselfsup_0_moco(folder: Path) -> Genuine:
    network, twin = filled(resnet(), 1), filled(resnet(), 2)
    backbone = without_fc(network)
    neck = filled(Parts(mlp=nn.Sequential(nn.Linear(512, 64), nn.ReLU(), nn.Linear(64, 16))), 3)
    other = filled(Parts(mlp=nn.Sequential(nn.Linear(512, 64), nn.ReLU(), nn.Linear(64, 16))), 4)
    model = Parts(
        encoder_q=nn.Sequential(backbone, neck),
        encoder_k=nn.Sequential(without_fc(twin), other),
        backbone=backbone,
        neck=neck,
        queue=torch.rand(16, 64),
        queue_ptr=torch.tensor([32]),
    )
    content = {"meta": META, "state_dict": model.state_dict(), "optimizer": sgd(model)}
    networks = {"online": trunk(network), "target": trunk(twin)}
    return written(folder / "epoch_200.pth", content, "mmselfsup", networks)


@case("mmselfsup")
def mmselfsup_1_byol_with_message_hub(folder: Path) -> Genuine:
    network, twin = filled(resnet(), 1), filled(resnet(), 2)
    average = Parts(module=nn.Sequential(without_fc(twin), openmmlab_neck(4)), steps=torch.tensor(62_400))
    model = Parts(backbone=without_fc(network), neck=openmmlab_neck(3), head=openmmlab_head(5), target_net=average)
    networks = {"online": trunk(network), "target": trunk(twin)}
    with foreign_class("mmengine.logging.history_buffer", "HistoryBuffer") as buffer_class:
        history = buffer_class()
        history.__dict__.update(_max_length=1_000_000, _log_history=np.linspace(2.0, 0.5, 20), _set_default=True)
        content = {
            "meta": {"cfg": "model = dict(type='BYOL')", "epoch": 200, "mmengine_version": "0.7.3"},
            "state_dict": model.state_dict(),
            "message_hub": {"log_scalars": {"train/loss": history}, "runtime_info": {"epoch": 199}},
            "optimizer": sgd(model),
            "param_schedulers": [{"last_step": 200}],
        }
        return written(folder / "epoch_200.pth", content, "mmselfsup", networks, unsafe_pickle=True)


@case("mmselfsup")
def mmselfsup_1_moco(folder: Path) -> Genuine:
    network, twin = filled(resnet(), 1), filled(resnet(), 2)
    average = Parts(module=nn.Sequential(without_fc(twin), openmmlab_neck(4)), steps=torch.tensor(62_400))
    model = Parts(
        backbone=without_fc(network),
        neck=openmmlab_neck(3),
        encoder_k=average,
        queue=torch.rand(16, 64),
        queue_ptr=torch.tensor([32]),
    )
    networks = {"online": trunk(network), "target": trunk(twin)}
    content = {"meta": META, "state_dict": model.state_dict()}
    return written(folder / "mocov2_resnet50.pth", content, "mmselfsup", networks)


@case("mmselfsup")
def mmselfsup_extracted_backbone(folder: Path) -> Genuine:
    network = filled(resnet(), 1)
    content = {"state_dict": trunk(network), "author": "OpenSelfSup"}
    return written(folder / "byol_r50_backbone.pth", content, "mmselfsup", {"online": trunk(network)})


def detectron2_name(name: str) -> str:
    """As the conversion scripts of MoCo and VISSL rename torchvision's keys."""
    if not name.startswith("layer"):
        name = f"stem.{name}"
    for number in range(1, 5):
        name = name.replace(f"layer{number}", f"res{number + 1}")
    for number in range(1, 4):
        name = name.replace(f"bn{number}", f"conv{number}.norm")
    return name.replace("downsample.0", "shortcut").replace("downsample.1", "shortcut.norm")


def detectron2_pickle(folder: Path, *, numpy_1: bool) -> Genuine:
    network = filled(resnet(), 1)
    networks = {"online": trunk(network)}
    network.fc = filled(nn.Sequential(nn.Linear(512, 64), nn.ReLU(), nn.Linear(64, 16)), 2)
    model = {detectron2_name(name): x.numpy() for name, x in network.state_dict().items()}
    content = {"model": model, "__author__": "MOCO", "matching_heuristics": True}
    path = folder / "moco.pkl"
    path.write_bytes(old_numpy(pickle.dumps(content, protocol=3)) if numpy_1 else pickle.dumps(content, protocol=4))
    return Genuine(path, "detectron2", networks)


@case("detectron2")
def detectron2_pickle_of_moco_and_solo_learn(folder: Path) -> Genuine:
    return detectron2_pickle(folder, numpy_1=False)


@case("detectron2")
def detectron2_pickle_of_moco_written_with_numpy_1(folder: Path) -> Genuine:
    return detectron2_pickle(folder, numpy_1=True)


@case("detectron2")
def detectron2_file_of_vissl(folder: Path) -> Genuine:
    network = filled(resnet(), 1)
    expected = {
        name: torch.tensor(0) if name.endswith("num_batches_tracked") else x for name, x in trunk(network).items()
    }
    model = OrderedDict(
        (detectron2_name(name), torch.from_numpy(np.array(x.numpy())))
        for name, x in sorted(trunk(network).items())
        if "num_batches_tracked" not in name
    )
    content = {"model": model, "matching_heuristics": True}
    return written(folder / "swav_d2.torch", content, "detectron2", {"online": expected})


@case("gsg_transfer")
def gsg_transfer_pretraining(folder: Path) -> Genuine:
    network = filled(resnet(small_stem=True), 1)
    source = Source("byol-guided", "target", "imagenette", epochs=20, seed=3, sha256=None, version="0.1.0")
    pixels = Pixels(32, CIFAR_MEAN, CIFAR_STD)
    path = folder / "checkpoint.safetensors"
    save(Checkpoint("resnet18_cifar", trunk(network), pixels, source), path)
    return Genuine(
        path, "gsg_transfer", {"target": trunk(network)},
        arch="resnet18_cifar", mean=CIFAR_MEAN, std=CIFAR_STD, epochs=20, size=32,
    )  # fmt: skip


# ---- genuine files


@pytest.fixture(scope="module", params=CASES)
def genuine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Genuine]:
    """A file of an origin, removed after its last test: each has 45 MB or more."""
    folder = tmp_path_factory.mktemp("genuine")
    yield CASES[request.param](folder)
    shutil.rmtree(folder)


def assert_bit_equal(found: State, expected: State) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype, name
        assert found[name].shape == tensor.shape, name
        assert (
            torch.equal(found[name].view(torch.uint8), tensor.contiguous().view(torch.uint8))
            if tensor.ndim
            else (found[name].item() == tensor.item())
        ), name


def assert_lists_the_readings(message: str, *flags: str) -> None:
    assert "can be read in several ways: " in message
    assert message.count(" tensors at ") >= 2
    assert any(flag in message for flag in flags), message


def test_every_origin_has_a_genuine_file() -> None:
    assert {name.partition("-")[0] for name in CASES} == set(sources.names())


def test_named_origin_and_branch_give_exactly_that_network(genuine: Genuine) -> None:
    only = len(genuine.networks) == 1
    for branch, expected in genuine.networks.items():
        read = genuine.read(genuine.source, None if only else branch)
        assert_bit_equal(read.checkpoint.backbone, expected)
        pixels = read.checkpoint.pixels
        assert (read.checkpoint.arch, read.checkpoint.source.branch) == (genuine.arch, branch)
        assert (pixels.mean, pixels.std, pixels.order) == (genuine.mean, genuine.std, "RGB")
        assert genuine.size in (None, pixels.size)
        assert read.sources == (genuine.source,)
        assert genuine.epochs in (None, read.checkpoint.source.epochs)


def test_recognised_file_gives_the_same_network_or_asks_which_reading(genuine: Genuine) -> None:
    if len(genuine.networks) > 1:
        with pytest.raises(InputError) as asked:
            genuine.read("auto")
        assert_lists_the_readings(str(asked.value), "--branch")
        for branch, expected in genuine.networks.items():
            read = genuine.read("auto", branch)
            assert_bit_equal(read.checkpoint.backbone, expected)
            assert read.checkpoint.source.branch == branch
        return
    ((branch, expected),) = genuine.networks.items()
    try:
        read = genuine.read("auto")
    except InputError as error:
        assert_lists_the_readings(str(error), "--branch", "--source")
        return
    assert_bit_equal(read.checkpoint.backbone, expected)
    assert read.checkpoint.source.branch in (branch, "unknown")
    assert genuine.source in read.sources or not sources.find(genuine.source).ORIGIN.recognised
    assert (read.checkpoint.pixels.mean, read.checkpoint.pixels.std) == (genuine.mean, genuine.std)


def test_file_that_needs_a_flag_names_it(genuine: Genuine) -> None:
    branch = next(iter(genuine.networks))
    if genuine.unsafe_pickle:
        with pytest.raises(InputError, match=r"--unsafe-pickle"):
            read_checkpoint(genuine.path, Request(genuine.source, branch))
    if genuine.given:
        with pytest.raises(InputError, match=r"--mean .* --std"):
            read_checkpoint(genuine.path, Request(genuine.source, branch))


def test_branch_that_a_file_lacks_is_refused(genuine: Genuine) -> None:
    if len(genuine.networks) == 1:
        (branch,) = genuine.networks
        other = {"online": "target", "target": "online"}[branch]
        with pytest.raises(InputError, match=rf"holds no {other} network, only: {branch}"):
            genuine.read(genuine.source, other)


def test_named_origin_without_branch_never_picks_one_of_two_networks(genuine: Genuine) -> None:
    if len(genuine.networks) == 2:
        with pytest.raises(InputError, match=r"--branch (online\|target|target\|online)"):
            genuine.read(genuine.source)


# ---- files that differ from genuine ones in one thing


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where a file may lie."""
    return tmp_path / "weights.pth"


@pytest.fixture(scope="module")
def named() -> State:
    """A backbone in torchvision's names; tests replace its tensors, and change none in place."""
    return trunk(filled(resnet(), 1))


def prefixed(prefix: str, state: State) -> State:
    return {prefix + name: tensor for name, tensor in state.items()}


def read_state(path: Path, source: str, content: dict[str, Any]) -> Read:
    torch.save(content, path)
    return read_checkpoint(path, Request(source))


@pytest.mark.parametrize(
    ("source", "wrapper", "prefix"),
    [
        ("solo_learn", "state_dict", "backbone."),
        ("mmselfsup", "state_dict", "backbone."),
        ("barlow_twins", "model", "module.backbone."),
        ("moco", "state_dict", "module.encoder_q."),
        ("simsiam", "state_dict", "encoder."),
    ],
)
def test_names_that_begin_with_letters_of_the_prefix_survive(
    path: Path, named: State, source: str, wrapper: str, prefix: str
) -> None:
    found = read_state(path, source, {wrapper: prefixed(prefix, named)}).checkpoint.backbone
    assert {"bn1.bias", "conv1.weight", "layer1.0.bn1.weight", "layer4.1.conv2.weight"} <= found.keys()
    assert_bit_equal(found, named)


@pytest.mark.parametrize("layout", ["sequence", "sequence for CIFAR", "sequence for CIFAR with shortcut", "shortcut"])
def test_numbered_and_shortcut_files_come_to_the_same_as_the_named_one(path: Path, layout: str) -> None:
    network = filled(resnet(small_stem=layout != "sequence"), 1)
    expected = trunk(network)
    parts = without_fc(network).children()
    small = nn.Sequential(*(part for part in parts if not isinstance(part, nn.ReLU | nn.Identity | nn.MaxPool2d)))
    source, model = {
        "sequence": ("lightly", sequence(network)),
        "sequence for CIFAR": ("lightly", small),
        "sequence for CIFAR with shortcut": ("lightly", nn.Sequential(*small_network(network, "fc").children())[:-1]),
        "shortcut": ("patrickhua", Parts(**dict(list(small_network(network, "fc").named_children())[:-1]))),
    }[layout]
    content = {"state_dict": Parts(backbone=model).state_dict()}
    last = {"sequence": "7.", "shortcut": "layer4."}.get(layout, "5.")
    assert any(name.startswith(f"backbone.{last}") for name in content["state_dict"])
    torch.save(content, path)
    given = {"mean": CIFAR_MEAN, "std": CIFAR_STD}
    numbered = read_checkpoint(path, Request(source, **given))
    torch.save({"state_dict": prefixed("backbone.", expected)}, path)
    by_name = read_checkpoint(path, Request(source, **given))
    assert_bit_equal(numbered.checkpoint.backbone, by_name.checkpoint.backbone)
    assert_bit_equal(numbered.checkpoint.backbone, expected)
    arch = "resnet18" if layout == "sequence" else "resnet18_cifar"
    assert (numbered.checkpoint.arch, by_name.checkpoint.arch) == (arch, arch)


@pytest.mark.parametrize("twin", [False, True], ids=["alone", "beside a whole momentum twin"])
@pytest.mark.parametrize("source", ["moco", "auto"])
@pytest.mark.parametrize(
    ("changes", "named_key"),
    [
        ({"module.encoder_q.layer1.0.se.weight": torch.ones(4)}, "module.encoder_q.layer1.0.se.weight"),
        ({"module.extra": torch.ones(4)}, "module.extra"),
        ({"module.encoder_q.layer3.1.bn2.running_var": None}, "layer3.1.bn2.running_var"),
        ({"module.encoder_q.layer3.1.bn2.num_batches_tracked": None}, "layer3.1.bn2.num_batches_tracked"),
        ({"module.encoder_q.layer2.0.conv1.weight": torch.ones(64, 128, 3, 3)}, "layer2.0.conv1.weight"),
        ({"module.encoder_q.bn1.weight": [1.0] * 64}, "bn1.weight"),
        ({"encoder_q.bn1.weight": torch.ones(64)}, "encoder_q.bn1.weight"),
    ],
    ids=["unknown in backbone", "unknown beside", "missing", "one counter missing", "transposed", "a list", "two keys"],
)
def test_file_that_is_not_exactly_one_backbone_is_refused_by_the_key(
    path: Path, named: State, source: str, changes: dict[str, Any], named_key: str, twin: bool
) -> None:
    state = {**prefixed("module.encoder_q.", named), **changes}
    if twin:  # which must not be taken in its place
        state |= prefixed("module.encoder_k.", named)
    state = {name: value for name, value in state.items() if value is not None}
    with pytest.raises(InputError) as refused:
        read_state(path, source, {"state_dict": state, "epoch": 200})
    assert named_key in str(refused.value)


def test_mean_and_std_do_not_change_the_size_of_the_images(path: Path, named: State) -> None:
    """Of an origin that leaves its normalisation open, a network with ImageNet's stem still saw 224 pixels."""
    torch.save(named, path)
    request = Request("ssl_transfer", mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    assert read_checkpoint(path, request).checkpoint.pixels == Pixels(224, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


STRANGERS = {
    "a segmentor": ("backbone.", {"decode_head.conv_seg.weight": torch.ones(2, 3, 1, 1)}),
    "a detector": ("backbone.", {"bbox_head.fc_cls.weight": torch.ones(2, 3)}),
    "torchvision's segmentor": ("backbone.", {"classifier.0.weight": torch.ones(2, 3, 1, 1)}),
    "a DETR": ("backbone.", {"transformer.encoder.layers.0.norm1.weight": torch.ones(2)}),
}


@pytest.mark.parametrize("stranger", STRANGERS)
def test_network_of_another_kind_is_refused_by_its_head(path: Path, named: State, stranger: str) -> None:
    prefix, head = STRANGERS[stranger]
    with pytest.raises(InputError, match=re.escape(next(iter(head)))):
        read_state(path, "auto", {"state_dict": {**prefixed(prefix, named), **head}})


@pytest.mark.parametrize("beside", ["ema_state_dict", "network_ema"])
def test_network_that_the_origin_does_not_know_is_not_passed_over(path: Path, named: State, beside: str) -> None:
    with pytest.raises(InputError, match=f"also holds a network at {beside}"):
        read_state(path, "torchvision", {"state_dict": named, beside: named})


def test_file_that_names_another_architecture_is_refused(path: Path, named: State) -> None:
    """timm's resnetblur50 and others have the same keys and another function."""
    with pytest.raises(InputError, match="it says that it is resnetblur18"):
        read_state(path, "timm", {"state_dict": named, "arch": "resnetblur18"})


@pytest.mark.parametrize("dtype", [torch.int8, torch.bool, torch.complex64])
def test_weights_that_are_no_real_numbers_are_refused(path: Path, named: State, dtype: torch.dtype) -> None:
    with pytest.raises(InputError, match=r"conv1\.weight is .*; expected real numbers"):
        read_state(path, "torchvision", {**named, "conv1.weight": named["conv1.weight"].to(dtype)})


def test_order_alone_does_not_exchange_weight_and_bias(path: Path, named: State) -> None:
    names = [f"x.{number}.{name.rpartition('.')[2]}" for number, name in enumerate(named)]
    state = dict(zip(names, named.values(), strict=True))
    assert_bit_equal(read_state(path, "byol_yaox12", {"online_backbone": state}).checkpoint.backbone, named)
    turned = {
        name.replace("weight", "?").replace("bias", "weight").replace("?", "bias") if number in (1, 2) else name: value
        for number, (name, value) in enumerate(state.items())
    }
    with pytest.raises(InputError, match="is not where a tensor of that name belongs"):
        read_state(path, "byol_yaox12", {"online_backbone": turned})


@pytest.mark.parametrize(
    ("source", "wrapper", "prefix", "copy"),
    [
        ("byol_lucidrains", None, "online_encoder.net.", "net."),
        ("patrickhua", "state_dict", "backbone.", "encoder.0."),
        ("mmselfsup", "state_dict", "backbone.", "online_net.0."),
        ("mmselfsup", "state_dict", "backbone.", "encoder_q.0."),
    ],
)
@pytest.mark.parametrize("leaf", ["layer2.0.bn1.bias", "bn1.num_batches_tracked"])
def test_copies_that_differ_are_refused_by_the_key(
    path: Path, named: State, source: str, wrapper: str | None, prefix: str, copy: str, leaf: str
) -> None:
    state = {**prefixed(prefix, named), **prefixed(copy, named)}
    assert_bit_equal(
        read_state(path, source, {wrapper: state} if wrapper else state).checkpoint.backbone, named
    )  # without a difference
    state[copy + leaf] = named[leaf] + 1
    with pytest.raises(InputError) as refused:
        read_state(path, source, {wrapper: state} if wrapper else state)
    assert copy + leaf in str(refused.value)


@pytest.mark.parametrize("source", ["timm", "torchvision", "auto"])
def test_deep_stem_of_timm_is_refused(path: Path, source: str) -> None:
    network = filled(resnet(), 1)
    network.conv1 = nn.Sequential(
        nn.Conv2d(3, 32, 3, 2, 1, bias=False), nn.BatchNorm2d(32), nn.ReLU(),
        nn.Conv2d(32, 32, 3, 1, 1, bias=False), nn.BatchNorm2d(32), nn.ReLU(),
        nn.Conv2d(32, 64, 3, 1, 1, bias=False),
    )  # fmt: skip
    for layer in (network.layer2, network.layer3, network.layer4):
        layer[0].downsample = nn.Sequential(nn.AvgPool2d(2, 2), *layer[0].downsample)
    with pytest.raises(InputError, match=r"conv1\.0\.weight"):
        read_state(path, source, network.state_dict())


@pytest.mark.parametrize("source", ["detectron2", "auto"])
@pytest.mark.parametrize("prefix", ["backbone.bottom_up.", "backbone."], ids=["FPN", "C4"])
def test_trained_detector_of_detectron2_is_refused(path: Path, named: State, source: str, prefix: str) -> None:
    """It does not say in which channel order and with which stride it was trained."""
    model = {prefix + detectron2_name(name): x for name, x in named.items() if not name.endswith("num_batches_tracked")}
    if prefix == "backbone.bottom_up.":
        model |= {
            "backbone.fpn_lateral2.weight": torch.ones(16, 64, 1, 1),
            "backbone.fpn_lateral2.bias": torch.ones(16),
        }
    model |= {
        "proposal_generator.rpn_head.conv.weight": torch.ones(16, 16, 3, 3),
        "proposal_generator.anchor_generator.cell_anchors.0": torch.ones(3, 4),
        "roi_heads.box_predictor.cls_score.weight": torch.ones(81, 16),
    }
    content = {"model": model, "optimizer": {}, "scheduler": {"last_epoch": 90_000}, "iteration": 89_999}
    with pytest.raises(InputError, match=r"backbone\.fpn_lateral2|proposal_generator"):
        read_state(path, source, content)


def test_half_precision_is_widened_with_a_note(path: Path, named: State) -> None:
    half = {name: x.half() if x.is_floating_point() else x for name, x in named.items()}
    read = read_state(path, "torchvision", half)
    assert_bit_equal(read.checkpoint.backbone, {name: x.to(named[name].dtype) for name, x in half.items()})
    assert [note for note in read.notes if "float16" in note and "float32" in note]


def test_double_precision_that_float32_holds_exactly_is_taken_with_a_note(path: Path, named: State) -> None:
    double = {name: x.double() if x.is_floating_point() else x for name, x in named.items()}
    read = read_state(path, "torchvision", double)
    assert_bit_equal(read.checkpoint.backbone, named)
    assert [note for note in read.notes if "float64" in note]


@pytest.mark.parametrize(
    "value",
    [
        torch.full((64,), 0.1, dtype=torch.float64),
        torch.full((64,), 1e300, dtype=torch.float64),
        torch.full((64,), float("nan")),
        torch.full((64,), float("nan"), dtype=torch.float16),
        torch.full((64,), float("inf")),
    ],
    ids=["inexact", "too large", "nan", "half nan", "infinite"],
)
def test_numbers_that_float32_cannot_hold_are_refused_by_the_key(path: Path, named: State, value: Tensor) -> None:
    with pytest.raises(InputError, match=r"layer1\.1\.bn2\.bias"):
        read_state(path, "torchvision", {**named, "layer1.1.bn2.bias": value})


def test_file_without_counters_is_filled_with_zeros_and_a_note(path: Path, named: State) -> None:
    old = {name: x for name, x in named.items() if not name.endswith("num_batches_tracked")}
    read = read_state(path, "torchvision", old)
    zeros = {name: torch.tensor(0) for name in named if name.endswith("num_batches_tracked")}
    assert_bit_equal(read.checkpoint.backbone, {**named, **zeros})
    assert [note for note in read.notes if "num_batches_tracked" in note and "0" in note]
