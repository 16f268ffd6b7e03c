import os
import subprocess
import sys
from pathlib import Path

import pytest

from converters.errors import ArgumentParser, InputError, reports_input_errors, unknown

ROOT = Path(__file__).parents[1]


def command_raising(error: BaseException) -> int:
    @reports_input_errors
    def main() -> int:
        raise error

    return main()


def test_input_error_is_one_line_on_stderr_and_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert command_raising(InputError("expected 2 or 4 views,\n  got 3;\n\nset objective.views")) == 2
    captured = capsys.readouterr()
    assert captured.err == "error: expected 2 or 4 views, got 3; set objective.views\n"
    assert captured.out == ""


@pytest.mark.parametrize("code", [0, 3])
def test_code_of_a_command_without_input_error_is_its_own(code: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert reports_input_errors(lambda: code)() == code
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    "error",
    [
        ValueError("ours"),
        FileNotFoundError("x"),
        RuntimeError("x"),
        AssertionError(),
        KeyboardInterrupt(),
        SystemExit(5),
    ],
    ids=lambda error: type(error).__name__,
)
def test_every_other_exception_propagates(error: BaseException) -> None:
    with pytest.raises(type(error)) as raised:
        command_raising(error)
    assert raised.value is error


def test_wrapped_command_keeps_its_name() -> None:
    def main() -> int:
        """Train."""
        return 0

    wrapped = reports_input_errors(main)
    assert (wrapped.__name__, wrapped.__doc__) == ("main", "Train.")


def run_script(folder: Path, raising: str) -> subprocess.CompletedProcess[str]:
    script = folder / "command.py"
    script.write_text(
        "import sys\n"
        "from converters.errors import InputError, reports_input_errors\n"
        "@reports_input_errors\n"
        f"def main(): raise {raising}\n"
        "sys.exit(main())\n"
    )
    return subprocess.run(
        [sys.executable, script],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )


def test_process_ends_with_code_2_without_traceback(tmp_path: Path) -> None:
    process = run_script(tmp_path, "InputError('expected a folder, got a file')")
    assert (process.returncode, process.stdout, process.stderr) == (2, "", "error: expected a folder, got a file\n")


def test_process_keeps_the_traceback_of_a_defect(tmp_path: Path) -> None:
    process = run_script(tmp_path, "ValueError('a defect')")
    assert process.returncode == 1
    assert process.stderr.startswith("Traceback")
    assert process.stderr.endswith("ValueError: a defect\n")


def test_unknown_name_suggests_the_closest_and_lists_all() -> None:
    message = str(unknown("objective", "simsaim", ["simsiam", "byol"]))
    assert message == "unknown objective 'simsaim'; did you mean 'simsiam'? choose from: byol, simsiam"


def test_unknown_name_far_from_all_is_not_matched_to_any() -> None:
    message = str(unknown("objective", "detectron", (name for name in ["simsiam", "byol"])))
    assert message == "unknown objective 'detectron'; choose from: byol, simsiam"


def parser() -> ArgumentParser:
    built = ArgumentParser(prog="linear")
    built.add_argument("--seed", type=int, required=True)
    built.add_argument("--mode", choices=["fast", "exact"])
    return built


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--seed", "one"], r"argument --seed: invalid int value: 'one'; see --help"),
        ([], r"required: --seed; see --help"),
        (["--seed", "1", "--sed", "2"], r"unrecognized arguments: --sed 2; see --help"),
        (["--seed", "1", "--mode", "slow"], r"argument --mode: invalid choice: 'slow' .*fast.*exact.*; see --help"),
        (["--seed"], r"argument --seed: expected one argument; see --help"),
    ],
)
def test_wrong_arguments_are_an_input_error_without_a_page_of_usage(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(InputError, match=message):
        parser().parse_args(arguments)
    assert capsys.readouterr() == ("", "")


def test_help_is_still_a_page_and_no_error(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parser().parse_args(["--help"])
    assert ended.value.code == 0
    assert "--seed" in capsys.readouterr().out
