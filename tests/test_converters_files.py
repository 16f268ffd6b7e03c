"""Files of weights: what comes back is exact, and no file, however damaged or hostile, does more than be refused."""

import argparse
import contextlib
import faulthandler
import io
import json
import os
import pickle
import signal
import struct
import time
import zipfile
from collections import OrderedDict, namedtuple
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from converters import files, unpickle
from converters.errors import InputError
from converters.files import read, tensors

always_the_same = settings(
    deadline=None,
    max_examples=50,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


def saved(content: Any, **options: Any) -> bytes:
    """A file of torch.save."""
    file = io.BytesIO()
    torch.save(content, file, **options)
    return file.getvalue()


STATE = {"conv1.weight": torch.arange(6.0).reshape(2, 3) / 7, "bn1.num_batches_tracked": torch.tensor(3)}
TORCH_CONTENT = {"state_dict": STATE, "epoch": np.int64(7), "arch": "resnet50", "lr": 0.5, "best": None}
ARRAYS = {"stem.conv1.weight": np.arange(6, dtype=np.float32).reshape(2, 3) / 7, "steps": np.arange(3)}
NUMPY_CONTENT = {"model": ARRAYS, "epoch": np.int64(7), "__author__": "Müller", "matching_heuristics": True}

FORMATS = {
    "safetensors": safetensors.torch.save(STATE, {"format": "pt"}),
    "zip": saved(TORCH_CONTENT),
    "legacy": saved(TORCH_CONTENT, _use_new_zipfile_serialization=False),
    "numpy-2": pickle.dumps(NUMPY_CONTENT, 2),
    "numpy-4": pickle.dumps(NUMPY_CONTENT, 4),
}
every_format = pytest.mark.parametrize("kind", FORMATS)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "weights.bin"


def assert_same(found: Tensor, expected: Tensor) -> None:
    assert type(found) is Tensor
    assert (found.dtype, found.shape, found.device.type) == (expected.dtype, expected.shape, "cpu")
    assert not found.requires_grad
    assert torch.equal(found, expected)


def refused(path: Path, content: bytes, pattern: str, *, unsafe_pickle: bool = False) -> str:
    """The message of a file that is refused: one line of printable text, by name of the file."""
    path.write_bytes(content)
    with pytest.raises(InputError, match=pattern) as error:
        read(path, unsafe_pickle=unsafe_pickle)
    message = str(error.value)
    assert message.isprintable()
    assert str(path) in message
    assert len(message) < 1000
    return message


# --- what comes back ---


def test_safetensors_come_back_with_their_metadata(path: Path) -> None:
    path.write_bytes(FORMATS["safetensors"])
    content = read(path)
    assert content.keys() == {*STATE, "__metadata__"}
    assert content["__metadata__"] == {"format": "pt"}
    for name, tensor in STATE.items():
        assert_same(content[name], tensor)


def test_safetensors_without_metadata_have_an_empty_one(path: Path) -> None:
    path.write_bytes(safetensors.torch.save(STATE))
    assert read(path)["__metadata__"] == {}


@pytest.mark.parametrize("kind", ["zip", "legacy"])
def test_files_of_torch_save_come_back_exactly(path: Path, kind: str) -> None:
    path.write_bytes(FORMATS[kind])
    content = read(path)
    state = content.pop("state_dict")
    assert content == {"epoch": 7, "arch": "resnet50", "lr": 0.5, "best": None}
    assert type(content["epoch"]) is int
    assert state.keys() == STATE.keys()
    for name, tensor in STATE.items():
        assert_same(state[name], tensor)


@pytest.mark.parametrize("kind", ["numpy-2", "numpy-4"])
def test_pickles_of_arrays_come_back_as_tensors(path: Path, kind: str) -> None:
    path.write_bytes(FORMATS[kind])
    content = read(path)
    state = content.pop("model")
    assert content == {"epoch": 7, "__author__": "Müller", "matching_heuristics": True}
    assert type(content["epoch"]) is int
    assert state.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        assert_same(state[name], torch.from_numpy(array))


def test_pickle_of_python_2_keeps_bytes_as_latin1(path: Path) -> None:
    """As Detectron's files of 2018: byte strings, and NumPy's core under its old name."""
    one_and_minus_ten = struct.pack("<ff", 1, -10)
    path.write_bytes(
        b"\x80\x02}(U\x05n\xe4me_U\x02\xfc!U\x01wcnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b"
        b"\x87R(K\x01K\x02\x85cnumpy\ndtype\nU\x02f4K\x00K\x01\x87R(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK"
        b"\x00tb\x89U\x08" + one_and_minus_ten + b"tbu."
    )
    content = read(path)
    assert content.keys() == {"näme_", "w"}
    assert content["näme_"] == "ü!"
    assert_same(content["w"], torch.tensor([1.0, -10.0]))


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", "i4", "i8", "u1", "?", ">f4", ">i8"])
@pytest.mark.parametrize("fortran", [False, True])
def test_array_of_any_type_and_order_comes_back_exactly(path: Path, dtype: str, fortran: bool) -> None:
    array = np.arange(6).reshape(2, 3).astype(dtype, order="F" if fortran else "C")
    path.write_bytes(pickle.dumps({"w": array}, 2))
    native = array.astype(array.dtype.newbyteorder("="), order="C")
    assert_same(read(path)["w"], torch.from_numpy(native))


def test_nesting_tuples_and_keys_come_back_plain(path: Path) -> None:
    parameter = torch.nn.Parameter(torch.ones(2))
    path.write_bytes(saved({"a": OrderedDict({3: (parameter, [np.float32(0.5), {"b": None}])})}))
    content = read(path)
    first, rest = content["a"]["3"]
    assert_same(first, torch.ones(2))
    assert rest == [0.5, {"b": None}]


def test_view_comes_back_as_its_own_values(path: Path) -> None:
    path.write_bytes(saved({"w": torch.arange(12.0).reshape(3, 4).T[1:3]}))
    assert_same(read(path)["w"], torch.arange(12.0).reshape(3, 4).T[1:3])


def test_tensors_are_found_by_their_path() -> None:
    content = {"a": {"b": torch.zeros(1), "c": {"d": torch.ones(2)}}, "e": 1, "f": torch.ones(3)}
    assert {name: len(tensor) for name, tensor in tensors(content)} == {"a.b": 1, "a.c.d": 2, "f": 3}


def test_reading_leaves_torchs_list_of_safe_names_as_it_was(path: Path) -> None:
    before = set(torch.serialization.get_safe_globals())
    path.write_bytes(FORMATS["zip"])
    read(path)
    assert set(torch.serialization.get_safe_globals()) == before


# --- what is refused ---


def test_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^checkpoint .*absent\.pth not found; name a file of weights$"):
        read(tmp_path / "absent.pth")


def test_folder_and_named_pipe_are_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for place in (tmp_path, tmp_path / "pipe"):
        with pytest.raises(InputError, match=rf"^cannot read {place}: it is no file; name a file of weights$"):
            read(place)


@pytest.mark.parametrize("name", ["x" * 300, "loop"], ids=["too-long", "link-to-itself"])
def test_path_that_cannot_exist_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(InputError, match=r"^cannot read .*; name a file of weights$"):
        read(tmp_path / name)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "got an empty file"),
        (b"<!DOCTYPE html><html>", r"got one that begins with b'<!DOCTYPE'"),
        (b"version https://git-lfs.github.com/spec/v1\n", r"got one that begins with b'version h'"),
        (b"\x89HDF\r\n\x1a\n" + bytes(20), r"got one that begins with b'\\x89HDF"),
        (b"\x93NUMPY\x01\x00" + bytes(20), r"got one that begins with b'\\x93NUMPY"),
        (b"\x1f\x8b\x08" + bytes(20), r"got one that begins with b'\\x1f\\x8b"),
        (pickle.dumps({}, 0), r"got one that begins with b'\(dp0"),
    ],
    ids=["empty", "html", "git-lfs", "hdf5", "npy", "gzip", "pickle-0"],
)
def test_file_of_another_kind_is_refused_by_its_first_bytes(path: Path, content: bytes, problem: str) -> None:
    refused(
        path, content, rf"is no file of weights: expected safetensors, a file of torch\.save or a pickle, {problem}"
    )


