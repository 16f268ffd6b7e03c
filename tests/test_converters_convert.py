"""The command: what it writes and prints, its exit codes, and that a mistake or a kill leaves everything whole."""

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from converters import sources, targets, verify
from converters.backbones import build_backbone
from converters.checkpoint import load, sha256
from converters.convert import main
from converters.errors import InputError
from converters.reading import Request, certificate_path, read_checkpoint

COMMAND = Path(__file__).parents[1] / "converters" / "convert.py"

Run = Callable[..., int]


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    torch.manual_seed(0)
    state = build_backbone("resnet18").state_dict()
    for name, tensor in state.items():
        if name.endswith("running_mean"):
            tensor.normal_(0, 0.1)
    return state


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small_pictures: None) -> Run:
    """The command in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "240")

    def command(*arguments: str) -> int:
        monkeypatch.setattr(sys, "argv", ["convert.py", *arguments])
        return main()

    return command


@pytest.fixture(scope="module")
def written_once(state: dict[str, Tensor], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    path = tmp_path_factory.mktemp("original") / "simsiam.pth.tar"
    content = {f"module.encoder.{name}": tensor for name, tensor in state.items()}
    content["module.predictor.0.weight"] = torch.ones(2, 2)
    torch.save({"epoch": 100, "arch": "resnet18", "state_dict": content, "optimizer": {}}, path)
    before = sha256(path)
    yield path
    assert sha256(path) == before, "a test has written into the file of all"
    shutil.rmtree(path.parent)


@pytest.fixture
def original(run: Run, written_once: Path) -> str:
    Path(written_once.name).hardlink_to(written_once)
    return written_once.name


def refused(run: Run, capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one line on stderr of a call that must end with exit code 2 and leave the folder as it was."""
    before = {path: path.lstat().st_mtime_ns for path in Path().rglob("*")}
    assert run(*arguments) == 2
    assert {path: path.lstat().st_mtime_ns for path in Path().rglob("*")} == before
    errors = capsys.readouterr().err
    assert errors.startswith("error: ")
    assert errors.count("\n") == 1
    return errors


FILES = {
    "torchvision": ["out.pth"],
    "safetensors": ["out.safetensors"],
    "detectron2": ["out.pth", "out.yaml"],
    "mmseg": ["out.pth", "out.py"],
}


@dataclass(frozen=True)
class Converted:
    """What a conversion left in a folder of its own and printed."""

    target: str
    folder: Path
    before: str
    code: int
    printed: str
    errors: str


@pytest.fixture(scope="module", params=FILES)
def converted(
    request: pytest.FixtureRequest, written_once: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Converted]:
    """One conversion to a target, for all who only read what it left."""
    folder, printed, errors = tmp_path_factory.mktemp("converted"), io.StringIO(), io.StringIO()
    shutil.copy(written_once, folder)
    before = sha256(folder / "simsiam.pth.tar")
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(printed), redirect_stderr(errors):
        patch.chdir(folder)
        patch.setenv("COLUMNS", "240")
        arguments = ["simsiam.pth.tar", "--target", request.param, FILES[request.param][0]]
        patch.setattr(sys, "argv", ["convert.py", *arguments])
        code = main()
    yield Converted(request.param, folder, before, code, printed.getvalue(), errors.getvalue())
    shutil.rmtree(folder)


def test_target_is_written_with_its_facts_and_certificate(converted: Converted) -> None:
    files, original = FILES[converted.target], "simsiam.pth.tar"
    assert converted.code == 0
    found = sorted(path.name for path in converted.folder.iterdir())
    assert found == sorted([*files, f"{files[0]}.certificate.json", original])
    assert sha256(converted.folder / original) == converted.before
    assert converted.errors == ""
    assert "resnet18 of simsiam, online network, by 120 tensors at state_dict > module.encoder.*" in converted.printed
    assert "left out: module.predictor.0.weight" in converted.printed
    assert converted.printed.count("passed") == 3 + (converted.target == "safetensors")
    certificate = json.loads((converted.folder / f"{files[0]}.certificate.json").read_text())
    assert certificate["input"] == {"file": original, "sha256": converted.before}
    assert certificate["output"] == {"file": files[0], "sha256": sha256(converted.folder / files[0])}
    assert {(converted.folder / name).stat().st_mode & 0o777 for name in files} == {0o644}


