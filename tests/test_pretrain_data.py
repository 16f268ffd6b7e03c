import os
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from converters.errors import InputError
from converters.folder import Folder, open_folder
from converters.images import load_images
from pretrain.config import DataConfig, ViewConfig
from pretrain.data import Loader, Pool, open_source

CPU = torch.device("cpu")
VIEWS = ViewConfig(size=16)
# views that show which image they are of: one grey level each
MARKED = ViewConfig(size=8, jitter_p=0.0, mean=(0.0, 0.0, 0.0), std=(1 / 255,) * 3)


@pytest.fixture(autouse=True)
def caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The listings of these tests are remembered in a folder of their own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    return tmp_path / "caches" / "gsg-transfer"


def _pool(num: int = 40) -> Pool:
    return Pool(torch.randint(256, (num, 3, 20, 20), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)))


def _marked_pool(num: int) -> Pool:
    return Pool(torch.arange(num, dtype=torch.uint8).view(num, 1, 1, 1).expand(num, 3, 10, 10))


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty JPEGs of the sample's pictures in two class folders, one beside them."""
    root = tmp_path_factory.mktemp("photographs")
    tiles = load_images("sample", "train").images[:84].permute(0, 2, 3, 1).numpy()
    for folder in ("apple", "pear"):
        (root / folder).mkdir()
    for index in range(21):
        folder = "" if index == 20 else ("apple", "pear")[index % 2]
        picture = np.concatenate(tiles[4 * index : 4 * index + 4], axis=1)
        Image.fromarray(picture).resize((100 + index, 75)).save(root / folder / f"{index:02d}.jpg", quality=90)
    return root


def _loader(
    source: Pool | Folder,
    batch_size: int = 8,
    num_views: int = 2,
    views: ViewConfig = VIEWS,
    seed: int = 3,
    rank: int = 0,
    world_size: int = 1,
) -> Loader:
    return Loader(source, views, num_views, batch_size, seed=seed, rank=rank, world_size=world_size, device=CPU)


def _together(batches: Iterator[list[Tensor]]) -> Tensor:
    """(batches, views, images, 3, size, size)."""
    return torch.stack([torch.stack(views) for views in batches])


def _remember_now(root: Path) -> None:
    """Make the folders look as if nothing had changed in them for a while."""
    for folder in (root, *(path for path in root.rglob("*") if path.is_dir())):
        os.utime(folder, (1e9, 1e9))


@pytest.fixture(params=["pool", "folder"])
def source(request: pytest.FixtureRequest, photographs: Path) -> Pool | Folder:
    return _pool(21) if request.param == "pool" else open_folder(photographs)


def test_batches_have_the_stated_form(source: Pool | Folder) -> None:
    loader = _loader(source, num_views=4)
    batches = list(loader.epoch(0))
    assert len(batches) == len(loader) == 2
    for views in batches:
        assert [(view.shape, view.dtype) for view in views] == [((8, 3, 16, 16), torch.float32)] * 4


def test_views_of_an_image_differ_and_so_do_epochs_and_seeds(source: Pool | Folder) -> None:
    first = _together(_loader(source).epoch(0))
    assert not torch.equal(first[:, 0], first[:, 1])
    assert not torch.equal(first, _together(_loader(source).epoch(1)))
    assert not torch.equal(first, _together(_loader(source, seed=4).epoch(0)))
    assert torch.equal(first, _together(_loader(source).epoch(0)))


def test_an_image_has_other_views_in_each_epoch(tmp_path: Path) -> None:
    root = tmp_path / "images"
    root.mkdir()
    Image.effect_noise((40, 40), 60).save(root / "alone.png")
    for source in (open_folder(root), Pool(_pool().images[:1])):
        loader = _loader(source, batch_size=1)
        assert not torch.equal(_together(loader.epoch(0)), _together(loader.epoch(1)))


def test_epoch_begun_in_the_middle_equals_the_rest_of_the_unbroken_one(source: Pool | Folder) -> None:
    whole = _together(_loader(source, batch_size=4).epoch(2))
    assert torch.equal(whole[3:], _together(_loader(source, batch_size=4).epoch(2, start=3)))


@pytest.mark.parametrize("world_size", [2, 4])
def test_processes_together_see_the_views_of_one(world_size: int, source: Pool | Folder) -> None:
    alone = _together(_loader(source).epoch(1))
    parts = [_together(_loader(source, rank=rank, world_size=world_size).epoch(1)) for rank in range(world_size)]
    # a product of matrices may round differently in a batch of another size
    torch.testing.assert_close(torch.cat(parts, dim=2), alone, atol=1e-5, rtol=0)