@every_format
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, None])
def test_truncated_file_is_refused_as_such(path: Path, kind: str, share: float | None) -> None:
    whole = FORMATS[kind]
    refused(
        path, whole[: -1 if share is None else int(share * len(whole))], r"is truncated or (damaged|no safetensors)"
    )


@every_format
@always_the_same
@given(data=st.data())
def test_file_cut_anywhere_is_refused(path: Path, kind: str, data: st.DataObject) -> None:
    whole = FORMATS[kind]
    refused(path, whole[: data.draw(st.integers(0, len(whole) - 1))], r"truncated|empty file|one that begins with")


def outcome(path: Path) -> str:
    """What reading a file comes to, told by a process of its own: nothing in a file may end the one that reads it."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        with contextlib.suppress(BaseException):
            faulthandler.disable()
            signal.alarm(20)
            try:
                content = read(path)
                claims = [name for name, x in tensors(content) if x.nbytes > path.stat().st_size]
                text = f"claims {claims}" if claims else "fine"
            except InputError as error:
                text = "fine" if "\n" not in str(error) else f"more than one line: {error}"
            except BaseException as error:
                text = f"traceback: {error!r}"
            os.write(writing, text.encode()[:4000])
        os._exit(0)
    os.close(writing)
    with open(reading, "rb") as file:  # noqa: PTH123 - a descriptor
        told = file.read().decode()
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return f"killed by {signal.Signals(-code).name}" if code < 0 else told


@every_format
@always_the_same
@given(data=st.data())
def test_file_with_flipped_bytes_is_refused_or_read_and_never_crashes(
    path: Path, kind: str, data: st.DataObject
) -> None:
    damaged = bytearray(FORMATS[kind])
    for place in data.draw(st.lists(st.integers(0, len(damaged) - 1), min_size=1, max_size=4)):
        damaged[place] = data.draw(st.integers(0, 255))
    path.write_bytes(damaged)
    assert outcome(path) == "fine"


class Reduced:
    """Pickles as a call, and as a state given to what the call returns."""

    def __init__(self, *reduced: Any):
        self.reduced = reduced

    def __reduce__(self) -> tuple[Any, ...]:
        return self.reduced


@pytest.mark.parametrize("write", [pickle.dumps, saved], ids=["pickle", "torch.save"])
def test_array_type_of_a_damaged_state_is_refused_and_does_not_crash(path: Path, write: Callable[..., bytes]) -> None:
    """NumPy does not check the state of a dtype: with six values it writes where it must not."""
    dtype = Reduced(np.dtype, ("f4", False, True), (3, "<", None, -1, -1, 0))
    reconstruct = np.empty(0).__reduce__()[0]
    array = Reduced(reconstruct, (np.ndarray, (0,), b"b"), (1, (2,), dtype, False, bytes(8)))
    path.write_bytes(write({"w": array}))
    assert outcome(path) == "fine"


def archive(entries: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as written:
        for name, content in entries.items():
            written.writestr(name, content)
    return file.getvalue()


def test_compressed_archive_is_refused(path: Path) -> None:
    bomb = archive({"archive/data.pkl": b"\x80\x02}.", "archive/data/0": bytes(10**7)}, zipfile.ZIP_DEFLATED)
    refused(path, bomb, r"is a compressed archive, which torch\.save never writes; unpack it first$")


def test_archive_that_claims_more_than_it_holds_is_refused(path: Path) -> None:
    content = FORMATS["zip"]
    entry = content.index(b"PK\x01\x02")  # the first of the list of contents; its sizes lie 20 bytes on
    claims = content[: entry + 20] + struct.pack("<II", 2**31, 2**31) + content[entry + 28 :]
    refused(path, claims, r"claims more bytes than it has; it is damaged or made to fill the memory$")


def test_torchscript_archive_is_refused(path: Path) -> None:
    content = archive({"m/data.pkl": b"\x80\x02}.", "m/constants.pkl": b"\x80\x02).", "m/code/x.py": b"pass"})
    refused(path, content, r"is a TorchScript archive; load it with torch\.jit and save its state_dict\(\)$")


@pytest.mark.parametrize("entries", [{}, {"weights.npy": b"x"}, {"data.pkl": b"\x80\x02}."}], ids=str)
def test_archive_that_torch_save_did_not_write_is_refused(path: Path, entries: dict[str, bytes]) -> None:
    refused(path, archive(entries), r"is an archive without data\.pkl|expected safetensors, a file of torch\.save")


@pytest.mark.parametrize(
    "content",
    [{"w": torch.zeros(1).expand(10**9)}, {"a": {"w": torch.zeros(1, 1).expand(10**6, 10**6)}}],
    ids=["flat", "nested"],
)
def test_tensor_that_claims_more_than_the_file_is_refused(path: Path, content: dict[str, Any]) -> None:
    refused(path, saved(content), r"w claims 4\d+ bytes, and the file has \d+; it is damaged or made to fill")


def test_tensor_in_a_list_that_claims_more_than_the_file_is_refused(path: Path) -> None:
    refused(path, saved({"a": [(torch.zeros(1).expand(10**9),)]}), r"claims 4000000000 bytes, and the file has \d+")


@pytest.mark.parametrize("shape", [(10**9,), (10**15,)], ids=str)
def test_array_that_claims_more_than_the_file_is_refused(path: Path, shape: tuple[int, ...]) -> None:
    header = Reduced(np.ndarray, (shape, "f4", bytes(4), 0, (0,)))
    with limited_memory(2 * 10**9):
        refused(path, pickle.dumps({"w": header}), r"claims|truncated or damaged")


@contextlib.contextmanager
def limited_memory(more: int) -> Iterator[None]:
    """Let this process ask for so many bytes more, and no more."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + more, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


