"""Configurations: what is refused, and that the published files say what the papers and the official code say."""

from pathlib import Path
from typing import Any

import pytest

from converters.errors import InputError
from pretrain import objectives
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
        ("optim.name=adam", r"unknown optim\.name 'adam'; choose from: lars, sgd"),
        ("optim.warmup_epochs=3", r"optim\.warmup_epochs: expected 0 to 2, got 3"),
        ("optim.warmup_epochs=-1", r"optim\.warmup_epochs: expected 0 to 2, got -1"),
        ("optim.warmup_from=1.5", r"optim\.warmup_from: expected 0 to 1, got 1\.5"),
        ("optim.final_share=-0.1", r"optim\.final_share: expected 0 to 1, got -0\.1"),
        ("optim.bias_lr=-1", r"optim\.bias_lr: expected 0 to inf, got -1"),
        ("views.num_local=two", r"views\.num_local: .*'two'.*Integer"),
        ("views.num_local=6", r"views\.num_local is 6, but views\.local_size is missing"),
        ("views.second_solarize_p=2", r"views\.second_solarize_p: expected 0 to 1, got 2"),
        ("objective.momentum_schedule=linear", r"unknown momentum_schedule 'linear'; choose from: constant, cosine"),
        ("objective.predictor=linear", r"unknown predictor 'linear'; choose from: directpred, mlp, none"),
        ("objective.predictor=directprd", r"unknown predictor 'directprd'; did you mean 'directpred'\?"),
        ("objective.directpred_every=0", r"objective\.directpred_every: expected 1 to .*, got 0"),
        ("objective.directpred_momentum=2", r"objective\.directpred_momentum: expected 0 to 1, got 2"),
        ("objective.directpred_eps=-1", r"objective\.directpred_eps: expected 0 to 10, got -1"),
        ("monitor.gradients=maybe", r"monitor\.gradients: .*'maybe'"),
    ],
)
def test_wrong_override_is_refused_in_words(override: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load("sample", override)


def test_rate_of_biases_beside_a_rate_of_zero_is_refused() -> None:
    with pytest.raises(InputError, match=r"optim\.base_lr: expected more than 0 beside optim\.bias_lr, got 0"):
        load("sample", "optim.base_lr=0", "optim.bias_lr=0.1")


@pytest.mark.parametrize(
    ("name", "option", "message"),
    [
        ("simclr", {"temperature": 0.0}, r"objective\.temperature: expected 0\.001 to 1000, got 0"),
        ("moco", {"temperature": -1.0}, r"objective\.temperature: expected 0\.001 to 1000, got -1"),
        ("moco", {"queue": 0}, r"objective\.queue: expected 1 to .*, got 0"),
        ("swav", {"prototypes": 1}, r"objective\.prototypes: expected 2 to .*, got 1"),
        ("swav", {"temperature": 0.0}, r"objective\.temperature: expected 0\.001 to 1000, got 0"),
        ("swav", {"epsilon": 0.0}, r"objective\.epsilon: expected 0\.001 to 1000, got 0"),
        ("swav", {"sinkhorn_iterations": 0}, r"objective\.sinkhorn_iterations: expected 1 to 1000, got 0"),
        ("swav", {"frozen_steps": -1}, r"objective\.frozen_steps: expected 0 to .*, got -1"),
        ("swav", {"queue": -1}, r"objective\.queue: expected 0 to .*, got -1"),
        ("swav", {"queue_from": -1}, r"objective\.queue_from: expected 0 to .*, got -1"),
        ("barlow_twins", {"off_diagonal": -1.0}, r"objective\.off_diagonal: expected 0 to 1e\+06, got -1"),
        ("vicreg", {"invariance": -1.0}, r"objective\.invariance: expected 0 to 1e\+06, got -1"),
        ("vicreg", {"variance": float("nan")}, r"objective\.variance: expected 0 to 1e\+06, got nan"),
        ("vicreg", {"covariance": -1.0}, r"objective\.covariance: expected 0 to 1e\+06, got -1"),
        ("unigrad", {"balance": -1.0}, r"objective\.balance: expected 0 to 1e\+06, got -1"),
        ("unigrad", {"correlation_momentum": 2.0}, r"objective\.correlation_momentum: expected 0 to 1, got 2"),
        ("unigrad", {"views": 3}, r"objective\.views: expected 2 or 4, got 3"),
        ("simsiam", {"stop_gradient": False, "momentum": 0.9}, r"objective\.stop_gradient=false: a momentum target"),
    ],
)
def test_option_of_a_method_that_no_recipe_can_mean_is_refused(name: str, option: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        objectives.find(name).Config(**option)


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


def test_recipe_of_another_method_is_named_where_its_options_do_not_fit() -> None:
    with pytest.raises(InputError, match=r"sample\.yaml is a recipe of simsiam, whose objective\.\w+ vicreg does not "):
        load_config(CONFIGS / "sample.yaml", ["objective.name=vicreg"])
    with pytest.raises(InputError, match=r"unknown key in objective 'guidanc'; did you mean 'guidance'"):
        load_config(CONFIGS / "sample.yaml", ["objective.name=byol", "objective.guidanc=guided"])


@pytest.mark.parametrize(("earlier", "now"), [("true", "mlp"), ("false", "none")])
def test_predictor_may_be_said_as_in_the_files_of_earlier_runs(earlier: str, now: str) -> None:
    config = load_config(CONFIGS / "sample.yaml", [f"objective.predictor={earlier}"])
    assert config.objective.predictor == now


def test_size_of_small_crops_without_their_number_is_refused() -> None:
    with pytest.raises(InputError, match=r"views\.local_size is 32, but views\.num_local is missing"):
        load_config(CONFIGS / "sample.yaml", ["views.local_size=32"])
