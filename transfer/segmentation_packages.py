"""Which MMSegmentation is installed, found out before anything imports it."""

import importlib
import re
from collections.abc import Mapping
from importlib.metadata import distributions

from converters.errors import InputError
from converters.targets import quiet

_OURS = ("onedl-mmsegmentation", "onedl-mmengine", "onedl-mmcv")  # the maintained continuation, under the same modules
_UPSTREAM = ("mmsegmentation", "mmengine", "mmengine-lite", "mmcv", "mmcv-lite", "mmcv-full")


def check_packages(installed: Mapping[str, str]) -> dict[str, str]:
    """The versions of MMSegmentation's packages.

    Args:
        installed: version by name of a distribution, in small letters and with hyphens.

    Raises:
        InputError: they are not there, or those of upstream are, alone or beside them.
    """
    ours, upstream = ({name: installed[name] for name in names if name in installed} for names in (_OURS, _UPSTREAM))
    found = ", ".join(f"{name} {version}" for name, version in (ours | upstream).items()) or "none"
    if ours and upstream:
        raise InputError(
            f"expected one family of packages, got {found}, which overwrite each other's modules; uninstall "
            f"{' '.join(upstream)}, and install {' '.join(ours)} again"
        )
    if upstream:
        raise InputError(
            f"expected {', '.join(_OURS)}, got {found}: upstream's mmsegmentation needs mmcv below 2.2 with compiled "
            "operators, which no current torch has; uninstall them and run make setup"
        )
    if len(ours) < len(_OURS):
        raise InputError(f"expected {', '.join(_OURS)}, got {found}; run make setup")
    return ours


def find_mmsegmentation() -> dict[str, str]:
    """The versions of MMSegmentation's packages, which can be imported.

    Raises:
        InputError: see `check_packages`; or they are there and do not work.
    """
    installed = {
        re.sub("[-_.]+", "-", each.metadata["Name"]).lower(): each.version  # as the index spells names
        for each in distributions()
        if each.metadata["Name"]
    }
    versions = check_packages(installed)
    try:
        with quiet():
            importlib.import_module("mmseg.apis")
    except ImportError as error:
        raise InputError(f"MMSegmentation cannot be imported: {error}; run make setup") from error
    return versions