@pytest.mark.parametrize("end", [4, 4 * 10**12])
def test_safetensors_header_that_claims_more_than_the_file_is_refused(path: Path, end: int) -> None:
    header = json.dumps({"w": {"dtype": "F32", "shape": [10**12], "data_offsets": [0, end]}}).encode()
    content = struct.pack("<Q", len(header)) + header + bytes(4)
    refused(path, content, r"is truncated or no safetensors file \(.*\); write it again$")


@pytest.mark.parametrize(
    "content", [[torch.ones(1)], torch.ones(1), "weights", 3, None], ids=lambda x: type(x).__name__
)
def test_content_that_is_no_dict_is_refused_by_its_type(path: Path, content: Any) -> None:
    kind = type(content).__name__
    refused(path, saved(content), rf"holds no state dict but {kind}; save model\.state_dict\(\)$")


def nested(levels: int) -> dict[str, Any]:
    content: dict[str, Any] = {"w": torch.ones(1)}
    for _ in range(levels):
        content = {"a": content}
    return content


def test_nesting_that_no_checkpoint_has_is_refused(path: Path) -> None:
    path.write_bytes(saved(nested(10)))
    assert_same(next(tensors(read(path)))[1], torch.ones(1))
    for content in (nested(40), {"a": eval("[" * 90 + "]" * 90)}):
        refused(path, saved(content), r"nests deeper than 20 levels; it is no checkpoint$")


