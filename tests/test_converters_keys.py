"""Key maps against real networks, and what must hold for any keys; packages of plug-ins."""

import re
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import nn

from converters.errors import InputError, printable
from converters.keys import (
    DETECTRON2,
    NAMED,
    NAMED_SHORTCUT,
    SEQUENTIAL,
    SEQUENTIAL_CIFAR,
    SEQUENTIAL_CIFAR_SHORTCUT,
    KeyMapError,
    Rule,
    rename,
    resnet_rules,
)
from converters.plugins import plugins

BLOCKS = {"resnet18": (2, 2, 2, 2), "resnet34": (3, 4, 6, 3), "resnet50": (3, 4, 6, 3), "resnet101": (3, 4, 23, 3)}
LEAVES = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")

every_depth = pytest.mark.parametrize("arch", BLOCKS)
always_the_same = settings(deadline=None, max_examples=150, derandomize=True, database=None)


def network(arch: str) -> Any:
    with torch.device("meta"):
        return getattr(torchvision.models, arch)()


def backbone_keys(arch: str) -> list[str]:
    return [key for key in network(arch).state_dict() if not key.startswith("fc.")]


def new_names(keys: Iterable[str], rules: Iterable[Rule], drop: Iterable[str] = ()) -> dict[str, str]:
    """Old name to new name, of what was not dropped."""
    return {old: new for new, old in rename(dict.fromkeys(keys), rules, drop).keys.items()}


def with_shortcut(keys: Iterable[str]) -> list[str]:
    return [key.replace(".downsample.", ".shortcut.") for key in keys]


@every_depth
def test_torchvisions_names_stay_as_they_are(arch: str) -> None:
    keys = backbone_keys(arch)
    assert new_names(keys, NAMED) == {key: key for key in keys}


@every_depth
def test_children_in_a_sequential_get_torchvisions_names(arch: str) -> None:
    net = network(arch)
    sequential = nn.Sequential(*net.children())
    of_tensor = {id(tensor): name for name, tensor in net.state_dict(keep_vars=True).items()}
    # the same tensors under both names, so that the names are compared by what they stand for
    expected = {
        key: of_tensor[id(tensor)]
        for key, tensor in sequential.state_dict(keep_vars=True).items()
        if not key.startswith("9.")
    }
    assert new_names(sequential.state_dict(), SEQUENTIAL, [r"9\..*"]) == expected
    assert sorted(expected.values()) == sorted(backbone_keys(arch))


@every_depth
def test_children_without_relu_and_pool_get_torchvisions_names(arch: str) -> None:
    net = network(arch)
    layers = [net.conv1, net.bn1, net.layer1, net.layer2, net.layer3, net.layer4]
    of_tensor = {id(tensor): name for name, tensor in net.state_dict(keep_vars=True).items()}
    state = nn.Sequential(*layers).state_dict(keep_vars=True)
    expected = {key: of_tensor[id(tensor)] for key, tensor in state.items()}
    assert new_names(state, SEQUENTIAL_CIFAR) == expected
    shortcut = dict(zip(with_shortcut(expected), expected.values(), strict=True))
    assert new_names(shortcut, SEQUENTIAL_CIFAR_SHORTCUT) == shortcut


@every_depth
def test_shortcut_is_called_downsample_here(arch: str) -> None:
    keys = backbone_keys(arch)
    assert new_names(with_shortcut(keys), NAMED_SHORTCUT) == dict(zip(with_shortcut(keys), keys, strict=True))


@pytest.mark.parametrize(
    ("rules", "key"),
    [
        (NAMED, "layer1.0.shortcut.0.weight"),
        (NAMED_SHORTCUT, "layer1.0.downsample.0.weight"),
        (SEQUENTIAL, "4.0.shortcut.0.weight"),
        (SEQUENTIAL_CIFAR, "2.0.shortcut.0.weight"),
        (SEQUENTIAL_CIFAR, "6.0.conv1.weight"),
        (SEQUENTIAL_CIFAR_SHORTCUT, "2.0.downsample.1.bias"),
        (DETECTRON2, "res2.0.downsample.0.weight"),
        (DETECTRON2, "res1.0.conv1.weight"),
        (DETECTRON2, "res6.0.conv1.weight"),
    ],
)
def test_names_of_another_way_to_write_the_network_are_unknown(rules: tuple[Rule, ...], key: str) -> None:
    with pytest.raises(KeyMapError, match=f"no rule for {re.escape(key)}"):
        rename({key: 0}, rules)