def test_epoch_shows_each_image_at_most_once_and_drops_others_each_time() -> None:
    loader = _loader(_marked_pool(50), batch_size=16, num_views=2, views=MARKED)
    orders = []
    for epoch in range(2):
        shown = _together(loader.epoch(epoch))[..., 0, 0, 0].round().int()
        assert torch.equal(shown[:, 0], shown[:, 1])  # both views are of the same image
        orders.append(shown[:, 0].flatten().tolist())
        assert len(set(orders[-1])) == 48
    assert set(orders[0]) != set(orders[1])


def test_loading_leaves_the_global_generator_alone(source: Pool | Folder) -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    list(_loader(source).epoch(0))
    assert torch.equal(torch.get_rng_state(), before)


def test_gray_images_are_not_copied_three_times() -> None:
    moved = _marked_pool(5).to(torch.device("meta"))
    assert moved.images.shape == (5, 3, 10, 10)
    assert moved.images.stride(1) == 0


def test_views_in_memory_are_made_without_waiting_for_the_device() -> None:
    """A tensor without data cannot tell its values, and refuses to meet one of another device."""
    (view,) = next(Loader(_pool(), VIEWS, 1, 8, seed=0, device=torch.device("meta")).epoch(0))
    assert view.device.type == "meta"
    assert view.shape == (8, 3, 16, 16)


def test_batch_larger_than_the_data_is_refused() -> None:
    with pytest.raises(InputError, match="expected a batch of at most the 40 images there are, got 41"):
        _loader(_pool(40), batch_size=41)


def test_batch_that_cannot_be_divided_is_refused() -> None:
    with pytest.raises(InputError, match="batch_size 9 is not a multiple of the 2 processes"):
        _loader(_pool(40), batch_size=9, world_size=2)


def test_sample_is_a_pool() -> None:
    source = open_source(DataConfig("sample"))
    assert isinstance(source, Pool)
    assert torch.equal(source.images, load_images("sample", "train").images)


def test_unknown_source_is_refused_with_a_suggestion() -> None:
    with pytest.raises(
        InputError, match=r"unknown data.source 'cifar'; did you mean 'cifar10'\? choose from: .*folder"
    ):
        open_source(DataConfig("cifar"))


def test_folder_source_without_a_root_is_refused() -> None:
    with pytest.raises(InputError, match=r"data.source=folder needs data.root"):
        open_source(DataConfig("folder"))


def test_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"image folder .*nowhere not found; set data.root"):
        open_source(DataConfig("folder", str(tmp_path / "nowhere")))


def test_folder_without_images_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / ".hidden.jpg").write_text("what some systems leave beside an image")
    with pytest.raises(InputError, match=r"no images in .*; expected files that end in \.jpg"):
        open_source(DataConfig("folder", str(tmp_path)))


def test_folder_lists_images_at_any_depth_in_order(tmp_path: Path) -> None:
    root = tmp_path / "images"
    names = ["B.JPEG", "a.png", "b/c/d.webp", "b/x.jpg", "ä.jpg"]
    for name in [*names, "b/readme.txt", "b/.DS_Store", ".thumbnails/t.jpg"]:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    folder = open_folder(root)
    assert [folder.path(index) for index in range(len(folder))] == [root / name for name in names]


def test_link_to_a_folder_above_does_not_repeat_images(tmp_path: Path) -> None:
    root = tmp_path / "images"
    (root / "b").mkdir(parents=True)
    (root / "b" / "x.jpg").touch()
    (root / "b" / "up").symlink_to(root)
    assert len(open_folder(root)) == 1


def _with_one_image(root: Path) -> Path:
    (root / "b").mkdir(parents=True)
    (root / "b" / "x.jpg").touch()
    _remember_now(root)
    return root


def test_folder_is_listed_once_and_again_only_after_a_change(tmp_path: Path) -> None:
    root = _with_one_image(tmp_path / "images")
    assert len(open_folder(root)) == 1
    (root / "b" / "y.jpg").touch()
    changed = (root / "b").stat().st_mtime_ns
    _remember_now(root)  # hides the change: whoever sees it has listed the folder again
    assert len(open_folder(root)) == 1
    os.utime(root / "b", ns=(changed, changed))
    assert len(open_folder(root)) == 2
    (root / "b" / "x.jpg").unlink()
    assert open_folder(root).path(0) == root / "b" / "y.jpg"


def test_folder_that_is_just_being_filled_is_not_remembered(tmp_path: Path, caches: Path) -> None:
    root = _with_one_image(tmp_path / "images")
    (root / "b" / "y.jpg").touch()
    open_folder(root)
    assert not caches.exists()


