"""The loop: an interrupted run ends like an unbroken one, and trouble is said when it happens."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

from converters.backbones import build_backbone
from converters.checkpoint import load
from converters.distributed import Ranks
from converters.errors import InputError
from pretrain import objectives
from pretrain.config import Config, DataConfig, MonitorConfig, OptimConfig, ViewConfig, as_dict
from pretrain.cutmix import CutMix
from pretrain.data import Loader, Pool
from pretrain.gradients import Gradient
from pretrain.loop import CollapseError, Run, train
from pretrain.objectives import Objective, byol, simclr, simsiam
from pretrain.siamese import Batch
from pretrain.state import RunFolder, State, load_state

CPU = torch.device("cpu")
METHODS = {
    "simsiam": lambda: simsiam.Method(_small(simsiam.Config(views=2)), build_backbone("resnet18"), 512),
    "byol": lambda: byol.Method(_small(byol.Config(views=4)), build_backbone("resnet18"), 512),
}


def _small(config: simsiam.Config | byol.Config) -> simsiam.Config | byol.Config:
    return replace(config, projector_dims=[16, 16], predictor_dim=8)


def _config(**changes: object) -> Config:
    """Nine short steps. Of the states, each 90 MB, only the first and the last are written unless a test asks."""
    config = Config(
        arch="resnet18",
        epochs=3,
        batch_size=4,
        log_every=1,
        save_minutes=60,
        views=ViewConfig(size=32),
        optim=OptimConfig(base_lr=0.5),
        objective=simsiam.Config(),
    )
    return replace(config, **changes)


class InterruptedRunError(Exception):
    """Stands for the kill."""


class BreakingLoader(Loader):
    """Raises in the middle of an epoch."""

    batches_left = 10**9

    def epoch(self, epoch: int, start: int = 0) -> Iterator[list[Tensor]]:
        for views in super().epoch(epoch, start):
            if self.batches_left == 0:
                raise InterruptedRunError
            self.batches_left -= 1
            yield views


def _run(config: Config, objective: Objective, folder: Path, *, resume: bool = False, breaks_after: int = 10**9) -> Run:
    images = torch.randint(0, 256, (13, 3, 40, 40), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    part = config.batch_size // config.accumulate
    loader = BreakingLoader(Pool(images), config.views, objective.num_views, part, seed=config.seed, device=CPU)
    loader.batches_left = breaks_after
    state = load_state(folder / "state.pt", _identity(config)) if resume else None
    return Run(config, Ranks(0, 1, CPU), objective, loader, None, folder, RunFolder(folder, resume=resume), state)


def _identity(config: Config) -> dict[str, object]:
    return {**as_dict(config), "num_images": 13, "processes": 1}


def _train(run: Run) -> None:
    assert run.folder is not None
    with run.folder:
        train(run)


# of three steps of an epoch, in the third
@pytest.mark.parametrize(("method", "accumulate", "breaks_after"), [("simsiam", 1, 2), ("byol", 2, 5)])
def test_run_broken_in_mid_epoch_ends_bit_equal_to_the_unbroken_one(
    method: str, accumulate: int, breaks_after: int, tmp_path: Path
) -> None:
    config = _config(accumulate=accumulate, seed=3, epochs=2)
    at_every_step = replace(config, save_minutes=0)

    def objective(seed: int) -> Objective:
        torch.manual_seed(seed)
        return METHODS[method]()

    _train(_run(config, objective(0), tmp_path / "whole"))
    with pytest.raises(InterruptedRunError):
        _train(_run(at_every_step, objective(0), tmp_path / "broken", breaks_after=breaks_after))
    # other initial weights: everything must come from the state
    _train(_run(at_every_step, objective(1), tmp_path / "broken", resume=True))

    whole = load_state(tmp_path / "whole" / "state.pt", _identity(config))
    resumed = load_state(tmp_path / "broken" / "state.pt", _identity(at_every_step))
    assert whole.step == resumed.step == 6
    for name, tensor in whole.objective.items():
        assert torch.equal(tensor, resumed.objective[name]), name
    for index, slots in whole.optimizer["state"].items():
        assert torch.equal(slots["momentum_buffer"], resumed.optimizer["state"][index]["momentum_buffer"])
    lines = [_metrics(tmp_path / name) for name in ("whole", "broken")]
    assert [_without_time(line) for line in lines[0]] == [_without_time(line) for line in lines[1]]


def _metrics(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def _without_time(line: dict[str, float]) -> dict[str, float]:
    return {key: value for key, value in line.items() if key != "images_per_s"}


class Recipe(NamedTuple):
    """A method with what its run needs beside it."""

    method: str
    options: dict[str, Any]
    views: ViewConfig = ViewConfig(size=12)
    optim: OptimConfig = OptimConfig(base_lr=0.5)
    accumulate: int = 1

    def config(self) -> Config:
        """Twelve steps in four epochs, each of four images; a state after each."""
        objective = objectives.find(self.method).Config(projector_dims=[10, 8], **self.options)
        return _config(
            objective=objective,
            views=self.views,
            optim=self.optim,
            accumulate=self.accumulate,
            epochs=4,
            save_minutes=0,
        )


_CROPS = ViewConfig(size=12, num_local=2, local_size=8)
_LARS = OptimConfig(
    name="lars", exclude_1d=True, bias_lr=0.1, schedule_by="step", warmup_epochs=1.0, warmup_from=0.1, final_share=0.01
)
# the queues, of 10 rows, wrap before the break and after it
RECIPES = {
    "moco": Recipe("moco", {"queue": 10, "splits": 2}),
    "moco of accumulated parts": Recipe("moco", {"queue": 10, "splits": 1}, accumulate=2),
    "swav": Recipe("swav", {"queue": 10, "queue_from": 2, "prototypes": 6, "frozen_steps": 5}, _CROPS),
    "unigrad": Recipe("unigrad", {}),
    "unigrad with cutmix": Recipe("unigrad", {}, ViewConfig(size=12, cutmix_p=0.5)),
    "simsiam of accumulated parts": Recipe("simsiam", {"views": 2}, accumulate=2),
    "byol": Recipe("byol", {"guidance": "reverse"}, _CROPS),
    "directpred": Recipe("simsiam", {"predictor": "directpred", "directpred_every": 3}),
    "directpred of byol": Recipe("byol", {"predictor": "directpred", "momentum_schedule": "cosine"}, _CROPS),
    "unigrad of accumulated parts": Recipe("unigrad", {}, accumulate=2),
    "directpred of accumulated parts": Recipe("byol", {"predictor": "directpred", "directpred_every": 2}, accumulate=2),
    "simclr": Recipe("simclr", {}, optim=_LARS),
    "barlow twins": Recipe("barlow_twins", {"momentum": 0.9}, optim=_LARS),
    "vicreg": Recipe("vicreg", {"loss_scale": 0.1}, optim=_LARS),
}


def _tiny(recipe: Recipe, seed: int) -> Objective:
    """The objective on a network of a few weights; its runs end before a checkpoint of a known architecture is due."""
    torch.manual_seed(seed)
    backbone = nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    config = recipe.config()
    objective: Objective = objectives.find(recipe.method).Method(config.objective, backbone, 6)
    cutmix = CutMix(recipe.views.cutmix_p, recipe.views.cutmix_alpha) if recipe.views.cutmix_p else None
    part = config.batch_size // config.accumulate
    logs = not recipe.views.num_local and cutmix is None
    objective.prepare(batch_size=part, num_local=recipe.views.num_local or 0, cutmix=cutmix, gradients=logs)
    return objective


def _train_until(recipe: Recipe, seed: int, folder: Path, *, batches: int, resume: bool = False) -> State:
    """Train until a batch is not handed out, and return the state that this leaves."""
    config = recipe.config()
    with pytest.raises(InterruptedRunError):
        _train(_run(config, _tiny(recipe, seed), folder, resume=resume, breaks_after=batches))
    return load_state(folder / "state.pt", _identity(config))


def _remembered(state: State) -> list[str]:
    """Queues, averages and counters."""
    kinds = {"rows", "count", "matrix", "steps"}
    return [name for name in state.objective if name.rpartition(".")[2] in kinds]


def test_methods_that_remember_something_are_among_those_below(tmp_path: Path) -> None:
    remembered = {name: _remembered(_train_until(RECIPES[name], 0, tmp_path / name, batches=2)) for name in RECIPES}
    assert {name: len(tensors) for name, tensors in remembered.items() if tensors} == {
        "moco": 2,
        "moco of accumulated parts": 2,
        "swav": 5,
        "unigrad": 2,
        "unigrad with cutmix": 2,
        "directpred": 3,
        "directpred of byol": 3,
        "unigrad of accumulated parts": 2,
        "directpred of accumulated parts": 3,
    }


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_method_that_is_broken_and_resumed_goes_on_bit_equal(recipe: Recipe, tmp_path: Path) -> None:
    parts = recipe.accumulate
    whole = _train_until(recipe, 0, tmp_path / "whole", batches=11 * parts)
    # in mid-step where there are several parts; other initial weights: everything must come from the state
    broken = _train_until(recipe, 0, tmp_path / "broken", batches=5 * parts + parts // 2)
    resumed = _train_until(recipe, 1, tmp_path / "broken", batches=6 * parts, resume=True)
    moves = [steps for name, steps in resumed.objective.items() if name.endswith("correlation.steps")]
    assert all(steps == 11 for steps in moves)  # once per optimiser step, whatever its parts
    assert (broken.step, resumed.step, whole.step) == (5, 11, 11)
    assert resumed.objective.keys() == whole.objective.keys()
    for name, tensor in whole.objective.items():
        assert torch.equal(tensor, resumed.objective[name]), name
    for index, slots in whole.optimizer["state"].items():
        assert torch.equal(slots["momentum_buffer"], resumed.optimizer["state"][index]["momentum_buffer"])
    for name in _remembered(whole):  # else it would prove nothing that they end alike
        assert not torch.equal(whole.objective[name], broken.objective[name]), name
    lines = [_metrics(tmp_path / name) for name in ("whole", "broken")]
    assert [_without_time(line) for line in lines[0]] == [_without_time(line) for line in lines[1]]


def test_terms_of_the_gradient_are_computed_where_they_are_read(tmp_path: Path) -> None:
    """Other lines would be averages over steps; computing them at every step would cost time for nothing."""
    config = _config(objective=simclr.Config(projector_dims=[10, 8]), views=ViewConfig(size=12), log_every=2)
    objective = _tiny(RECIPES["simclr"], 0)
    objective.prepare(batch_size=4, num_local=0, cutmix=None, gradients=True)
    computed = []

    class Counting(type(objective)):  # type: ignore[misc]
        def gradient(self, batch: Batch) -> Gradient:
            computed.append(1)
            return super().gradient(batch)

    objective.__class__ = Counting
    with pytest.raises(InterruptedRunError):
        _train(_run(config, objective, tmp_path, breaks_after=8))
    lines = [line for line in _metrics(tmp_path) if "loss" in line]
    assert [line["step"] for line in lines] == [2, 3, 4, 6, 8]  # every second, and the last of each epoch
    assert all(0 <= line["terms_angle"] <= 180 for line in lines)
    assert len(computed) == len(lines)


def test_prototypes_stay_as_they_are_until_their_first_steps_are_over(tmp_path: Path) -> None:
    first = nn.functional.normalize(_tiny(RECIPES["swav"], 0).state_dict()["prototypes.weight"], dim=1)
    frozen, trained = (
        _train_until(RECIPES["swav"], 0, tmp_path / str(steps), batches=steps).objective["prototypes.weight"]
        for steps in (5, 7)
    )
    torch.testing.assert_close(frozen, first)
    assert (trained - first).abs().max() > 1e-3


def test_resumed_run_without_its_state_would_end_elsewhere(tmp_path: Path) -> None:
    # the control of the test above: weights do depend on where they start
    config = _config(epochs=1)
    for name, seed in (("a", 0), ("b", 1)):
        torch.manual_seed(seed)
        _train(_run(config, METHODS["simsiam"](), tmp_path / name))
    a, b = (load(tmp_path / name / "checkpoint.safetensors").backbone["conv1.weight"] for name in ("a", "b"))
    assert not torch.equal(a, b)


def test_half_precision_keeps_weights_and_state_in_full(tmp_path: Path) -> None:
    losses = []
    for bf16 in (False, True):
        torch.manual_seed(0)
        _train(_run(_config(bf16=bf16, epochs=1), METHODS["byol"](), tmp_path / str(bf16)))
        losses.append(_metrics(tmp_path / str(bf16))[0]["loss"])
        weights = load(tmp_path / str(bf16) / "checkpoint.safetensors").backbone  # refuses anything but float32
        assert weights["conv1.weight"].isfinite().all()
    assert losses[0] != losses[1]  # it did compute in another precision
    assert losses[0] == pytest.approx(losses[1], abs=0.1)


class Toy(Objective):
    """A linear map whose loss is a mean over images, so that parts of a batch add up exactly."""

    num_views = 1

    def __init__(self, dim: int = 8) -> None:
        super().__init__()
        self.backbone = build_backbone("resnet18")
        self.weight = nn.Parameter(torch.ones(3, dim, dtype=torch.float64))
        self.progress: list[float] = []

    def project(self, view: Tensor) -> Tensor:
        return view.mean(dim=(2, 3)).double() @ self.weight

    def forward(self, views: list[Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        z = self.project(views[0])
        self.projections = z.detach()
        return {"loss": z.square().mean()}

    def after_step(self, progress: float) -> None:
        self.progress.append(progress)

    def parameter_groups(self) -> list[dict[str, object]]:
        return [{"params": [self.weight], "fixed_lr": False}]


class Spread(Toy):
    """Random projections: healthy by construction."""

    def project(self, view: Tensor) -> Tensor:
        noise = torch.randn(len(view), 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        return noise + 0 * super().project(view)


class Point(Toy):
    """Every image at the same place: collapsed by construction."""

    def project(self, view: Tensor) -> Tensor:
        return torch.ones(len(view), 8, dtype=torch.float64) + 0 * super().project(view)


class Line(Toy):
    """Every image on one line through the origin, evenly spread on it: collapsed in all directions but one."""

    def project(self, view: Tensor) -> Tensor:
        side = torch.tensor([1.0, -1.0], dtype=torch.float64).repeat(len(view))[: len(view), None]
        return side * torch.ones(8, dtype=torch.float64) + 0 * super().project(view)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_momentum_and_schedules_move_once_per_optimiser_step(accumulate: int, tmp_path: Path) -> None:
    toy = Spread()
    _train(_run(_config(accumulate=accumulate), toy, tmp_path / "run"))
    assert toy.progress == pytest.approx([step / 9 for step in range(1, 10)])


def test_accumulated_parts_give_the_gradient_of_the_whole_batch(tmp_path: Path) -> None:
    weights = []
    for accumulate in (1, 2):
        # views that do not depend on how a batch is divided: no randomness is left in them
        views = ViewConfig(size=8, crop_scale=(1, 1), crop_ratio=(1, 1), flip_p=0, jitter_p=0, gray_p=0, blur_p=0)
        toy = Toy()
        config = _config(accumulate=accumulate, epochs=1, views=views, optim=OptimConfig(base_lr=0.5, weight_decay=0))
        _train(_run(config, toy, tmp_path / str(accumulate)))
        weights.append(toy.weight.detach())
    assert not torch.equal(weights[0], torch.ones(3, 8, dtype=torch.float64))
    torch.testing.assert_close(weights[0], weights[1], rtol=1e-6, atol=0)


class Diverging(Spread):
    """Its loss is infinite from the fifth step on."""

    def forward(self, views: list[Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        scalars = super().forward(views, generator)
        return {"loss": scalars["loss"] * (float("inf") if len(self.progress) >= 4 else 1)}


@pytest.mark.parametrize("log_every", [1, 3, 100])
def test_infinite_loss_names_its_step_and_leaves_a_finite_state(log_every: int, tmp_path: Path) -> None:
    config = _config(log_every=log_every, save_minutes=0)
    with pytest.raises(
        InputError, match=r"loss is not finite at step 5 \(rate .*, batch 4\); last finite state: .*state.pt"
    ):
        _train(_run(config, Diverging(), tmp_path / "run"))
    state = load_state(tmp_path / "run/state.pt", _identity(config))
    assert state.step < 5
    assert all(tensor.isfinite().all() for tensor in state.objective.values())


def test_update_that_overflows_does_not_replace_the_last_finite_state(tmp_path: Path) -> None:
    config = _config(epochs=1, save_minutes=0, optim=OptimConfig(base_lr=1e308, scale_lr=False, weight_decay=1e3))
    with pytest.raises(InputError, match=r"weights are not finite after step 1 .*last finite state: .*state\.pt"):
        _train(_run(config, Toy(), tmp_path / "run"))
    assert load_state(tmp_path / "run/state.pt", _identity(config)).step == 0


@pytest.mark.parametrize("objective", [Point, Line])
def test_collapse_is_announced_once(objective: type[Toy], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _train(_run(_config(), objective(), tmp_path / "run"))
    announcements = [line for line in capsys.readouterr().out.splitlines() if "collapse" in line]
    assert len(announcements) == 1
    assert announcements[0].startswith("warning: collapse at step ")


@pytest.mark.parametrize("objective", [Point, Line])
def test_collapse_stops_the_run_if_told_to(objective: type[Toy], tmp_path: Path) -> None:
    config = _config(monitor=MonitorConfig(on_collapse="stop"))
    with pytest.raises(CollapseError, match="collapse at step"):
        _train(_run(config, objective(), tmp_path / "run"))
    assert load_state(tmp_path / "run/state.pt", _identity(config)).collapsed


def test_healthy_run_announces_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _train(_run(_config(monitor=MonitorConfig(on_collapse="stop")), Spread(), tmp_path / "run"))
    assert "collapse" not in capsys.readouterr().out


def test_checkpoint_says_where_it_comes_from(tmp_path: Path) -> None:
    config = _config(seed=7, data=DataConfig(source="sample"), views=ViewConfig(size=32, mean=(0.5, 0.5, 0.5)))
    _train(_run(config, METHODS["simsiam"](), tmp_path / "run"))
    checkpoint = load(tmp_path / "run/checkpoint.safetensors")
    assert checkpoint.arch == "resnet18"
    assert (checkpoint.pixels.size, checkpoint.pixels.mean, checkpoint.pixels.order) == (32, (0.5, 0.5, 0.5), "RGB")
    source = checkpoint.source
    assert (source.method, source.branch, source.dataset) == ("simsiam-guided-4views", "online", "sample")
    assert (source.epochs, source.seed) == (3, 7)
