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
from converters.reading import add_reading_arguments
from transfer.segmentation_packages import find_mmsegmentation

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
    if ranks.world_size == 1:
        return _run(args, ranks)
    return distributed.as_one_of_many(ranks, lambda: _run(args, ranks), lambda: None)


def _parse() -> argparse.Namespace:
    parser = ArgumentParser(description="UPerNet on a pretrained backbone, by MMSegmentation.")
    parser.add_argument(
        "--dataset", choices=_DATASETS, help="default: ade20k where it is found, else the sample scenes"
    )
    parser.add_argument("--protocol", help="file of configs/segmentation (default: csail; sample for the sample)")
    parser.add_argument(
        "--ckpt",
        help="checkpoint of any origin, or random:ARCH for a random initialisation (default: the newest pretraining "
        "run's)",
    )
    add_reading_arguments(parser)
    parser.add_argument("--allow-unverified", action="store_true", help="start without a valid certificate")
    parser.add_argument(
        "--data-root", type=Path, help="folder of ADEChallengeData2016 (default: data; the sample's: runs/scenes)"
    )
    parser.add_argument("--excerpt", action="store_true", help="accept a data set of another size than official")
    parser.add_argument("--batch-size", type=int, metavar="N", help="images per iteration; rescales the schedule")
    parser.add_argument("--amp", action="store_true", help="mixed precision, on GPUs")
    parser.add_argument("--tta", action="store_true", help="validate at several scales and mirrored")
    parser.add_argument(
        "--output",
        type=Path,
        help="folder of the run (default: runs/segmentation/DATASET-PROTOCOL); of --compare the PNG",
    )
    parser.add_argument("--resume", action="store_true", help="continue the run in --output")
    parser.add_argument("--eval-only", action="store_true", help="validate the last state of the run in --output")
    parser.add_argument("--compare", nargs="+", type=Path, metavar="RUN", help="folders of finished runs, side by side")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", help="cpu, cuda, ... (default: a GPU where there is one)")
    parser.add_argument(
        "--dry-run", action="store_true", help="check and prove everything, write nothing but the sample's scenes"
    )
    parser.add_argument("--cfg-options", nargs="+", default=[], metavar="key=value", help="any keys of the protocol")
    args = parser.parse_args()
    if args.seed < 0:
        raise InputError(f"--seed: expected 0 or more, got {args.seed}")
    if args.resume and args.eval_only:
        raise InputError("--resume trains and --eval-only does not; give one of them")
    if args.dry_run and (args.resume or args.eval_only):
        raise InputError("--dry-run checks a new run; leave out --resume and --eval-only")
    return args


def _run(args: argparse.Namespace, ranks: Ranks) -> int:
    from transfer.segmentation_run import run

    return run(args, ranks)


if __name__ == "__main__":
    raise SystemExit(main())
