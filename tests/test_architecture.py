"""Rules that hold between files: who imports whom, how a command finds its own packages, names, forbidden shortcuts.

Each rule is a function from source text or a path to what breaks it, so that it can be shown to catch a culprit.
"""

import ast
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import TypeGuard

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("converters", "pretrain", "transfer")
# what may be imported of our own, apart from the package itself
ALLOWED = {"converters": set(), "pretrain": {"converters"}, "transfer": {"converters"}}

PATH_LINES = """\
if not __package__:  # started by path: import this checkout, not this folder
    sys.path[0] = str(Path(__file__).resolve().parents[1])
"""

# They say nothing about what a file holds.
EMPTY_NAMES = {"utils", "util", "misc", "common", "helpers", "helper", "base", "manager"}
# Imported by optional parts, or by packages that we import; what our files import themselves comes on top.
OPTIONAL_PACKAGES = {"datasets", "detectron2", "mmcv", "mmengine", "mmseg", "pycocotools", "timm", "wandb"}

# A child process with no more than the file that it reads: it may unpickle, and imports nothing of ours.
UNPICKLING_CHILD = ROOT / "converters/unpickle.py"

FILES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
every_file = pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))


def imports(source: str) -> Iterator[tuple[int, str]]:
    """Line and top-level package of every absolute import; a relative one cannot leave its own package."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name.partition(".")[0]) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield node.lineno, node.module.partition(".")[0]
        elif isinstance(node, ast.Call) and called_name(node) in ("import_module", "__import__", "run_module"):
            yield from ((node.lineno, x.value.partition(".")[0]) for x in node.args[:1] if is_text(x))


def is_text(node: ast.expr) -> TypeGuard[ast.Constant]:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def called_name(call: ast.Call) -> str:
    function = call.func
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")


def forbidden_imports(package: str, source: str) -> list[str]:
    others = set(PACKAGES) - {package} - ALLOWED[package]
    return [f"line {line} imports {name}" for line, name in imports(source) if name in others]


def is_command(source: str) -> bool:
    return any(
        isinstance(node, ast.If) and ast.unparse(node.test) == "__name__ == '__main__'"
        for node in ast.parse(source).body
    )


def misplaced_path_lines(source: str) -> list[str]:
    """What is wrong with a command's two lines that let it be started by path."""
    position = ("\n" + source).find("\n" + PATH_LINES)
    if position < 0:
        return ["the two path lines are missing, or not word for word"]
    line = source[:position].count("\n") + 1
    return [f"line {own} imports {name} before" for own, name in imports(source) if name in PACKAGES and own < line] + [
        f"{name} is not imported before" for name in ("sys", "pathlib") if not imported_before(source, name, line)
    ]


def imported_before(source: str, name: str, line: int) -> bool:
    return any(found == name and at < line for at, found in imports(source))