def test_content_that_holds_itself_is_refused(path: Path) -> None:
    content: dict[str, Any] = {"a": []}
    content["a"].append(content)
    refused(path, pickle.dumps(content), r"nests deeper than 20 levels")


@contextlib.contextmanager
def at_most(seconds: float) -> Iterator[None]:
    def too_long(*_: Any) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, too_long)
    signal.setitimer(signal.ITIMER_REAL, seconds, 0.5)  # again, since __del__ swallows exceptions
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_list_that_unfolds_to_more_than_the_file_is_refused(path: Path) -> None:
    """Each level holds the one below ten times, so that 300 bytes stand for 10 ** 15 items."""
    content: list[Any] = []
    for _ in range(15):
        content = [content] * 10
    with at_most(60):  # or for ever
        refused(path, pickle.dumps({"a": content}), r"damaged or made to|claims|no checkpoint")


def test_two_keys_that_are_the_same_text_are_refused(path: Path) -> None:
    """Else one of two tensors is lost without a word."""
    refused(path, saved({"a": {1: torch.zeros(1), "1": torch.ones(1)}}), r"\b1\b")


@pytest.mark.parametrize(
    "value",
    [
        np.arange(2, dtype=np.longdouble),
        np.arange(2, dtype="c8"),
        np.array(["x"]),
        np.array([{}, None]),
        np.zeros(1, [("x", "f4")]),
        np.array(["2020-01-01"], "M8[D]"),
    ],
    ids=lambda array: str(array.dtype),
)
def test_array_that_is_no_tensor_is_refused_or_comes_back_plain(path: Path, value: Any) -> None:
    path.write_bytes(pickle.dumps({"w": torch.zeros(1).numpy(), "x": value}))
    with contextlib.suppress(InputError):
        assert isinstance(read(path)["x"], Tensor | str | list | dict | None)


