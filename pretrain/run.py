"""Pretrain a backbone without labels: python pretrain/run.py [--config FILE] [--output DIR] [key=value ...]."""

import sys
from pathlib import Path

if not __package__:  # started by path: import this checkout, not this folder
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import argparse
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import nn

from converters import distributed
from converters.backbones import build_backbone, feature_dim
from converters.checkpoint import Pixels
from converters.distributed import Ranks
from converters.errors import ArgumentParser, InputError, reports_input_errors
from converters.images import NAMES
from pretrain import objectives
from pretrain.config import Config, as_dict, load_config
from pretrain.cutmix import CutMix
from pretrain.data import Loader, open_source
from pretrain.loop import CollapseError, Run, method_label, train
from pretrain.monitor import KnnMonitor
from pretrain.objectives import Objective
from pretrain.optim import initial_lr
from pretrain.state import RunFolder, load_state

_DEFAULT_CONFIG = Path(__file__).resolve().parents[1] / "configs/pretrain/sample.yaml"


@reports_input_errors
def main() -> int:
    """Run the command; returns its exit code: 0, 2 for a user's mistake, 3 for a collapse that was to stop the run."""
    args = _parse()
    config = load_config(args.config, _overrides(args))
    output = args.output or Path("runs") / f"{args.config.stem}-{method_label(config)}-seed{config.seed}"
    ranks = distributed.join(args.device)
    try:
        run = _prepare(config, ranks, output)
        if args.dry_run:
            if ranks.is_main:
                print(_plan(run))
            return 0
        with _open_folder(run, resume=args.resume):
            if ranks.is_main:
                print(_plan(run))
            train(run)
    except CollapseError as collapse:
        print(f"stopped: {collapse}", file=sys.stderr)
        return 3
    finally:
        distributed.leave()
    if run.folder:
        print(f"wrote {run.folder.checkpoint}")
    return 0


def _parse() -> argparse.Namespace:
    parser = ArgumentParser(description="Pretrain an image backbone without labels.")
    parser.add_argument("--config", type=Path, default=_DEFAULT_CONFIG, help="a file of configs/pretrain/")
    parser.add_argument("--output", type=Path, help="the run's folder (default: runs/CONFIG-METHOD-seedN)")
    parser.add_argument("--seed", type=int, help="same as seed=N")
    parser.add_argument("--device", help="cpu, cuda, cuda:1, ... (default: a GPU where there is one)")
    parser.add_argument("--resume", action="store_true", help="continue the run in the output folder")
    parser.add_argument("--dry-run", action="store_true", help="check everything, print the plan, write nothing")
    parser.add_argument("--skip-corrupt", action="store_true", help="same as data.skip_corrupt=true")
    parser.add_argument("--on-collapse", choices=("warn", "stop"), help="same as monitor.on_collapse=...")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="any key of the configuration")
    return parser.parse_intermixed_args()


def _overrides(args: argparse.Namespace) -> list[str]:
    flags = {
        "seed": args.seed,
        "data.skip_corrupt": True if args.skip_corrupt else None,
        "monitor.on_collapse": args.on_collapse,
    }
    return [*args.overrides, *(f"{key}={value}" for key, value in flags.items() if value is not None)]


def _prepare(config: Config, ranks: Ranks, output: Path) -> Run:
    """Everything that can be refused is refused here, before anything is written."""
    part = config.batch_size // config.accumulate
    share = part // ranks.world_size
    if share < 2:
        raise InputError(
            f"batch_size {config.batch_size} leaves {share} image(s) to a forward pass, and batch norm needs two; "
            "raise batch_size, or lower accumulate or the number of processes"
        )
    objective = _build_objective(config, ranks)
    views = config.views
    objective.prepare(
        batch_size=part,
        num_local=views.num_local,
        cutmix=CutMix(views.cutmix_p, views.cutmix_alpha) if views.cutmix_p else None,
        gradients=config.monitor.gradients,
    )
    loader = Loader(
        open_source(config.data),
        config.views,
        objective.num_views,
        part,
        seed=config.seed,
        rank=ranks.rank,
        world_size=ranks.world_size,
        device=ranks.device,
    )
    if len(loader) < config.accumulate:
        raise InputError(f"expected a batch_size of at most the {loader.num_images} images, got {config.batch_size}")
    monitor = None
    if config.monitor.labelled:
        if config.monitor.labelled == config.data.source and config.monitor.labelled in NAMES:
            config.monitor.root = config.monitor.root or config.data.root
        pixels = Pixels(config.views.size, config.views.mean, config.views.std)
        monitor = KnnMonitor(config.monitor, pixels, ranks, config.data.workers)
    return Run(config, ranks, objective, loader, monitor, output)


def _build_objective(config: Config, ranks: Ranks) -> Objective:
    torch.manual_seed(config.seed)
    backbone = build_backbone(config.arch, zero_init_residual=config.zero_init_residual)
    method: Objective = objectives.find(config.objective.name).Method(
        config.objective, backbone, feature_dim(config.arch)
    )
    # SyncBatchNorm knows no CPU
    if ranks.world_size > 1 and ranks.device.type == "cuda" and method.syncs_batch_norm:
        method = nn.SyncBatchNorm.convert_sync_batchnorm(method)  # type: ignore[no-untyped-call]
    if config.channels_last:
        method = method.to(memory_format=torch.channels_last)
    return method.to(ranks.device)


def _open_folder(run: Run, *, resume: bool) -> AbstractContextManager[object]:
    """Read the state to resume from, and lock the folder; the other ranks write nothing, but hear of a refusal."""
    if resume:
        run.state = load_state(run.output / "state.pt", run.identity)
    refusal = None
    if run.ranks.is_main:
        try:
            run.folder = RunFolder(run.output, resume=resume)
            run.folder.write_config(as_dict(run.config))
        except InputError as error:
            refusal = str(error)
    if refusal := distributed.from_main(refusal):
        raise InputError(refusal)
    return run.folder or nullcontext()


def _plan(run: Run) -> str:
    config, images = run.config, len(run.loader) * run.config.batch_size // run.config.accumulate
    where = f"{run.ranks.world_size} x {run.ranks.device.type}" if run.ranks.world_size > 1 else str(run.ranks.device)
    num_views, num_local = run.objective.num_views, config.views.num_local or 0
    lines = [
        f"{method_label(config)} on {config.arch}, {config.views.size} px, seed {config.seed}, on {where}",
        f"{images} images of {config.data.source} per epoch, {config.epochs} epochs of {run.steps_per_epoch} steps, "
        f"batch {config.batch_size}, rate {initial_lr(config):g}",
        f"{num_views} views per image{f' and {num_local} small ones' if num_local else ''}, "
        f"{(num_views + num_local) * run.num_steps * config.batch_size} in all",
        f"from step {run.state.step}" if run.state else "from the start",
        f"to {run.output}",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    raise SystemExit(main())
