"""Configurations: what is refused, and that the published files say what the papers and the official code say."""

from pathlib import Path

import pytest

from converters.errors import InputError
from pretrain.config import Config, ViewConfig, as_dict, load_config

CONFIGS = Path(__file__).parents[1] / "configs/pretrain"
PUBLISHED = [
    f"{data}_{method}{guided}"
    for data in ("imagenet", "cifar10")
    for method in ("simsiam", "byol")
    for guided in ("", "_gsg")
]


def load(name: str, *overrides: str) -> Config:
    return load_config(CONFIGS / f"{name}.yaml", overrides)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("epoch=3", r"unknown key in the configuration 'epoch'; did you mean 'epochs'\?"),
        ("optim.base_rl=1", r"unknown key in optim 'base_rl'; did you mean 'base_lr'\?"),
        ("objective.guidence=guided", r"unknown key in objective 'guidence'; did you mean 'guidance'\?"),
        (
            "objective.name=simsaim",
            r"unknown objective 'simsaim'; did you mean 'simsiam'\? choose from: barlow_twins, byol, ",
        ),
        ("objective.guidance=guide", r"unknown guidance 'guide'; did you mean 'guided'\?"),
        ("objective.views=3", r"objective.views: expected 2 or 4, got 3"),
        ("epochs=many", r"epochs: .*'many'.*Integer"),
        ("epochs=0", r"epochs: expected 1 or more, got 0"),
        ("views.crop_scale=[0.2]", r"views\.crop_scale: expected 2 numbers, got \[0\.2\]"),
        ("arch=resnet19", r"unknown architecture 'resnet19'; did you mean 'resnet18'\?"),
        ("optim.schedule=cosin", r"unknown optim.schedule 'cosin'; did you mean 'cosine'\?"),
        ("accumulate=3", r"batch_size \d+ is not a multiple of accumulate 3"),
        ("epochs", r"expected key=value, got 'epochs'"),
        ("seed=-1", r"seed: expected 0 to inf, got -1"),
        ("optim.base_lr=-1", r"optim\.base_lr: expected 0 to inf, got -1"),
        ("views.flip_p=2", r"views\.flip_p: expected 0 to 1, got 2"),
        ("views.blur_sigma=[0,0]", r"views\.blur_sigma: expected 0 < low <= high <= inf, got 0 and 0"),
        ("views.std=[0,1,1]", r"views\.std: expected 1e-06 to inf, got 0"),
        ("monitor.temperature=0", r"monitor\.temperature: expected 0\.01 to inf, got 0"),
        ("monitor.k=0", r"monitor.every_epochs and monitor.k: expected 1 or more"),
    ],
)
def test_wrong_override_is_refused_in_words(override: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load("sample", override)


def test_missing_file_names_the_folder_of_configurations(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not found; see configs/pretrain/"):
        load_config(tmp_path / "absent.yaml")


def test_file_that_is_no_yaml_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text("epochs: [1")
    with pytest.raises(InputError, match=r"x\.yaml"):
        load_config(tmp_path / "x.yaml")


def test_file_without_objective_lists_the_objectives(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text("epochs: 1\n")
    with pytest.raises(InputError, match=r"expected objective\.name; choose from: barlow_twins, byol, "):
        load_config(tmp_path / "x.yaml")


def test_override_wins_over_file_and_file_over_default() -> None:
    assert Config().epochs == 100
    assert load("cifar10_simsiam").epochs == 200
    assert load("cifar10_simsiam", "epochs=7").epochs == 7


@pytest.mark.parametrize("name", [path.stem for path in sorted(CONFIGS.glob("*.yaml"))])
def test_written_configuration_loads_as_itself(name: str, tmp_path: Path) -> None:
    from omegaconf import OmegaConf

    config = as_dict(load(name))
    (tmp_path / "config.yaml").write_text(OmegaConf.to_yaml(config))
    assert as_dict(load_config(tmp_path / "config.yaml")) == config


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_method_matches_its_file_name(name: str) -> None:
    config = load(name)
    assert config.objective.name == name.split("_")[1]
    # four fresh views with guidance, two without: bych-lee/gsg
    assert (config.objective.guidance, config.objective.views) == (("guided", 4) if "gsg" in name else ("symmetric", 2))
    assert config.objective.predictor
    assert config.objective.predictor_dim == 512
    assert not config.objective.projector_affine
    assert config.batch_size == 512
    assert config.optim.momentum == 0.9
    if config.objective.name == "byol":
        assert config.objective.momentum == 0.99


@pytest.mark.parametrize("name", [name for name in PUBLISHED if name.startswith("imagenet")])
def test_imagenet_recipe_is_the_official_codes(name: str) -> None:
    config = load(name)
    assert (config.arch, config.epochs, config.zero_init_residual) == ("resnet50", 100, True)
    assert config.objective.projector_dims == [2048, 2048, 2048]
    optim = config.optim
    assert (optim.base_lr, optim.scale_lr, optim.weight_decay) == (0.05, True, 1e-4)
    assert (optim.schedule, optim.schedule_by, optim.fix_predictor_lr) == ("cosine", "epoch", True)
    assert config.views == ViewConfig(
        size=224,
        crop_scale=(0.2, 1.0),
        crop_ratio=(3 / 4, 4 / 3),
        flip_p=0.5,
        jitter=(0.4, 0.4, 0.4, 0.1),
        jitter_p=0.8,
        gray_p=0.2,
        blur_p=0.5,
        blur_sigma=(0.1, 2.0),
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
    )
    assert (config.monitor.k, config.monitor.temperature) == (200, 0.2)
    assert not config.bf16


@pytest.mark.parametrize("name", [name for name in PUBLISHED if name.startswith("cifar10")])
def test_cifar10_recipe_is_the_papers(name: str) -> None:
    config = load(name)
    assert (config.arch, config.epochs) == ("resnet18_cifar", 200)
    assert config.objective.projector_dims == [2048, 2048]
    optim = config.optim
    assert (optim.base_lr, optim.scale_lr, optim.weight_decay, optim.schedule) == (0.06, False, 5e-4, "constant")
    views = config.views
    assert (views.size, views.crop_scale, views.blur_p) == (32, (0.08, 1.0), 0.0)
    assert (views.jitter, views.jitter_p, views.gray_p, views.flip_p) == ((0.4, 0.4, 0.4, 0.1), 0.8, 0.2, 0.5)
    assert config.monitor.k == 1
