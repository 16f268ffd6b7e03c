"""The collapse watch on real training: what the papers say collapses is caught on the sample, a healthy run is not."""

from pathlib import Path

import pytest
import torch

from converters.backbones import build_backbone
from converters.distributed import Ranks
from converters.images import load_images
from pretrain import objectives
from pretrain.config import Config, MonitorConfig, OptimConfig, ViewConfig, load_config
from pretrain.data import Loader, Pool
from pretrain.loop import CollapseError, Run, train
from pretrain.objectives import simsiam
from pretrain.state import RunFolder

CPU = torch.device("cpu")
CONFIGS = Path(__file__).parents[1] / "configs/pretrain"


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
    _run(config, folder)


def _run(config: Config, folder: Path) -> None:
    torch.manual_seed(0)
    method = objectives.find(config.objective.name).Method
    objective = method(config.objective, build_backbone(config.arch, zero_init_residual=True), 512)
    objective.prepare(batch_size=config.batch_size, num_local=config.views.num_local, cutmix=None, gradients=False)
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


@pytest.mark.parametrize("name", sorted(set(objectives.names()) - {"simsiam"}))
def test_every_methods_recipe_for_the_sample_is_healthy(name: str, tmp_path: Path) -> None:
    small = ["views.size=32", "batch_size=32", "log_every=4", "monitor.on_collapse=stop"]
    recipe, other = (f"sample_{name}.yaml", []) if name != "byol" else ("sample.yaml", ["objective.name=byol"])
    config = load_config(CONFIGS / recipe, [*small, *other])
    if config.views.num_local:
        config.views.local_size = 16
    _run(config, tmp_path / "run")