def test_file_of_every_target_can_be_converted_back(converted: Converted, run: Run, state: dict[str, Tensor]) -> None:
    """theirs -> each target -> ours: the same tensors, pixels and source; torchvision's by its certificate."""
    expected = read_checkpoint(converted.folder / "simsiam.pth.tar", Request()).checkpoint
    output = converted.folder / FILES[converted.target][0]
    assert run(str(output), "--target", "safetensors", "back.safetensors") == 0
    back = load(Path("back.safetensors"))
    assert (back.arch, back.pixels, back.source) == (expected.arch, expected.pixels, expected.source)
    assert all(torch.equal(back.backbone[name], tensor) for name, tensor in state.items())


def test_every_target_is_converted_to() -> None:
    assert set(FILES) == set(targets.names())


def test_certificate_of_another_file_is_no_evidence(run: Run, original: str, state: dict[str, Tensor]) -> None:
    assert run(original, "--target", "torchvision", "out.pth") == 0
    torch.save({name: tensor + 1 if name == "conv1.weight" else tensor for name, tensor in state.items()}, "out.pth")
    assert "gsg_transfer" not in read_checkpoint(Path("out.pth"), Request()).sources


def test_failing_certificate_leaves_nothing(
    run: Run, original: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write = verify.write

    def spoil(checkpoint: object, target: str, path: Path, final: Path) -> None:
        write(checkpoint, target, path, final)  # type: ignore[arg-type]
        if target == "detectron2" and path.name == "out.pth":
            facts = path.with_suffix(".yaml")
            facts.write_text(facts.read_text().replace("FORMAT: RGB", "FORMAT: BGR"))

    monkeypatch.setattr(verify, "write", spoil)
    assert run(original, "--target", "detectron2", "out.pth") == 1
    assert [path.name for path in Path().iterdir()] == [original]
    printed, errors = capsys.readouterr()
    assert "failed" in printed
    assert errors.startswith("error: the certificate failed, nothing was written: detectron2: float32 outputs differ")


@pytest.mark.parametrize(("flags", "code"), [((), 1), (("--allow-unverified",), 0)])
def test_missing_framework_is_not_passed_over_in_silence(
    flags: tuple[str, ...],
    code: int,
    run: Run,
    original: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "mmseg", None)  # as if absent: the import raises
    assert run(original, "--target", "torchvision", "out.pth", *flags) == code
    printed, errors = capsys.readouterr()
    assert "mmseg: not checked: cannot be imported" in printed
    assert ("--allow-unverified" in errors) == (code == 1)
    certificate = json.loads(certificate_path(Path("out.pth")).read_text())
    assert [part["status"] for part in certificate["frameworks"]] == ["passed", "passed", "not checked"]


def test_list_names_every_source_and_target(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--list") == 0
    printed = capsys.readouterr().out
    assert all(name in printed for name in [*sources.names(), *targets.names()])


def test_readme_names_every_source() -> None:
    lines = (COMMAND.parents[1] / "README.md").read_text().splitlines()
    table = " ".join(line.split("|")[1] for line in lines if line.startswith("| `"))
    assert [name for name in sources.names() if f"`{name}`" not in table] == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "expected IN --target TARGET OUT, got less"),
        (("IN", "out.pth"), "expected IN --target TARGET OUT, got less"),
        (
            ("IN", "--target", "detectron", "out.pth"),
            "unknown target 'detectron'; did you mean 'detectron2'",
        ),
        (
            ("IN", "--target", "detectron2", "out.pkl"),
            "expected OUT to end in .pth for --target detectron2, got out.pkl",
        ),
        (("IN", "--target", "safetensors", "out.pth"), "expected OUT to end in .safetensors"),
        (("absent.pth", "--target", "mmseg", "out.pth"), "checkpoint absent.pth not found"),
        (("IN", "--target", "mmseg", "nowhere/out.pth"), "cannot write into nowhere: expected a folder"),
        (
            ("IN", "--target", "mmseg", "out.pth", "--source", "simsaim"),
            "unknown source 'simsaim'; did you mean 'simsiam'",
        ),
        (("IN", "--target", "mmseg", "out.pth", "--branch", "teacher"), "unknown branch 'teacher'"),
        (("IN", "--target", "mmseg", "out.pth", "--branch", "target"), "holds no target network, only: online"),
        (
            ("IN", "--target", "mmseg", "out.pth", "--source", "swav"),
            "expected a backbone of swav, got state_dict.module.encoder.",
        ),
        (("IN", "--target", "mmseg", "out.pth", "--mean", "0", "0", "0"), "expected --mean and --std together"),
        (("IN", "--target", "mmseg", "out.pth", "--mean", "1", "2", "x"), "argument --mean: invalid float value"),
        (
            ("IN", "--target", "mmseg", "out.pth", "--mean", "123", "116", "103", "--std", "58", "57", "57"),
            "expected three numbers of pixels in 0..1, got (123.0, 116.0, 103.0)",
        ),
    ],
)
def test_mistake_gets_one_line_and_changes_nothing(
    arguments: tuple[str, ...], message: str, run: Run, original: str, capsys: pytest.CaptureFixture[str]
) -> None:
    line = refused(run, capsys, *(original if argument == "IN" else argument for argument in arguments))
    assert message in line


