"""A run's folder: its lock, so that two live runs do not write into one, and what its method is called."""

import fcntl
import os
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from converters.errors import InputError


def lock(folder: Path) -> IO[str]:
    """Make a folder if it is missing, and lock it until the file that is returned is closed or the process dies.

    Raises:
        InputError: it cannot be written, or another process has locked it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        held = (folder / "run.lock").open("a")
    except OSError as error:
        raise InputError(f"cannot write {folder}: {error.strerror}; choose another --output") from error
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)  # the kernel lets go of it when the process dies
    except BlockingIOError as error:
        held.close()
        raise InputError(f"{folder} is in use by a live run; choose another --output") from error
    os.register_at_fork(after_in_child=held.close)  # else a loader's worker would keep the lock of a killed run
    return held


# of a configuration: what decides where a run computes, what it watches and how long it lives
_NO_RECIPE = ("seed", "monitor", "log_every", "save_minutes", "compile", "channels_last")


def recipe_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """What of a pretraining run's configuration makes other weights than another seed does.

    Args:
        config: as the run's config.yaml has it; what was found on the machine may be added.
    """
    data = {key: value for key, value in config["data"].items() if key not in ("root", "workers")}
    return {key: value for key, value in config.items() if key not in _NO_RECIPE} | {"data": data}


_MOMENTUM_METHODS = ("byol", "moco", "unigrad")  # that were published with a momentum target


def method_name(config: Mapping[str, Any]) -> str:
    """How checkpoints and results name the method of a pretraining run, e.g. ``simsiam-guided-4views``.

    Args:
        config: as the run's config.yaml has it.
    """
    objective, views, schedule = config["objective"], config.get("views", {}), config["optim"]["schedule"]
    name = objective["name"]
    guidance = objective.get("guidance", "symmetric")
    parts = [name]
    if "views" in objective or guidance != "symmetric":  # else the method knows no guidance
        parts.append(guidance)
    parts.append(f"{objective.get('views', 2)}views")
    if views.get("num_local"):
        parts.append(f"{views['num_local']}local")
    predictor = objective.get("predictor", "mlp")
    momentum = objective.get("momentum")
    controls = {
        "cutmix": bool(views.get("cutmix_p")),
        "momentum": name not in _MOMENTUM_METHODS and momentum is not None,
        "nomomentum": name in _MOMENTUM_METHODS and momentum is None,
        "globalpairs": objective.get("pairs") == "global",
        "directpred": predictor == "directpred",
        "nopredictor": predictor in ("none", False),  # a truth value in runs of earlier versions
        "nostopgradient": not objective.get("stop_gradient", True),
        "constantlr": schedule == "constant",
    }
    return "-".join([*parts, *(control for control, applies in controls.items() if applies)])
