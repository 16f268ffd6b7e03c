"""What pretraining runs have logged: their method and the numbers of every epoch, for the figures of a report."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from converters.checkpoint import settings_hash
from converters.errors import printable
from converters.run_folder import method_name, recipe_of

CONFIG, METRICS = "config.yaml", "metrics.jsonl"


@dataclass(frozen=True)
class Curves:
    """The log of a pretraining run.

    Attributes:
        folder: of the run.
        config: all of its settings.
        method: what checkpoints call it.
        lines: of the log, each with step and epoch.
    """

    folder: Path
    config: dict[str, Any]
    method: str
    lines: tuple[dict[str, float], ...]

    @property
    def setting(self) -> tuple[str, str, str, int, int]:
        """What must be the same in one plot: objective, architecture, data set, epochs, batch size."""
        config = self.config
        return (
            *(config["objective"]["name"], config["arch"], config["data"]["source"]),
            *(config["epochs"], config["batch_size"]),
        )

    @property
    def recipe(self) -> str:
        """What it has in common with runs of other seeds alone: a hash of its configuration without the seed."""
        return settings_hash(recipe_of(self.config))

    @property
    def left_out_predictor(self) -> bool:
        """Whether it was run without the predictor that its method has (Lee & Lee 2023, 6.2)."""
        return self.config["objective"].get("predictor", "mlp") in ("none", False)

    def points(self, name: str, over: str) -> list[tuple[float, float]]:
        """A number of the log over steps or epochs, without what is missing.

        Args:
            name: of the number.
            over: ``"step"`` or ``"epoch"``.
        """
        return [(line[over], line[name]) for line in self.lines if line.get(name) is not None and over in line]


def read_curves(places: Sequence[Path]) -> tuple[list[Curves], list[str]]:
    """The logs of all pretraining runs below some folders, and a sentence for each that cannot be read.

    Args:
        places: folders; files are passed over, since they hold results.
    """
    paths = sorted({path for place in places if place.is_dir() for path in place.rglob(METRICS)})
    found, told = list[Curves](), list[str]()
    for path in paths:
        if not (path.parent / CONFIG).is_file():  # of a segmentor, whose folder has no such file
            continue
        try:
            config = yaml.safe_load((path.parent / CONFIG).read_text(encoding="utf-8"))
            lines = path.read_bytes().splitlines()
            read = Curves(path.parent, config, method_name(config), tuple(_whole(lines)))
            if not all(isinstance(each, str | int) for each in read.setting):
                raise TypeError(f"settings {read.setting}")
        except (OSError, ValueError, KeyError, TypeError, AttributeError, yaml.YAMLError) as error:
            told.append(f"{path.parent}: expected a pretraining run, got {printable(repr(error))}; it has no curve")
            continue
        if broken := len(lines) - len(read.lines):
            told.append(f"{path}: {broken} of {len(lines)} lines are cut off or damaged; the curves lack them")
        key = read.recipe, config.get("seed")
        twin = next((each for each in found if (each.recipe, each.config.get("seed")) == key), None)
        if twin is None:
            found.append(read)
            continue
        kept, other = (read, twin) if len(read.lines) > len(twin.lines) else (twin, read)
        found[found.index(twin)] = kept
        told.append(f"{other.folder} is the same pretraining run as {kept.folder}, whose curves are shown")
    return found, told


def _whole(lines: Sequence[bytes]) -> Iterator[dict[str, float]]:
    for line in lines:
        try:
            content = json.loads(line)
        except ValueError:
            continue
        if not isinstance(content, dict) or None in (content.get("step"), content.get("epoch")):
            continue
        if all(isinstance(each, int | float | None) for each in content.values()):
            yield content
