"""The collapse watch on real training: what the papers say collapses is caught on the sample, a healthy run is not."""

from pathlib import Path

import pytest
import torch

from converters.backbones import build_backbone
from converters.distributed import Ranks
from converters.images import load_images
from pretrain.config import Config, MonitorConfig, OptimConfig, ViewConfig
from pretrain.data import Loader, Pool
from pretrain.loop import CollapseError, Run, train
from pretrain.objectives import simsiam
from pretrain.state import RunFolder

CPU = torch.device("cpu")


def _train(options: simsiam.Config, folder: Path) -> None:
    """Twenty-four steps on a quarter of the sample, stopped where the projections collapse."""
    config = Config(
        arch="resnet18",
        epochs=2,
        batch_size=32,
        log_every=4,
        views=ViewConfig(size=32, blur_p=0),
        objective=options,
        optim=OptimConfig(base_lr=0.2, scale_lr=False, schedule="constant"),
        monitor=MonitorConfig(on_collapse="stop"),
    )
    torch.manual_seed(0)
    objective = simsiam.Method(options, build_backbone(config.arch, zero_init_residual=True), 512)
    pool = Pool(load_images("sample", "train").images[::5])
    loader = Loader(pool, config.views, 2, config.batch_size, seed=0, device=CPU)
    with RunFolder(folder, resume=False) as run_folder:
        train(Run(config, Ranks(0, 1, CPU), objective, loader, None, folder, run_folder))


def _options(**changes: object) -> simsiam.Config:
    return simsiam.Config(**{"views": 2, "projector_dims": [512, 512], "predictor_dim": 128, **changes})


def test_without_stop_gradient_it_is_caught(tmp_path: Path) -> None:
    with pytest.raises(CollapseError):
        _train(_options(guidance="symmetric", stop_gradient=False), tmp_path / "run")


def test_without_predictor_and_guidance_it_is_caught(tmp_path: Path) -> None:
    with pytest.raises(CollapseError):
        _train(_options(guidance="symmetric", predictor="none"), tmp_path / "run")


@pytest.mark.parametrize("guidance", ["symmetric", "guided"])
def test_healthy_run_is_not(guidance: str, tmp_path: Path) -> None:
    _train(_options(guidance=guidance), tmp_path / "run")