def test_tensor_without_values_is_refused(path: Path) -> None:
    refused(path, saved({"w": torch.zeros(3, device="meta")}), r"\bw\b|meta")


# --- files that need code ---


class Net:
    """A class that a child process cannot import."""

    def __init__(self, content: Any):
        self.content = content


class States(NamedTuple):
    online: dict[str, Any]
    target: dict[str, Any]


class Holder:
    def __init__(self, value: Any):
        self.value = value

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.value,)


def running(code: str) -> bytes:
    """A pickle that runs the code, and holds what it gives to `told`."""
    namespace = f"(lambda names: (exec({code!r}, names), names['told'])[1])({{'told': []}})"
    return pickle.dumps({"told": Reduced(eval, (namespace,)), "w": np.ones(2)}, 4)


@pytest.mark.parametrize("kind", ["zip", "legacy", "pickle"])
@pytest.mark.parametrize(
    ("value", "name"),
    [
        (argparse.Namespace(lr=0.1), r"argparse\.Namespace"),
        (Reduced(os.system, ("exit 3",)), r"posix\.system"),
        (Reduced(Path.touch, (Path("touched"),)), r"\S*(pathlib\.\S+|getattr)"),
        (Reduced(eval, ("1",)), r"(\S+\.)?eval"),
        (Net(1), r"\S*test_converters_files\.Net"),
    ],
    ids=["namespace", "system", "touch", "eval", "own"],
)
def test_pickle_that_needs_code_is_refused_by_what_it_holds_and_not_run(
    path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, value: Any, name: str
) -> None:
    content = {"w": torch.ones(1), "x": value}
    monkeypatch.chdir(path.parent)
    if kind == "pickle":
        written = pickle.dumps({"x": value}, 4)
    else:
        written = saved(content, _use_new_zipfile_serialization=kind == "zip")
    refused(
        path, written, rf"holds {name}, which only unpickling can load; a pickle can run any code .*--unsafe-pickle"
    )
    assert os.listdir() == [path.name]  # noqa: PTH208 - relative on purpose


