"""An iteration of our training run against MMEngine's Runner by itself, on the same configuration.

The bare Runner is what MMSegmentation's tools/train.py starts: its own loader, sampler and hooks, a line of metrics in
its log, in a file of JSON and for TensorBoard every 20 iterations, a state at the end. Both train on the sample scenes,
one after the other and several times, and the best of each counts. Run by `make bench`, or by itself:
python tests/benchmarks/segmentation_training.py
"""

import contextlib
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parents[2]))

from converters.backbones import build_backbone
from converters.checkpoint import Checkpoint, Pixels, Source
from converters.distributed import Ranks
from converters.targets import quiet, to_mmseg
from transfer import sample_data, segmentation_data
from transfer.segmentation_config import Plan, build_plan
from transfer.segmentation_data import LabelSet
from transfer.segmentation_evaluation import build_dataset
from transfer.segmentation_training import train

with quiet():
    from mmengine.runner import Runner
    from mmseg.registry import MODELS
    from mmseg.utils import register_all_modules

    register_all_modules()

ITERATIONS = 40
ROUNDS = 4
RANKS = Ranks(0, 1, torch.device("cpu"))


def main() -> None:
    """Print the seconds of both, and their ratio."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        labels = segmentation_data.sample(sample_data.sample_root("ade20k", folder / "scenes"), RANKS).train
        plan = prepare(folder, labels)
        best = {"ours": float("inf"), "bare": float("inf")}
        for index in range(ROUNDS):
            for way in best:
                output = folder / f"{way}{index}"
                output.mkdir()
                model = segmentor(plan)
                started = time.perf_counter()
                if way == "ours":
                    (output / "config.py").write_text(plan.config.pretty_text)
                    dataset = build_dataset(plan.config.train_dataloader.dataset, labels)
                    train(model, plan, dataset, 0, output, RANKS, resume=False)
                else:
                    bare(model, plan, output)
                best[way] = min(best[way], (time.perf_counter() - started) / ITERATIONS)
    ours, theirs = best.values()
    print(
        f"ResNet-18 UPerNet, sample protocol, {ITERATIONS} iterations, state and metrics included: ours {ours:.3f} s "
        f"an iteration, the bare Runner {theirs:.3f} s, ratio {ours / theirs:.3f}"
    )


def prepare(folder: Path, labels: LabelSet) -> Plan:
    """The configuration of a short run from random weights."""
    torch.manual_seed(0)
    source = Source("random", "unknown", None, 0, 0, None, "0")
    checkpoint = Checkpoint("resnet18", build_backbone("resnet18").state_dict(), Pixels(64), source)
    path = folder / "backbone.pth"
    to_mmseg.write(checkpoint, path)
    options = [f"train_cfg.max_iters={ITERATIONS}", f"param_scheduler.0.end={ITERATIONS}"]
    return build_plan(
        "sample", "sample", checkpoint, path, labels.root, labels.classes, labels.palette, options=options
    )


def segmentor(plan: Plan) -> Any:
    """A segmentor with the same weights each time."""
    torch.manual_seed(0)
    with quiet():
        model = MODELS.build(plan.config.model)
        model.init_weights()
    return model


def bare(model: Any, plan: Plan, output: Path) -> None:
    """Train as MMSegmentation's own tool does."""
    config = plan.config
    backends = [{"type": "LocalVisBackend"}, {"type": "TensorboardVisBackend"}]
    with Path(os.devnull).open("w") as nowhere, contextlib.redirect_stdout(nowhere):
        runner = Runner(
            model,
            work_dir=str(output),
            train_dataloader=config.train_dataloader,
            train_cfg=config.train_cfg,
            optim_wrapper=config.optim_wrapper,
            param_scheduler=config.param_scheduler,
            default_hooks={
                "logger": {"type": "LoggerHook", "interval": 20, "log_metric_by_epoch": False},
                "checkpoint": config.default_hooks.checkpoint,
            },
            log_processor={"by_epoch": False},
            env_cfg=config.env_cfg,
            visualizer={"type": "SegLocalVisualizer", "vis_backends": backends},
            default_scope="mmseg",
            randomness={"seed": 0},
            experiment_name=output.name,
            cfg=config,
        )
        runner.train()
    runner.logger.handlers.clear()  # they would write to what is closed


if __name__ == "__main__":
    main()