def shortcuts(source: str) -> list[str]:
    """Calls that hide missing weights or run a pickle's code, and handlers that swallow an exception."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call):
            switched_off = {x.arg for x in node.keywords if ast.unparse(x.value) == "False"}
            if called_name(node) == "load_state_dict" and [ast.unparse(x) for x in node.args[1:2]] == ["False"]:
                switched_off.add("strict")
            # zip's strict=False says that lengths may differ
            hidden = switched_off & {"strict", "weights_only"} if called_name(node) != "zip" else set()
            found += [f"line {node.lineno}: {name}=False" for name in sorted(hidden)]
        elif isinstance(node, ast.ExceptHandler):
            if node.type is None:
                found.append(f"line {node.lineno}: bare except")
            if all(isinstance(x, ast.Pass) or ast.unparse(x) == "..." for x in node.body):
                found.append(f"line {node.lineno}: exception swallowed")
    return found


IMPORTED = {name for path in FILES for _, name in imports(path.read_text())} - set(PACKAGES)


def bad_name(path: Path) -> str | None:
    """What is wrong with the name of a module or package.

    Names of packages that we import are kept out of the folders that hold commands, since a script's own folder comes
    first on the path; `converters/sources/timm.py` lies in none.
    """
    name = path.stem
    if name in EMPTY_NAMES:
        return f"{path} is named for nothing that it does"
    if name in sys.stdlib_module_names:
        return f"{path} has the name of a standard-library module"
    if path.parent.parent == ROOT and name in OPTIONAL_PACKAGES | IMPORTED:
        return f"{path} has the name of a package that we import"
    return None


@every_file
def test_packages_meet_only_at_converters(path: Path) -> None:
    assert forbidden_imports(path.relative_to(ROOT).parts[0], path.read_text()) == []


@every_file
def test_no_call_hides_missing_weights_and_no_handler_swallows_exceptions(path: Path) -> None:
    found = shortcuts(path.read_text())
    assert ["weights_only=False" in each for each in found] == [True] * (path == UNPICKLING_CHILD)


def test_child_that_unpickles_imports_nothing_of_ours() -> None:
    assert not {name for _, name in imports(UNPICKLING_CHILD.read_text())} & set(PACKAGES)


@pytest.mark.parametrize(
    "path",
    [path for path in FILES if is_command(path.read_text()) and path != UNPICKLING_CHILD],
    ids=lambda path: str(path.relative_to(ROOT)),
)
def test_command_imports_the_checkout_that_it_lies_in(path: Path) -> None:
    assert misplaced_path_lines(path.read_text()) == []
    assert path.parent.parent == ROOT, "the path lines of a command name the folder above its package"


def test_every_console_script_is_a_command_that_can_be_started_by_path() -> None:
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    files = {ROOT / f"{target.partition(':')[0].replace('.', '/')}.py" for target in scripts.values()}
    assert files
    assert sorted(str(path) for path in files if not path.is_file() or not is_command(path.read_text())) == []


def test_names_of_files_and_folders_say_what_they_hold_and_shadow_nothing() -> None:
    folders = {path.parent for path in FILES}
    assert [problem for path in [*FILES, *sorted(folders)] if (problem := bad_name(path))] == []


def test_every_folder_of_code_is_a_package() -> None:
    assert [str(path.parent) for path in FILES if not (path.parent / "__init__.py").is_file()] == []


@pytest.mark.parametrize(
    ("package", "source"),
    [
        ("converters", "from pretrain.config import Config"),
        ("converters", "def f():\n    import transfer.linear"),
        ("converters", "import importlib\nimportlib.import_module('pretrain.loop')"),
        ("pretrain", "import numpy, transfer"),
        ("transfer", "if True:\n    from pretrain import objectives"),
    ],
)
def test_forbidden_import_is_caught(package: str, source: str) -> None:
    assert len(forbidden_imports(package, source)) == 1


@pytest.mark.parametrize("package", PACKAGES)
def test_own_and_allowed_imports_are_not_caught(package: str) -> None:
    source = f"from {package}.a import b\nfrom . import pretrain, transfer\nimport converters.keys\nimport pretrained"
    assert forbidden_imports(package, source) == []


STANDARD = "import sys\nfrom pathlib import Path\n"


@pytest.mark.parametrize(
    "source",
    [
        STANDARD + "from pretrain import loop\n",
        STANDARD + "from pretrain import loop\n" + PATH_LINES,
        STANDARD + PATH_LINES.replace("  #", " #") + "from pretrain import loop\n",
        STANDARD + PATH_LINES.replace("parents[1]", "parents[2]") + "from pretrain import loop\n",
        STANDARD + "def f():\n" + "".join(f"    {line}\n" for line in PATH_LINES.splitlines()),
        "from pathlib import Path\n" + PATH_LINES + "import sys\n",
    ],
    ids=["missing", "late", "comment", "folder", "nested", "sys"],
)
def test_wrong_path_lines_are_caught(source: str) -> None:
    assert misplaced_path_lines(source)


def test_right_path_lines_are_not_caught() -> None:
    source = '"""Train."""\n\nimport torch\n' + STANDARD + "\n" + PATH_LINES + "\nfrom pretrain import loop\n"
    assert misplaced_path_lines(source) == []


@pytest.mark.parametrize(
    "source",
    [
        "net.load_state_dict(state, strict=False)",
        "net.load_state_dict(state, False)",
        "torch.load(path, weights_only=False)",
        "try:\n    f()\nexcept:\n    g()",
        "try:\n    f()\nexcept ValueError:\n    pass",
        "try:\n    f()\nexcept ValueError:\n    ...",
    ],
)
def test_shortcut_is_caught(source: str) -> None:
    assert len(shortcuts(source)) == 1


@pytest.mark.parametrize(
    "source",
    [
        "net.load_state_dict(state, strict=True)",
        "torch.load(path, weights_only=not unsafe)",
        "zip(a, b, strict=False)",
        "try:\n    f()\nexcept ValueError as error:\n    raise InputError('x') from error",
    ],
)
def test_honest_code_is_not_caught(source: str) -> None:
    assert shortcuts(source) == []


@pytest.mark.parametrize(
    "path", ["converters/sources/utils.py", "transfer/queue.py", "transfer/datasets.py", "pretrain/torch.py"]
)
def test_bad_name_is_caught(path: str) -> None:
    assert bad_name(ROOT / path)


@pytest.mark.parametrize("path", ["pretrain/loop.py", "pretrain/__init__.py", "converters/sources/timm.py"])
def test_good_name_is_not_caught(path: str) -> None:
    assert bad_name(ROOT / path) is None