def test_damaged_listing_is_made_anew(tmp_path: Path, caches: Path) -> None:
    root = _with_one_image(tmp_path / "images")
    open_folder(root)
    (listing,) = caches.iterdir()
    listing.write_bytes(listing.read_bytes()[:-30])
    assert len(open_folder(root)) == 1
    assert len(open_folder(root)) == 1


def test_cache_that_cannot_be_written_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert len(open_folder(_with_one_image(tmp_path / "images"))) == 1


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_give_what_the_process_itself_gives(workers: int, photographs: Path) -> None:
    alone = _loader(open_folder(photographs))
    helped = _loader(open_folder(photographs, workers))
    for epoch in range(2):  # the second epoch is of the same workers
        assert torch.equal(_together(helped.epoch(epoch)), _together(alone.epoch(epoch)))


def test_workers_forget_an_epoch_that_was_left_early(photographs: Path) -> None:
    loader = _loader(open_folder(photographs, 1), batch_size=4)
    left = list(islice(loader.epoch(0), 1))
    expected = _loader(open_folder(photographs), batch_size=4)
    assert torch.equal(_together(iter(left)), _together(expected.epoch(0))[:1])
    assert torch.equal(_together(loader.epoch(1)), _together(expected.epoch(1)))


def test_flat_folder_and_class_folders_are_the_same_source(tmp_path: Path, photographs: Path) -> None:
    flat = tmp_path / "flat"
    flat.mkdir()
    source = open_folder(photographs)
    for index in range(len(source)):
        (flat / f"{index:02d}.jpg").write_bytes(source.path(index).read_bytes())
    assert torch.equal(_together(_loader(open_folder(flat)).epoch(0)), _together(_loader(source).epoch(0)))


@pytest.fixture
def damaged(tmp_path: Path) -> Path:
    """Twelve images that are recognised by their grey level, three of them damaged, two of these in a row."""
    root = tmp_path / "images"
    root.mkdir()
    for index in range(12):
        Image.new("RGB", (12, 12), (20 * index,) * 3).save(root / f"{index:02d}.png")
    for index in (3, 4, 11):
        path = root / f"{index:02d}.png"
        path.write_bytes(path.read_bytes()[:40])
    return root


@pytest.mark.parametrize("workers", [0, 2])
def test_image_that_cannot_be_decoded_stops_and_is_named_in_one_line(workers: int, damaged: Path) -> None:
    with pytest.raises(InputError, match=r"cannot decode the image .*(03|04|11)\.png; remove it") as caught:
        list(_loader(open_folder(damaged, workers), batch_size=12, views=MARKED).epoch(0))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("workers", [0, 2])
def test_skipped_images_are_counted_and_replaced_by_the_next_ones(workers: int, damaged: Path) -> None:
    loader = _loader(open_folder(damaged, workers, skip_corrupt=True), batch_size=4, views=MARKED)
    for epoch in range(2):
        shown = _together(loader.epoch(epoch))[..., 0, 0, 0].round().int()
        assert sorted((shown[:, 0] // 20).flatten().tolist()) == [0, 0, 1, 2, 5, 5, 5, 6, 7, 8, 9, 10]
        assert torch.equal(shown[:, 0], shown[:, 1])
        assert loader.num_skipped == 3


def test_replacement_has_views_of_its_own(tmp_path: Path) -> None:
    root = tmp_path / "images"
    root.mkdir()
    (root / "a.png").touch()
    Image.effect_noise((40, 40), 60).save(root / "b.png")
    replaced, original = _together(_loader(open_folder(root, skip_corrupt=True), batch_size=2).epoch(0))[0, 0]
    assert not torch.equal(replaced, original)


def test_folder_without_one_image_that_can_be_decoded_is_refused(tmp_path: Path) -> None:
    root = tmp_path / "images"
    root.mkdir()
    for index in range(3):
        (root / f"{index}.jpg").touch()
    with pytest.raises(InputError, match=r"no image in .* can be decoded"):
        list(_loader(open_folder(root, skip_corrupt=True), batch_size=2).epoch(0))


def test_pool_and_folder_of_the_same_pictures_look_alike(photographs: Path) -> None:
    """The values of both sources are normalised alike: their mean and deviation agree."""
    pictures = [np.asarray(Image.open(path).resize((100, 75))) for path in sorted(photographs.rglob("*.jpg"))]
    pool = Pool(torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2))
    drawn = []
    for source in (pool, open_folder(photographs)):
        loader = _loader(source, batch_size=21, num_views=8)
        drawn.append(torch.cat([_together(loader.epoch(epoch)) for epoch in range(2)]))
    for statistic in (torch.mean, torch.std):
        in_memory, streamed = (statistic(views, dim=(0, 1, 2, 4, 5)) for views in drawn)
        torch.testing.assert_close(in_memory, streamed, atol=0.1, rtol=0)