def test_file_that_needs_no_code_runs_none_with_unsafe_pickle(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(*_: Any, **__: Any) -> None:
        raise AssertionError

    monkeypatch.setattr(files.subprocess, "Popen", run)
    path.write_bytes(FORMATS["zip"])
    assert_same(read(path, unsafe_pickle=True)["state_dict"]["conv1.weight"], STATE["conv1.weight"])
    refused(path, FORMATS["zip"][:-9], r"truncated or damaged", unsafe_pickle=True)


@pytest.mark.parametrize("protocol", [3, 4, 5])
@pytest.mark.filterwarnings("ignore:Detected pickle protocol")  # of torch.load: the message below says what to do
def test_file_of_a_later_protocol_is_read_or_names_unsafe_pickle(path: Path, protocol: int) -> None:
    path.write_bytes(saved({"w": torch.ones(2)}, pickle_protocol=protocol))
    try:
        assert_same(read(path)["w"], torch.ones(2))
    except InputError as error:
        assert "--unsafe-pickle" in str(error)  # noqa: PT017 - either will do


def test_name_of_what_a_pickle_holds_is_printable_and_short(path: Path) -> None:
    for name in (b"a\x1b[31m", b"o" * 9000):
        refused(path, b"\x80\x02c" + name + b"\nx\n.", r"which only unpickling can load")


def test_unsafe_pickle_gives_plain_content_and_keeps_what_was_printed_out_of_it(path: Path) -> None:
    printing = Reduced(os.write, (1, b"not a zip archive"))
    content = {
        "state_dict": STATE,
        "args": argparse.Namespace(lr=0.1, sizes=(1, 2)),
        "net": Net({"w": torch.ones(2), "depth": 50}),
        "states": States({"w": torch.zeros(2)}, {"w": torch.ones(3)}),
        "printing": printing,
        "expanded": torch.ones(1).expand(4),
        "epoch": np.int64(7),
    }
    path.write_bytes(saved(content))
    found = read(path, unsafe_pickle=True)
    for name, tensor in STATE.items():
        assert_same(found["state_dict"][name], tensor)
    assert found["epoch"] == 7
    assert isinstance(found["args"], str)  # argparse is importable, and its object neither tensor nor dict
    assert_same(found["net"]["content"]["w"], torch.ones(2))
    assert found["net"]["content"]["depth"] == 50
    online, target = found["states"]
    assert_same(online["w"], torch.zeros(2))
    assert_same(target["w"], torch.ones(3))
    assert_same(found["expanded"], torch.ones(4))


def test_unsafe_pickle_reads_what_dill_wrote(path: Path) -> None:
    """As DeepMind's files: a named tuple whose class dill makes anew."""
    dill = pytest.importorskip("dill", reason="dill is not installed")
    made = namedtuple("_ByolExperimentState", "online_params target_params")
    made.__module__ = "byol.byol_experiment"
    written = dill.dumps({"experiment_state": made({"w": np.arange(3.0)}, {"w": np.ones(2)})})
    refused(path, written, r"holds (dill\S*|\S+), which only unpickling can load")
    states = read(path, unsafe_pickle=True)["experiment_state"]
    online, target = states.values() if isinstance(states, dict) else states
    assert_same(online["w"], torch.arange(3.0, dtype=torch.float64))
    assert_same(target["w"], torch.ones(2, dtype=torch.float64))


ATTEMPTS = """
import os, subprocess
def attempt(what, *arguments, **named):
    try:
        what(*arguments, **named)
    except BaseException as error:
        told.append(type(error).__name__)
    else:
        told.append("done")
def put(name, mode="w"):
    with open(name, mode) as file:
        file.write("x")
for folder in FOLDERS:
    attempt(put, os.path.join(folder, "made"))
    attempt(os.mkdir, os.path.join(folder, "folder"))
    attempt(os.truncate, os.path.join(folder, "precious"), 0)
    attempt(os.unlink, os.path.join(folder, "precious"))
    attempt(os.rename, os.path.join(folder, "precious"), os.path.join(folder, "moved"))
attempt(put, "/proc/self/fd/0")
attempt(subprocess.run, ["/bin/sh", "-c", "true"])
told.append(dict(os.environ))
for place in ("/proc/%d/environ" % os.getppid(), "/proc/self/environ", "/etc/passwd"):
    try:
        with open(place) as file:
            told.append(file.read())
    except BaseException as error:
        told.append(type(error).__name__)
"""

# a root directory holds only those who stay inside: what chroot() may do again, it may undo
ESCAPE = """
import os
try:
    os.mkdir("inner")
    os.chroot("inner")
    for _ in range(50):
        os.chdir("..")
    os.chroot(".")
except BaseException as error:
    told.append(repr(error))
"""


@pytest.mark.parametrize("escape", ["", ESCAPE], ids=["plain", "out-of-chroot"])
def test_malicious_pickle_writes_nothing_and_sees_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, escape: str
) -> None:
    folders = [tmp_path / "working", tmp_path / "home", tmp_path / "files"]
    for folder in folders:
        folder.mkdir()
        (folder / "precious").write_text("precious")
    path = folders[2] / "weights.pkl"
    monkeypatch.chdir(folders[0])
    monkeypatch.setenv("HOME", str(folders[1]))
    monkeypatch.setenv("GSG_SECRET", "sesame")
    path.write_bytes(running(f"FOLDERS = {[str(folder) for folder in folders]}\n{escape}{ATTEMPTS}"))
    before = path.read_bytes()
    told = read(path, unsafe_pickle=True)["told"]
    found = {str(x.relative_to(tmp_path)) for x in tmp_path.rglob("*")}
    assert found == {"working", "home", "files", "files/weights.pkl"} | {f"{x.name}/precious" for x in folders}
    assert [(folder / "precious").read_text() for folder in folders] == ["precious"] * 3
    assert path.read_bytes() == before
    assert "sesame" not in str(told)
    assert "root:" not in str(told)  # nor any other file