@pytest.mark.parametrize("existing", ["out.pth", "out.yaml", "out.pth.certificate.json"])
def test_nothing_is_overwritten(existing: str, run: Run, original: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path(existing).write_text("mine")
    line = refused(run, capsys, original, "--target", "detectron2", "out.pth")
    assert f"{existing} exists; nothing is overwritten" in line
    assert Path(existing).read_text() == "mine"


def test_link_out_of_the_folder_is_not_followed(
    run: Run, original: str, tmp_path_factory: pytest.TempPathFactory, capsys: pytest.CaptureFixture[str]
) -> None:
    outside = tmp_path_factory.mktemp("outside") / "precious.pth"
    for exists in (False, True):
        if exists:
            outside.write_text("mine")
        Path("out.pth").symlink_to(outside)
        assert "out.pth is a link" in refused(run, capsys, original, "--target", "torchvision", "out.pth")
        Path("out.pth").unlink()
    assert outside.read_text() == "mine"


def test_name_that_appears_meanwhile_is_not_overwritten(
    run: Run, original: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    certify = verify.certify

    def and_then(*arguments: object) -> object:
        Path("out.pth").write_text("mine")
        return certify(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(verify, "certify", and_then)
    assert run(original, "--target", "detectron2", "out.pth") == 2
    assert "cannot write out.pth: File exists" in capsys.readouterr().err
    assert sorted(path.name for path in Path().iterdir()) == ["out.pth", original]
    assert Path("out.pth").read_text() == "mine"


def test_what_a_kill_left_is_named(run: Run, original: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path(".out.pth.abc").mkdir()
    assert run(original, "--target", "torchvision", "out.pth", "--dry-run") == 0
    assert ".out.pth.abc was left by a run that was killed; remove it" in capsys.readouterr().out


def test_pixels_that_a_flat_file_cannot_tell_are_not_lost(
    run: Run, state: dict[str, Tensor], capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save({"state_dict": state}, "simclr.pth")
    line = refused(run, capsys, "simclr.pth", "--source", "tf_simclr", "--target", "torchvision", "out.pth")
    assert "cannot say that its images have mean (0.0, 0.0, 0.0)" in line


@pytest.mark.parametrize("name", ["a b.pth", "a#1.pth", 'a".pth'])
def test_name_that_a_configuration_would_misread_is_refused(
    name: str, run: Run, original: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "expected OUT's name of letters" in refused(run, capsys, original, "--target", "mmseg", name)


def test_input_is_never_the_output(run: Run, original: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path(original).rename("in.pth")
    assert "in.pth exists" in refused(run, capsys, "in.pth", "--target", "torchvision", "in.pth")


@pytest.mark.parametrize("target", ["torchvision", "detectron2", "mmseg"])
def test_small_stem_is_refused_with_the_reason(target: str, run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    state = {f"backbone.{name}": tensor for name, tensor in build_backbone("resnet18_cifar").state_dict().items()}
    torch.save({"state_dict": state | {"projector.0.weight": torch.ones(1)}}, "cifar.ckpt")
    flags = ("--source", "solo_learn", "--mean", ".49", ".48", ".45", "--std", ".25", ".24", ".26")
    line = refused(run, capsys, "cifar.ckpt", "--target", target, "out.pth", *flags)
    assert "use --target safetensors" in line
    reason = "7x7 stem with max-pool and PyTorch's padding only, this is resnet18_cifar_pad2"
    assert (reason in line) == (target != "torchvision")  # which cannot even tell its pixels


@pytest.fixture(scope="module")
def whole(state: dict[str, Tensor]) -> bytes:
    buffer = io.BytesIO()
    torch.save({"epoch": 1, "state_dict": {f"module.encoder.{name}": tensor for name, tensor in state.items()}}, buffer)
    return buffer.getvalue()


@settings(
    deadline=None,
    derandomize=True,
    database=None,
    max_examples=15,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(place=st.floats(0, 1), damage=st.sampled_from(["none", "cut", "flip", "repeat"]))
@example(place=0.5, damage="flip")  # of one weight
def test_damaged_file_is_one_line_and_leaves_nothing(
    whole: bytes,
    state: dict[str, Tensor],
    run: Run,
    capsys: pytest.CaptureFixture[str],
    place: float,
    damage: str,
) -> None:
    at = int(place * (len(whole) - 1))
    damaged = {
        "none": whole,
        "cut": whole[:at],
        "flip": whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :],
        "repeat": whole[: max(at, 1)] + whole,
    }[damage]
    Path("damaged.pth").write_bytes(damaged)
    try:  # a byte of the archive that nothing depends on may be another
        read = read_checkpoint(Path("damaged.pth"), Request())
        assert damage in ("none", "flip")
        assert all(torch.equal(read.checkpoint.backbone[name], tensor) for name, tensor in state.items())
    except InputError:
        assert damage != "none"
        refused(run, capsys, "damaged.pth", "--target", "detectron2", "out.pth")


def test_dry_run_says_how_a_file_is_read_and_writes_nothing(
    run: Run, original: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(original, "--target", "detectron2", "out.pth", "--dry-run") == 0
    assert [path.name for path in Path().iterdir()] == [original]
    printed = capsys.readouterr().out
    assert "resnet18 of simsiam" in printed
    assert "would write out.yaml, out.pth.certificate.json, out.pth" in printed


def test_kill_leaves_no_output_and_the_next_call_works(run: Run, original: str) -> None:
    arguments = [sys.executable, str(COMMAND), original, "--target", "detectron2", "out.pth"]
    process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not list(Path().glob(".out.pth.*/out.pth")):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert [path.name for path in Path().glob("out*")] == []
    assert run(*arguments[2:]) == 0
    assert Path("out.pth").is_file()


def test_started_by_path_it_needs_nothing_of_the_folder(original: str, tmp_path: Path) -> None:
    (tmp_path / "converters.py").write_text("raise SystemExit('the wrong converters')")
    process = subprocess.run(
        [sys.executable, str(COMMAND), original, "--target", "torchvision", "x.pkl"], capture_output=True, text=True
    )
    assert (process.returncode, process.stdout) == (2, "")
    assert process.stderr == "error: expected OUT to end in .pth for --target torchvision, got x.pkl\n"
