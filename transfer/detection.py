"""Faster R-CNN with FPN on a backbone: python transfer/detection.py --dataset voc|coco|sample --ckpt CKPT."""

import sys
from pathlib import Path

if not __package__:  # started by path: import this checkout, not this folder
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import argparse
import importlib
import os

import torch
from torch.multiprocessing.spawn import ProcessExitedException

from converters import distributed
from converters.devices import find_device
from converters.distributed import Ranks
from converters.errors import ArgumentParser, InputError, reports_input_errors
from converters.targets import quiet
from transfer.training_arguments import add_training_arguments, check_training_arguments, default_output

_DATASETS = ("voc", "coco", "sample")


@reports_input_errors
def main() -> int:
    """Run the command; returns its exit code: 0 if the numbers are there, 2 for a user's mistake."""
    args = _parse()
    _find_detectron2()
    if "WORLD_SIZE" in os.environ:
        return _under_torchrun(args)
    if args.num_gpus * args.num_machines > 1:
        return _launch(args)
    return _run(args, distributed.join(args.device))


def _parse() -> argparse.Namespace:
    parser = ArgumentParser(description="Faster R-CNN with FPN on a pretrained backbone, by Detectron2.")
    parser.add_argument("--dataset", default="sample", choices=_DATASETS, help="default: the sample scenes")
    parser.add_argument(
        "--protocol", help="file of configs/detection without the data set's name (default: published; sample's own)"
    )
    add_training_arguments(parser, "detection")
    parser.add_argument(
        "--data-root",
        type=Path,
        help="folder of the data sets (default: $DETECTRON2_DATASETS, else data; the sample's: runs/scenes)",
    )
    parser.add_argument("--voc-train", choices=("07+12", "07"), help="VOC: trainval sets to train on (default: 07+12)")
    parser.add_argument("--num-gpus", type=int, default=1, help="processes on this machine; or use torchrun")
    parser.add_argument("--num-machines", type=int, default=1)
    parser.add_argument("--machine-rank", type=int, default=0)
    parser.add_argument("--dist-url", help="tcp://HOST:PORT of the first machine, where there are several")
    parser.add_argument("--opts", nargs="+", default=[], metavar="KEY VALUE", help="any keys of Detectron2's")
    args = parser.parse_args()
    args.protocol = args.protocol or ("sample" if args.dataset == "sample" else "published")
    args.output = args.output or default_output("detection", args.dataset, args.protocol)
    check_training_arguments(args)
    if args.excerpt and args.dataset == "sample":
        raise InputError("--excerpt belongs to --dataset voc and coco; the sample has one size")
    if args.dataset == "voc":
        args.voc_train = args.voc_train or "07+12"
    elif args.voc_train:
        raise InputError(f"--voc-train belongs to --dataset voc; leave it out of --dataset {args.dataset}")
    _check_processes(args)
    return args


def _check_processes(args: argparse.Namespace) -> None:
    if min(args.num_gpus, args.num_machines) < 1 or not 0 <= args.machine_rank < args.num_machines:
        raise InputError(
            f"expected --num-gpus and --num-machines of 1 or more and a --machine-rank below the latter, got "
            f"{args.num_gpus}, {args.num_machines} and {args.machine_rank}"
        )
    if (args.num_machines > 1) != (args.dist_url is not None):
        raise InputError("several machines need --dist-url tcp://HOST:PORT of the first one, and one machine has none")


def _find_detectron2() -> None:
    """Refuse to start without the packages of the extra, before anything of this project imports them."""
    try:
        with quiet():
            importlib.import_module("detectron2.modeling")
    except ImportError as error:
        raise InputError(f"expected Detectron2 with its packages, got: {error}; run make setup") from error


def _run(args: argparse.Namespace, ranks: Ranks) -> int:
    from transfer.detection_run import run

    return run(args, ranks)


def _let_go() -> None:
    """Make Detectron2 forget its groups: a process that ends while it holds them is aborted now and then, with gloo."""
    from detectron2.utils import comm

    comm._LOCAL_PROCESS_GROUP = None
    comm._get_global_gloo_group.cache_clear()


def _under_torchrun(args: argparse.Namespace) -> int:
    if args.num_gpus * args.num_machines > 1:
        raise InputError("--num-gpus and --num-machines start processes, and torchrun has done so; give one of them")
    from detectron2.utils import comm

    ranks = distributed.join(args.device)
    comm.create_local_process_group(int(os.environ["LOCAL_WORLD_SIZE"]))
    return distributed.as_one_of_many(ranks, lambda: _run(args, ranks), _let_go)


def _launch(args: argparse.Namespace) -> int:
    """Start this machine's processes by Detectron2's launcher."""
    from detectron2.engine import launch

    num_devices = torch.cuda.device_count()
    if not num_devices and args.device != "cpu":
        raise InputError(f"--num-gpus {args.num_gpus}: no GPU is visible; --device cpu starts processes on the CPU")
    if num_devices and (args.num_gpus > num_devices or args.device not in (None, "cuda")):
        raise InputError(f"--num-gpus {args.num_gpus}: expected at most {num_devices}, and no --device; use torchrun")
    os.environ.setdefault("PYTHONWARNINGS", "ignore:`torch.jit.script`:FutureWarning")  # Detectron2's, in each process
    try:
        launch(_work, args.num_gpus, args.num_machines, args.machine_rank, args.dist_url or "auto", args=(args,))
    except ProcessExitedException as error:
        if error.exit_code != 2:  # which has said its line
            raise
        return 2
    return 0


def _work(args: argparse.Namespace) -> None:
    """What a process of the launcher does."""
    from detectron2.utils import comm

    device = f"cuda:{comm.get_local_rank()}" if torch.cuda.is_available() else "cpu"
    ranks = Ranks(comm.get_rank(), comm.get_world_size(), find_device(device))
    raise SystemExit(distributed.as_one_of_many(ranks, lambda: _run(args, ranks), _let_go))


if __name__ == "__main__":
    raise SystemExit(main())
