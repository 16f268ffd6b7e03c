"""An iteration of our training run against a plain loop around Detectron2's model, on the same configuration.

The plain loop is of the kind of Detectron2's tools/plain_train_net.py: loader, forward, check of the losses, backward,
step of optimiser and schedule, a line of metrics every 20 iterations. Both train on the sample scenes, one after the
other and several times, and the best of each counts. Run by `make bench`, or by itself:
python tests/benchmarks/detection_training.py
"""

import logging
import sys
import tempfile
import time
from itertools import islice
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parents[2]))

from converters.backbones import build_backbone
from converters.checkpoint import Checkpoint, Pixels, Source
from converters.distributed import Ranks
from converters.targets import quiet, to_detectron2
from transfer import detection_data, sample_data
from transfer.detection_config import build_plan
from transfer.detection_training import train

with quiet():
    from detectron2.checkpoint import DetectionCheckpointer
    from detectron2.data import build_detection_train_loader, get_detection_dataset_dicts
    from detectron2.modeling import build_model
    from detectron2.solver import build_lr_scheduler, build_optimizer
    from detectron2.utils.events import EventStorage, JSONWriter, TensorboardXWriter

ITERATIONS = 60
ROUNDS = 3


def main() -> None:
    """Print the seconds of both, and their ratio."""
    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        records = prepare(folder)
        best = {"ours": float("inf"), "plain": float("inf")}
        for index in range(ROUNDS):
            for way in best:
                model, config = detector(folder, f"{way}{index}")
                started = time.perf_counter()
                if way == "ours":
                    train(model, config, records, 0, Ranks(0, 1, torch.device("cpu")), resume=False)
                else:
                    plain(model, config)
                best[way] = min(best[way], (time.perf_counter() - started) / ITERATIONS)
    ours, theirs = best.values()
    print(
        f"ResNet-18 FPN, sample protocol, {ITERATIONS} iterations, state and metrics included: ours {ours:.3f} s an "
        f"iteration, a plain loop {theirs:.3f} s, ratio {ours / theirs:.3f}"
    )


def prepare(folder: Path) -> list[dict[str, Any]]:
    """The records of the training scenes, which Detectron2 knows afterwards."""
    voc, coco = (sample_data.sample_root(layout, folder / "scenes") for layout in ("voc", "coco"))
    categories = dict(zip(sample_data.COCO_IDS, sample_data.CLASSES, strict=True))
    detection_data.register(detection_data.sample(voc, coco, categories))
    records: list[dict[str, Any]] = get_detection_dataset_dicts(["sample_voc_trainval"], filter_empty=True)
    return records


def detector(folder: Path, run: str) -> tuple[Any, Any]:
    """A detector with the same weights each time, and its configuration."""
    torch.manual_seed(0)
    source = Source("random", "unknown", None, 0, 0, None, "0")
    checkpoint = Checkpoint("resnet18", build_backbone("resnet18").state_dict(), Pixels(64), source)
    path = folder / "backbone.pth"
    to_detectron2.write(checkpoint, path)
    output = folder / run
    output.mkdir()
    settings = {
        "DATASETS.TRAIN": ("sample_voc_trainval",),
        "MODEL.ROI_HEADS.NUM_CLASSES": len(sample_data.CLASSES),
        "MODEL.DEVICE": "cpu",
        "OUTPUT_DIR": str(output),
    }
    # a low rate, since batch norms without statistics would let a higher one diverge
    opts = ["SOLVER.MAX_ITER", str(ITERATIONS), "SOLVER.STEPS", "(50,)", "SOLVER.BASE_LR", "0.0001"]
    config = build_plan("sample", "sample", checkpoint, path, settings, opts=opts).config
    model = build_model(config)
    DetectionCheckpointer(model).load(str(path))
    return model, config


def plain(model: Any, config: Any) -> None:
    """Train as a script of a page does, on Detectron2's own loader."""
    model.train()
    optimizer = build_optimizer(config, model)
    scheduler = build_lr_scheduler(config, optimizer)
    output = Path(config.OUTPUT_DIR)
    writers = [JSONWriter(str(output / "metrics.json")), TensorboardXWriter(str(output))]
    with EventStorage(0) as storage:
        for iteration, data in enumerate(islice(build_detection_train_loader(config), ITERATIONS)):
            storage.iter = iteration
            losses = model(data)
            total = sum(losses.values())
            assert torch.isfinite(total).all(), losses
            storage.put_scalars(total_loss=total.item(), **{key: value.item() for key, value in losses.items()})
            optimizer.zero_grad()
            total.backward()
            optimizer.step()
            storage.put_scalar("lr", optimizer.param_groups[0]["lr"], smoothing_hint=False)
            scheduler.step()
            if (iteration + 1) % 20 == 0:
                for writer in writers:
                    writer.write()
    DetectionCheckpointer(model, str(output), optimizer=optimizer, scheduler=scheduler).save("model_final")


if __name__ == "__main__":
    main()
