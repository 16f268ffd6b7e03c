"""UPerNet on a backbone: python transfer/segmentation.py --dataset ade20k|sample --ckpt CKPT."""

import sys
from pathlib import Path

if not __package__:  # started by path: import this checkout, not this folder
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import argparse
import os

from converters import distributed
from converters.distributed import Ranks
from converters.errors import ArgumentParser, InputError, reports_input_errors
from transfer.segmentation_packages import find_mmsegmentation
from transfer.training_arguments import add_training_arguments, check_training_arguments

_DATASETS = ("ade20k", "sample")


@reports_input_errors
def main() -> int:
    """Run the command; returns its exit code: 0 if the numbers are there, 2 for a user's mistake."""
    args = _parse()
    if args.device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # MMEngine moves a network to any GPU that it sees
    if args.compare:
        from transfer.segmentation_comparison import compare

        return compare(args.compare, args.output)
    find_mmsegmentation()
    ranks = distributed.join(args.device)
    if "WORLD_SIZE" not in os.environ:
        return _run(args, ranks)
    return distributed.as_one_of_many(ranks, lambda: _run(args, ranks), lambda: None)


def _parse() -> argparse.Namespace:
    parser = ArgumentParser(description="UPerNet on a pretrained backbone, by MMSegmentation.")
    parser.add_argument(
        "--dataset", choices=_DATASETS, help="default: ade20k where it is found, else the sample scenes"
    )
    parser.add_argument("--protocol", help="file of configs/segmentation (default: csail; sample for the sample)")
    add_training_arguments(parser, "segmentation")
    parser.add_argument(
        "--data-root", type=Path, help="folder of ADEChallengeData2016 (default: data; the sample's: runs/scenes)"
    )
    parser.add_argument("--tta", action="store_true", help="validate at several scales and mirrored")
    parser.add_argument(
        "--compare", nargs="+", type=Path, metavar="RUN", help="folders of finished runs; --output is then a new PNG"
    )
    parser.add_argument("--cfg-options", nargs="+", default=[], metavar="key=value", help="any keys of the protocol")
    args = parser.parse_args()
    check_training_arguments(args)
    if args.compare:
        given = [name for name, value in vars(args).items() if value != parser.get_default(name)]
        others = [f"--{name.replace('_', '-')}" for name in given if name not in ("compare", "output")]
        if others:
            raise InputError(f"--compare reads finished runs and knows --output only; leave out {', '.join(others)}")
    return args


def _run(args: argparse.Namespace, ranks: Ranks) -> int:
    from transfer.segmentation_run import run

    return run(args, ranks)


if __name__ == "__main__":
    raise SystemExit(main())