def detectron2_table(arch: str) -> dict[str, str]:
    """Detectron2's name to torchvision's, written out from its ResNet: per unit a convolution with its norm inside."""
    bottleneck = arch in ("resnet50", "resnet101")
    table = {}

    def unit(theirs: str, conv: str, norm: str) -> None:
        table[f"{theirs}.weight"] = f"{conv}.weight"
        for leaf in LEAVES:
            table[f"{theirs}.norm.{leaf}"] = f"{norm}.{leaf}"

    unit("stem.conv1", "conv1", "bn1")
    for stage, blocks in zip((2, 3, 4, 5), BLOCKS[arch], strict=True):
        for block in range(blocks):
            theirs, ours = f"res{stage}.{block}", f"layer{stage - 1}.{block}"
            for k in (1, 2, 3) if bottleneck else (1, 2):
                unit(f"{theirs}.conv{k}", f"{ours}.conv{k}", f"{ours}.bn{k}")
            if block == 0 and (bottleneck or stage > 2):
                unit(f"{theirs}.shortcut", f"{ours}.downsample.0", f"{ours}.downsample.1")
    return table


# counted in Detectron2's networks, frozen and trainable batch norm
@pytest.mark.parametrize(
    ("arch", "frozen", "trainable"),
    [("resnet18", 100, 120), ("resnet34", 180, 216), ("resnet50", 265, 318), ("resnet101", 520, 624)],
)
def test_detectron2s_names_and_torchvisions_are_one_to_one(arch: str, frozen: int, trainable: int) -> None:
    table = detectron2_table(arch)
    without_counters = {old: new for old, new in table.items() if not old.endswith("num_batches_tracked")}
    assert (len(without_counters), len(table)) == (frozen, trainable)
    assert new_names(table, DETECTRON2) == table
    assert new_names(without_counters, DETECTRON2) == without_counters
    assert sorted(table.values()) == sorted(backbone_keys(arch))


@pytest.mark.parametrize(
    "key",
    [
        "x.conv1.weight",
        "conv1.weight.x",
        "xconv1.weight",
        "conv1.weight\n",
        "conv1xweight",
        "module.conv1.weight",
        "layer1.0.conv1.weight.0",
        "layer1.0.conv4.weight",
        "layer1.0.conv1.bias",
        "layer5.0.conv1.weight",
        "layer1..conv1.weight",
        "layer1.-1.conv1.weight",
        "layer1.0.bn1.running_std",
        "layer1.0.downsample.2.weight",
        "bn1.0.weight",
        "Conv1.weight",
        "",
    ],
    ids=repr,
)
def test_key_that_only_looks_like_a_resnets_is_unknown(key: str) -> None:
    with pytest.raises(KeyMapError, match=r"no rule for") as refused:
        rename({key: 0}, NAMED)
    assert printable(key) in str(refused.value)
    assert refused.value.partial.values == {}


def test_prefix_is_not_found_inside_another_word() -> None:
    prefix = "module.encoder."
    rules = resnet_rules(f"{prefix}conv1", f"{prefix}bn1", [f"{prefix}layer{number}" for number in range(1, 5)])
    assert new_names(["module.encoder.conv1.weight"], rules) == {"module.encoder.conv1.weight": "conv1.weight"}
    for key in ("module.encoder_momentum.conv1.weight", "module_encoder.conv1.weight", "module.encoder.encoder.conv1"):
        with pytest.raises(KeyMapError, match=f"no rule for {re.escape(key)}"):
            rename({key: 0}, rules)


def near_misses() -> st.SearchStrategy[str]:
    real = st.sampled_from(backbone_keys("resnet18") + with_shortcut(backbone_keys("resnet18")))
    edited = st.builds(
        lambda key, place, text: key[: place % len(key)] + text + key[place % len(key) + 1 :],
        real, st.integers(0, 60), st.text(max_size=2),
    )  # fmt: skip
    prefixed = st.builds(lambda prefix, key: prefix + key, st.sampled_from(["module.", "x", ".", "0.", "fc."]), real)
    return st.one_of(st.text(max_size=12), real, edited, prefixed)


@always_the_same
@given(st.lists(near_misses(), unique=True, max_size=12), st.sampled_from([(), (r"fc\..*", r"x.*")]))
@example(["conv1.weight", "module.conv1.weight", "fc.bias", "other"], (r"fc\..*",))
def test_every_key_is_kept_or_dropped_or_named_in_the_error(keys: list[str], drop: tuple[str, ...]) -> None:
    rules = (*NAMED, *resnet_rules("module.conv1", "module.bn1", [f"module.layer{n}" for n in range(1, 5)]))
    state = {key: object() for key in keys}
    try:
        renamed, problem = rename(state, rules, drop), None
    except KeyMapError as error:
        renamed, problem = error.partial, str(error)
    left_over = set(keys) - set(renamed.keys.values()) - set(renamed.dropped)
    assert (problem is None) == (not left_over)
    if problem is not None and len(left_over) <= 4:
        assert all(printable(key) in problem for key in left_over)
    assert renamed.keys.keys() == renamed.values.keys()
    # one to one: no old key stands behind two names, none is both kept and dropped
    assert len(set(renamed.keys.values())) + len(set(renamed.dropped)) == len(renamed.keys) + len(renamed.dropped)
    assert not set(renamed.keys.values()) & set(renamed.dropped)
    assert all(renamed.values[new] is state[old] for new, old in renamed.keys.items())