def test_pickle_that_never_ends_is_stopped(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "UNPICKLE_TIMEOUT_S", 2)
    with at_most(30):
        refused(path, running("import time\ntime.sleep(100)"), r"unpickling took over 2 s", unsafe_pickle=True)


def children() -> list[int]:
    """Processes that unpickle, or that such a process has started."""
    found = []
    for process in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if process.name.isdigit() and b"unpickle.py" in (process / "cmdline").read_bytes():
                found.append(int(process.name))
    return found


def test_pickle_leaves_no_process_behind(path: Path) -> None:
    path.write_bytes(running("import os, time\nif not os.fork():\n    os.closerange(1, 64)\n    time.sleep(60)"))
    read(path, unsafe_pickle=True)
    deadline = time.monotonic() + 5  # the kernel ends them a moment later
    while (left := children()) and time.monotonic() < deadline:
        time.sleep(0.05)
    for process in left:
        os.kill(process, signal.SIGKILL)
    assert left == []


def test_child_that_dies_is_one_line(path: Path) -> None:
    code = "import os\nos.write(2, b'one\\ntwo\\n')\nos._exit(3)"
    refused(path, running(code), r"could not be unpickled \(.*\); install what it names", unsafe_pickle=True)


# --- what stands for objects, in this process ---


def unpickled(content: bytes) -> Any:
    return unpickle.plain(unpickle.Unpickler(io.BytesIO(content), encoding="latin1").load())


@pytest.fixture
def absent_module(monkeypatch: pytest.MonkeyPatch) -> Callable[[Any], bytes]:
    """Pickles objects of this module's classes under a module's name that nothing here has."""

    def dumps(content: Any) -> bytes:
        name = Holder.__module__.encode()
        absent = (b"absent_" * 20)[: len(name)]  # of the same length: it stands in the pickle
        return pickle.dumps(content, 4).replace(name, absent)

    return dumps


@pytest.mark.parametrize("value", [torch.ones(2), "text", 3, 0.5], ids=lambda x: type(x).__name__)
def test_placeholder_of_one_thing_becomes_that_thing(absent_module: Callable[[Any], bytes], value: Any) -> None:
    found = unpickled(absent_module({"x": Holder(value)}))["x"]
    assert_same(found, value) if isinstance(value, Tensor) else found == value
    assert type(found) is type(value)


def test_placeholder_becomes_what_it_was_made_of(absent_module: Callable[[Any], bytes]) -> None:
    content = {
        "net": Net({"w": torch.ones(2)}),
        "states": States({"a": 1}, {"b": 2}),
        "both": Holder([Holder({"c": 3})]),
    }
    found = unpickled(absent_module(content))
    assert_same(found["net"]["content"]["w"], torch.ones(2))
    assert found["states"] == [{"a": 1}, {"b": 2}]
    assert found["both"] in ({"c": 3}, [{"c": 3}])


def test_cycle_and_object_become_text() -> None:
    cycle: dict[str, Any] = {"a": 1}
    cycle["self"] = cycle
    assert unpickle.plain(cycle) == {"a": 1, "self": "a cycle"}
    assert unpickle.plain(time) == "an object of builtins.module"
