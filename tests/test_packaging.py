"""The wheel that a user would install, built from a copy of what it is made of."""

import importlib
import shutil
import subprocess
import sys
import zipfile
from configparser import ConfigParser
from email import message_from_string
from email.message import Message
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("converters", "pretrain", "transfer")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.Path:
    source, built = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("built")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for name in PACKAGES:
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("configs", "tests"):  # folders beside the packages that setuptools must not take for one
        (source / name).mkdir()
        (source / name / "stray.py").touch()
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", built, source]
    process = subprocess.run(command, capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stdout + process.stderr
    (path,) = built.glob("*.whl")
    return zipfile.Path(path)


def dist_info(wheel: zipfile.Path, name: str) -> str:
    (folder,) = (entry for entry in wheel.iterdir() if entry.name.endswith(".dist-info"))
    return (folder / name).read_text()


def metadata(wheel: zipfile.Path) -> Message:
    return message_from_string(dist_info(wheel, "METADATA"))


def test_top_level_is_the_three_packages_and_nothing_else(wheel: zipfile.Path) -> None:
    names = sorted(entry.name for entry in wheel.iterdir())
    assert [name for name in names if not name.startswith("gsg_transfer-")] == list(PACKAGES)
    assert len(names) == 4


def test_every_module_of_every_subpackage_is_in_the_wheel(wheel: zipfile.Path) -> None:
    modules = {name for name in wheel.root.namelist() if name.endswith(".py")}
    files = {str(path.relative_to(ROOT)) for package in PACKAGES for path in (ROOT / package).rglob("*.py")}
    assert modules == files
    assert "pretrain/objectives/byol.py" in modules


def test_distribution_has_its_name_readme_and_licence(wheel: zipfile.Path) -> None:
    described = metadata(wheel)
    assert described["Name"] == "gsg-transfer"
    assert described["License-Expression"] == "MIT"
    assert described["License-File"] == "LICENSE"
    assert described.get_payload().strip() == (ROOT / "README.md").read_text().strip()
    assert dist_info(wheel, "licenses/LICENSE") == (ROOT / "LICENSE").read_text()


def test_extras_are_detection_segmentation_and_dev(wheel: zipfile.Path) -> None:
    assert sorted(metadata(wheel).get_all("Provides-Extra")) == ["detection", "dev", "segmentation"]


def test_console_scripts_are_functions_of_the_wheel(wheel: zipfile.Path) -> None:
    entry_points = ConfigParser()
    entry_points.read_string(dist_info(wheel, "entry_points.txt"))
    scripts = dict(entry_points["console_scripts"])
    assert scripts
    for target in scripts.values():
        module, _, function = target.partition(":")
        assert f"{module.replace('.', '/')}.py" in wheel.root.namelist(), target
        assert callable(getattr(importlib.import_module(module), function)), target