def test_values_are_the_same_objects_in_the_files_order() -> None:
    state = {"bn1.bias": object(), "conv1.weight": object(), "fc.bias": object()}
    renamed = rename(state, NAMED, [r"fc\..*"])
    assert list(renamed.values.items()) == [(key, state[key]) for key in ("bn1.bias", "conv1.weight")]
    assert renamed.dropped == ("fc.bias",)


def test_two_keys_for_one_name_are_an_error_that_names_both() -> None:
    rules = (Rule("a", "x"), Rule("b", "x"))
    assert issubclass(KeyMapError, InputError)
    with pytest.raises(KeyMapError, match=r"^a and b both for x$") as refused:
        rename({"a": 1, "b": 2}, rules)
    assert refused.value.partial.values == {"x": 1}


def test_many_unknown_keys_are_one_short_line() -> None:
    keys = [f"head.{number}.weight" for number in range(1000)]
    with pytest.raises(KeyMapError, match=r"^no rule for head\.0\.weight, .*, and 996 more$") as refused:
        rename(dict.fromkeys(keys), NAMED)
    assert len(str(refused.value)) < 200


def test_unknown_and_doubled_keys_are_told_together() -> None:
    with pytest.raises(KeyMapError, match=r"^no rule for c, a and b both for x$"):
        rename(dict.fromkeys("abc"), [Rule("[ab]", "x")])


def test_first_rule_that_matches_counts() -> None:
    assert new_names(["a"], [Rule("a", "first"), Rule(".", "second")]) == {"a": "first"}
    assert new_names(["b"], [Rule("a", "first"), Rule(".", "second")]) == {"b": "second"}


def test_key_with_a_rule_is_kept_even_if_a_drop_rule_names_it() -> None:
    renamed = rename({"a": 1, "b": 2}, [Rule("a", "x")], [".*"])
    assert (renamed.values, renamed.dropped) == ({"x": 1}, ("b",))


def test_drop_rule_must_match_the_whole_key() -> None:
    with pytest.raises(KeyMapError, match=r"no rule for fc\.weight\.extra"):
        rename({"fc.weight.extra": 0, "fc.weight": 0}, [], [r"fc\.weight"])


def test_state_without_keys_is_renamed_to_nothing() -> None:
    renamed = rename({}, NAMED)
    assert (renamed.values, renamed.keys, renamed.dropped) == ({}, {}, ())


Package = tuple[Callable[[], list[str]], Callable[[str], Any]]


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Package:
    folder = tmp_path / "gsg_test_plugins"
    (folder / "with_folder").mkdir(parents=True)
    for name in ("__init__", "simsiam", "byol", "with_folder/__init__"):
        (folder / f"{name}.py").write_text(f"NAME = {name!r}\n")
    (folder / "broken.py").write_text("raise RuntimeError('imported')\n")
    (folder / "notes.txt").touch()
    monkeypatch.syspath_prepend(tmp_path)
    for name in [name for name in sys.modules if name.partition(".")[0] == "gsg_test_plugins"]:
        monkeypatch.delitem(sys.modules, name)
    return plugins("gsg_test_plugins", "method")


def test_plugins_are_the_packages_modules_sorted_and_not_imported(package: Package) -> None:
    names, _ = package
    assert names() == ["broken", "byol", "simsiam", "with_folder"]


def test_plugin_is_found_by_its_file_name(package: Package) -> None:
    _, find = package
    assert find("byol").NAME == "byol"
    assert find("with_folder").NAME == "with_folder/__init__"
    assert find("byol") is find("byol")
    with pytest.raises(RuntimeError, match=r"^imported$"):  # a plug-in's own mistake is not the user's
        find("broken")


@pytest.mark.parametrize("name", ["simsaim", "sim_siam", "simsiam.py"])
def test_unknown_plugin_suggests_the_closest(package: Package, name: str) -> None:
    _, find = package
    with pytest.raises(InputError) as refused:
        find(name)
    assert str(refused.value) == (
        f"unknown method '{name}'; did you mean 'simsiam'? choose from: broken, byol, simsiam, with_folder"
    )


@pytest.mark.parametrize("name", ["", ".", "__init__", "os", "..sys", "with_folder.x", "notes"])
def test_name_that_is_no_plugin_is_refused(package: Package, name: str) -> None:
    _, find = package
    with pytest.raises(InputError, match=r"^unknown method .*choose from: broken, byol, simsiam, with_folder$"):
        find(name)


@pytest.mark.parametrize("module", ["converters.sources", "pretrain.objectives"])
def test_packages_of_this_project_have_plugins(module: str) -> None:
    names, find = plugins(module, "plug-in")
    assert names()
    assert find(names()[0]).__name__ == f"{module}.{names()[0]}"
