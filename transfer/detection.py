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
from converters.reading import add_reading_arguments
from converters.targets import quiet

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
    parser.add_argument(
        "--ckpt",
        help="checkpoint of any origin, or random:ARCH for a random initialisation (default: the newest pretraining "
        "run's)",
    )
    add_reading_arguments(parser)
    parser.add_argument("--allow-unverified", action="store_true", help="start without a valid certificate")
    parser.add_argument(
        "--data-root",
        type=Path,
        help="folder of the data sets (default: $DETECTRON2_DATASETS, else data; the sample's: runs/scenes)",
    )
    parser.add_argument("--voc-train", choices=("07+12", "07"), help="VOC: trainval sets to train on (default: 07+12)")
    parser.add_argument("--excerpt", action="store_true", help="accept a data set of another size than official")
    parser.add_argument("--batch-size", type=int, metavar="N", help="images per iteration; rescales the schedule")
    parser.add_argument("--amp", action="store_true", help="mixed precision, on GPUs")
    parser.add_argument("--num-gpus", type=int, default=1, help="processes on this machine; or use torchrun")
    parser.add_argument("--num-machines", type=int, default=1)
    parser.add_argument("--machine-rank", type=int, default=0)
    parser.add_argument("--dist-url", help="tcp://HOST:PORT of the first machine, where there are several")
    parser.add_argument("--output", type=Path, help="folder of the run (default: runs/detection/DATASET-PROTOCOL)")
    parser.add_argument("--resume", action="store_true", help="continue the run in --output")
    parser.add_argument("--eval-only", action="store_true", help="test the last state of the run in --output")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", help="cpu, cuda, ... (default: a GPU where there is one)")
    parser.add_argument(
        "--dry-run", action="store_true", help="check and prove everything, write nothing but the sample's scenes"
    )
    parser.add_argument("--opts", nargs="+", default=[], metavar="KEY VALUE", help="any keys of Detectron2's")
    args = parser.parse_args()
    args.protocol = args.protocol or ("sample" if args.dataset == "sample" else "published")
    args.output = args.output or Path("runs/detection") / "-".join(dict.fromkeys((args.dataset, args.protocol)))
    if args.seed < 0:
        raise InputError(f"--seed: expected 0 or more, got {args.seed}")
    if args.resume and args.eval_only:
        raise InputError("--resume trains and --eval-only does not; give one of them")
    if args.dry_run and (args.resume or args.eval_only):
        raise InputError("--dry-run checks a new run; leave out --resume and --eval-only")
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
