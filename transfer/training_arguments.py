"""The flags that mean the same for all commands that train on a backbone."""

import argparse
from pathlib import Path

from converters.errors import InputError
from converters.reading import add_reading_arguments


def add_training_arguments(parser: argparse.ArgumentParser, folder: str) -> None:
    """Add them.

    Args:
        parser: of the command.
        folder: of its runs, below runs/.
    """
    parser.add_argument(
        "--ckpt",
        help="checkpoint of any origin, or random:ARCH for a random initialisation (default: the newest pretraining "
        "run's)",
    )
    add_reading_arguments(parser)
    parser.add_argument("--allow-unverified", action="store_true", help="start without a valid certificate")
    parser.add_argument("--excerpt", action="store_true", help="accept a data set of another size than official")
    parser.add_argument("--batch-size", type=int, metavar="N", help="images per iteration; rescales the schedule")
    parser.add_argument("--amp", action="store_true", help="mixed precision, on GPUs")
    parser.add_argument("--output", type=Path, help=f"folder of the run (default: runs/{folder}/DATASET-PROTOCOL)")
    parser.add_argument("--resume", action="store_true", help="continue the run in --output")
    parser.add_argument("--eval-only", action="store_true", help="test the last state of the run in --output")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", help="cpu, cuda, ... (default: a GPU where there is one)")
    parser.add_argument(
        "--dry-run", action="store_true", help="check and prove everything, write nothing but the sample's scenes"
    )


def check_training_arguments(args: argparse.Namespace) -> None:
    """Refuse what contradicts itself.

    Raises:
        InputError: it does.
    """
    if args.seed < 0:
        raise InputError(f"--seed: expected 0 or more, got {args.seed}")
    if args.resume and args.eval_only:
        raise InputError("--resume trains and --eval-only does not; give one of them")
    if args.dry_run and (args.resume or args.eval_only):
        raise InputError("--dry-run checks a new run; leave out --resume and --eval-only")


def default_output(folder: str, dataset: str, protocol: str) -> Path:
    """Where a run goes that nobody has named a folder for: runs/FOLDER/DATASET-PROTOCOL, or SAME for SAME-SAME."""
    return Path("runs") / folder / "-".join(dict.fromkeys((dataset, protocol)))
