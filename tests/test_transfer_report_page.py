"""The page as a parser and a browser see it, and the figures: drawn where there are records, else said why not."""

import base64
import html
import io
import re
import shutil
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from tests.test_transfer_report import call, measured, predicted, pretrained, rows_in, store
from transfer.logistic import WEIGHT_DECAYS
from transfer.report_curves import read_curves
from transfer.report_drawing import COLUMN, Drawn
from transfer.report_figures import draw_figures
from transfer.segmentation_metrics import Confusions, confusion
from transfer.segmentation_pictures import Shown

HOSTILE = """<script>alert("1")</script><img src=x onerror='alert(2)'>&amp;&"'{{ 7 * 6 }}</td></table>"""
LONG = "unbroken" * 40
VOID = {"meta", "img", "br", "link", "input", "hr"}
FIGURES = (
    "figure-4",
    "figure-5",
    "figure-6",
    "figure-7",
    "figure-path",
    "figure-collapse",
    "figure-gradients",
    "figure-ranks",
)
NUM_IMAGES = 40
BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


# Everything that a report can show.


def linear(folder: Path, methods: Sequence[str] = ("simsiam", "simsiam-guided"), *, features: bool = True) -> Path:
    """Logistic regression of some methods on two data sets, with predictions, the path, and features if wanted."""
    draw = np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    labels = np.arange(NUM_IMAGES) % 4
    for dataset in ("sample", "digits"):
        for index, method in enumerate(methods):
            file = f"{dataset}-{index}.npy"
            np.save(folder / file, draw.normal(size=(NUM_IMAGES, 8)).astype(np.float32) + labels[:, None])
            answers = np.where(draw.random(NUM_IMAGES) < 0.6, labels, (labels + 1) % 4)
            scores = np.linspace(0.3, 0.6, len(WEIGHT_DECAYS)).tolist()
            details = {"validation_scores": scores, "weight_decay": 0.1, "features": file if features else None}
            changes = {"method": method, "dataset": dataset, "num_examples": NUM_IMAGES, "details": details}
            predicted(folder, {"labels": labels, "predicted": answers}, float(np.mean(labels == answers)), **changes)
    return folder


def segmentation(folder: Path) -> Path:
    """What a segmentation run leaves of two pictures."""
    (folder / "predictions").mkdir(parents=True)
    draw, names, maps = np.random.default_rng(1), ("one", "two"), []
    for name in names:
        truth, answer = draw.integers(1, 4, size=(2, 24, 32), dtype=np.uint8)
        Image.fromarray(draw.integers(255, size=(24, 32, 3), dtype=np.uint8)).save(folder / f"{name}.jpg")
        Image.fromarray(truth).save(folder / f"{name}.png")
        Image.fromarray(answer).save(folder / "predictions" / f"{name}.png")
        maps.append(confusion(truth - 1, answer - 1, 3))
    files = {kind: tuple(str(folder / f"{name}.{kind}") for name in names) for kind in ("jpg", "png")}
    palette = ((255, 0, 0), (0, 255, 0), (0, 0, 255))
    Shown(names, files["jpg"], files["png"], ("sky", "sea", "land"), palette).write(folder / "shown.json")
    confusions = Confusions.of(maps, names, 3)
    confusions.save(folder / "confusions.npz")
    changes: dict[str, Any] = {"task": "segmentation", "metric": "mIoU", "num_examples": 2}
    return store(folder, [measured(confusions.values()["mIoU"], {"confusions": "confusions.npz"}, **changes)])


def everything(folder: Path) -> Path:
    """Runs with records for every figure."""
    linear(folder / "linear")
    segmentation(folder / "segmentation")
    for seed in range(2):
        pretrained(folder / f"symmetric {seed}", seed=seed)
        pretrained(folder / f"guided {seed}", seed=seed, method="guided")
    pretrained(folder / "without", objective={"name": "simsiam", "guidance": "guided", "predictor": False})
    return folder


def drawn(folder: Path, scratch: Path) -> tuple[dict[str, Drawn], list[str]]:
    figures, absent = draw_figures(rows_in(folder), read_curves([folder])[0], scratch)
    return {each.name: each for each in figures}, absent


@dataclass
class Seen(HTMLParser):
    """What a page consists of; a tag that is closed in the wrong place is an error."""

    tags: list[tuple[str, dict[str, str | None]]] = field(default_factory=list)
    stack: list[str] = field(default_factory=list)
    text: str = ""
    style: str = ""

    def __post_init__(self) -> None:
        super().__init__(convert_charrefs=True)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len({name for name, _ in attrs}) == len(attrs)
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.stack.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.stack
        assert self.stack.pop() == tag, self.getpos()

    def handle_data(self, data: str) -> None:
        if self.stack and self.stack[-1] == "style":
            self.style += data
        else:
            self.text += data


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report of all figures and tables, with text that is made to break out of its place, and long names."""
    runs, output = everything(tmp_path_factory.mktemp("runs")), tmp_path_factory.mktemp("out") / "report"
    lines = [
        measured(0.5, {"command": HOSTILE, "origin": HOSTILE, "machine": {"device": HOSTILE}}, dataset=HOSTILE),
        measured(0.5, {"file": HOSTILE}, method=HOSTILE, protocol=HOSTILE, settings={"name": HOSTILE}),
        measured(0.5, {"command": LONG, "file": LONG}, method=LONG, dataset=LONG, protocol=LONG),
        *(measured(0.5, dataset=f"set {index}", versions={HOSTILE: "1", LONG: LONG}) for index in range(12)),
    ]
    store(runs / "hostile", lines)
    with (runs / "hostile" / "results.jsonl").open("a") as file:
        file.write(f"{HOSTILE}\n{LONG}\n")
    with pytest.MonkeyPatch.context() as monkeypatch:
        arguments = [runs, "--compare", "simsiam, resnet18", "guided", "--output", output]
        assert call(monkeypatch, *arguments) == 0
    return output


@pytest.fixture(scope="module")
def page(folder: Path) -> str:
    return (folder / "report.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def seen(page: str) -> Seen:
    parser = Seen()
    parser.feed(page)
    parser.close()
    return parser


# Figures.


def test_every_figure_is_drawn_where_there_are_records(folder: Path, seen: Seen) -> None:
    captions = {attributes.get("id") for tag, attributes in seen.tags if tag == "figure"}
    assert captions == set(FIGURES)
    assert {path.stem for path in folder.glob("figure-*")} == set(FIGURES)
    assert "Not drawn" not in seen.text


@pytest.mark.parametrize("name", FIGURES)
def test_figures_are_real_files_at_least_as_wide_as_a_column(name: str, folder: Path) -> None:
    pdf = (folder / f"{name}.pdf").read_bytes()
    box = re.search(rb"/MediaBox \[ ?([\d.]+) ([\d.]+) ([\d.]+) ([\d.]+)", pdf)
    assert pdf.startswith(b"%PDF-")
    assert b"%%EOF" in pdf[-8:]
    assert box is not None
    assert float(box[3]) - float(box[1]) >= 72 * COLUMN - 1  # points
    with Image.open(folder / f"{name}.png") as image:
        assert image.format == "PNG"
        assert image.width >= 200 * COLUMN - 1  # 200 dots per inch
        assert len(np.unique(np.asarray(image.convert("L")))) > 10


def test_figures_without_records_say_why_in_one_line_each(tmp_path: Path) -> None:
    found, absent = drawn(store(tmp_path, [measured(0.5, task="knn")]), tmp_path)
    assert not found
    assert len(absent) == len(FIGURES)
    assert len(set(absent)) == len(FIGURES)
    assert all(len(each) > 40 and "\n" not in each for each in absent)


def test_curves_without_predictor_have_a_figure_of_their_own(tmp_path: Path) -> None:
    store(tmp_path, [measured(0.5)])
    pretrained(tmp_path / "run", objective={"name": "simsiam", "guidance": "guided", "predictor": False})
    found, absent = drawn(tmp_path, tmp_path)
    assert "figure-5" in found
    assert "figure-4" not in found
    assert any("Figure 4" in each for each in absent)


def test_methods_beyond_what_a_panel_can_hold_are_counted(tmp_path: Path) -> None:
    linear(tmp_path / "linear", [f"method{index}" for index in range(10)], features=False)
    for index in range(10):
        pretrained(tmp_path / f"run {index}", method=f"mode{index}")
    found, _ = drawn(tmp_path, tmp_path)
    for name in ("figure-4", "figure-path", "figure-collapse", "figure-gradients"):
        assert re.search(r"\b8\b.*\b10\b", found[name].caption), name


def test_methods_left_out_of_the_ranks_are_said(tmp_path: Path) -> None:
    lines = [measured(0.5, method=method, dataset=name) for method in ("simsiam", "byol", "moco") for name in "xyz"]
    found, _ = drawn(store(tmp_path, lines[:-1]), tmp_path)
    assert "moco" in found["figure-ranks"].caption or re.search(r"\b1\b.*left out", found["figure-ranks"].caption)


def test_embedding_says_how_many_images_it_shows(seen: Seen) -> None:
    assert re.search(rf"Figure 6: [^(]*\b{NUM_IMAGES} images", seen.text)


Array = npt.NDArray[Any]
# of the features: what an interrupted, a foreign or a collapsed run leaves
FEATURES: dict[str, Array | bytes | None] = {
    "missing": None,
    "truncated": b"\x93NUMPY\x01\x00v\x00{'descr'",
    "no array": b"hello",
    "of fewer images": np.ones((NUM_IMAGES - 5, 8), np.float32),
    "not finite": np.full((NUM_IMAGES, 8), np.nan, np.float32),
    "collapsed": np.ones((NUM_IMAGES, 8), np.float32),
    "of one dimension": np.ones((NUM_IMAGES, 1), np.float32),
}


def embedded(folder: Path, num_images: int) -> Path:
    """Logistic regression of one method with the features of a few images."""
    labels = np.arange(num_images) % 4
    changes = {"num_examples": num_images, "details": {"features": "features.npy"}}
    predicted(folder, {"labels": labels, "predicted": labels}, 1.0, **changes)
    np.save(folder / "features.npy", np.random.default_rng(0).normal(size=(num_images, 8)).astype(np.float32))
    return folder


def told(folder: Path) -> bool:
    """Whether there is an embedding, or a line that says why not, and no other figure is missed for it."""
    found, absent = drawn(folder, folder)
    assert len(found) + len(absent) == len(FIGURES)
    return "figure-6" in found or any("Figure 6" in each and "\n" not in each for each in absent)


@pytest.mark.parametrize("kind", list(FEATURES))
def test_features_that_cannot_be_shown_cost_at_most_their_figure(kind: str, tmp_path: Path) -> None:
    spoiled, path = FEATURES[kind], embedded(tmp_path, NUM_IMAGES) / "features.npy"
    path.unlink()
    if isinstance(spoiled, bytes):
        path.write_bytes(spoiled)
    elif spoiled is not None:
        np.save(path, spoiled)
    assert told(tmp_path)


@pytest.mark.parametrize("num_images", [1, 2, 3])
def test_few_images_cost_at_most_the_embedding(num_images: int, tmp_path: Path) -> None:
    assert told(embedded(tmp_path, num_images))


@pytest.mark.parametrize("spoil", [Path.unlink, lambda path: path.write_bytes(b"PK\x03\x04")])
def test_missing_or_damaged_predictions_cost_the_embedding_alone(
    spoil: Callable[[Path], object], tmp_path: Path
) -> None:
    for path in (embedded(tmp_path, NUM_IMAGES) / "predictions").iterdir():
        spoil(path)
    assert told(tmp_path)


@pytest.mark.parametrize("name", ["shown.json", "one.jpg", "one.png", "predictions/one.png"])
def test_a_damaged_picture_costs_its_figure_alone(name: str, tmp_path: Path) -> None:
    (segmentation(tmp_path) / name).write_bytes(b"damaged")
    found, absent = drawn(tmp_path, tmp_path)
    assert not found
    assert len(absent) == len(FIGURES)
    assert any("Figure 7" in each and "\n" not in each for each in absent)


def test_text_from_files_is_no_formula_in_a_figure(tmp_path: Path) -> None:
    linear(tmp_path / "linear", ["$\\frac{$ and _x^", "$a$"])
    segmentation(tmp_path / "segmentation")
    pretrained(tmp_path / "run", method="$\\frac{$", arch="$\\nonsense$")
    assert not {"figure-4", "figure-path", "figure-6"} - set(drawn(tmp_path, tmp_path)[0])


# The page, parsed.


def test_tags_of_the_page_are_balanced(page: str, seen: Seen) -> None:
    assert page.startswith("<!DOCTYPE html>")
    assert not seen.stack
    counts = [sum(tag == name for tag, _ in seen.tags) for name in ("html", "head", "title", "body", "h1")]
    assert counts == [1] * 5


def test_page_refers_to_nothing_but_itself(seen: Seen) -> None:
    ids = [attributes["id"] for _, attributes in seen.tags if "id" in attributes]
    assert len(set(ids)) == len(ids)
    for tag, attributes in seen.tags:
        assert tag not in {"script", "link", "iframe", "object", "embed", "base", "form", "video", "audio", "svg"}
        assert not any(name.startswith("on") or name in ("srcset", "style", "background") for name in attributes)
        if "href" in attributes:
            assert attributes["href"] in [f"#{each}" for each in ids]
        if "src" in attributes:
            assert tag == "img"
            assert (attributes["src"] or "").startswith("data:image/png;base64,")
        assert attributes.get("http-equiv") is None
    assert not re.search(r"url\(|@import|https?:|//", seen.style)


def test_pictures_of_the_page_are_whole_and_described(seen: Seen) -> None:
    pictures = [attributes for tag, attributes in seen.tags if tag == "img"]
    assert len(pictures) == len(FIGURES)
    for attributes in pictures:
        source = attributes["src"] or ""
        with Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2], validate=True))) as image:
            image.load()
        assert attributes["alt"]


def test_text_from_files_is_escaped(page: str, seen: Seen) -> None:
    assert HOSTILE not in page
    assert seen.text.count(HOSTILE) >= 6
    assert "<script" not in page.lower()
    assert not re.search(r"<img(?! alt=)", page)
    assert "7 * 6" in seen.text


def test_page_suits_phones_and_dark_and_light_screens(seen: Seen) -> None:
    named = {attributes["name"]: attributes["content"] for tag, attributes in seen.tags if attributes.get("name")}
    assert "width=device-width" in (named["viewport"] or "")
    assert "initial-scale=1" in (named["viewport"] or "")
    assert {"light", "dark"} <= set((named["color-scheme"] or "").split())
    light, _, dark = seen.style.partition("prefers-color-scheme: dark")
    assert dark
    defined = [set(re.findall(r"(--\w+):", part)) for part in (light, dark)]
    assert defined[0] == defined[1]  # no colour of the light page is left over in the dark one
    assert set(re.findall(r"var\((--\w+)\)", seen.style)) <= defined[0]


def test_page_says_what_every_table_says(seen: Seen) -> None:
    for text in ("Linear transfer", "Detection and segmentation", "Published numbers", "Provenance", "could have been"):
        assert text in seen.text


# The page in a browser.

_REPORTS = """
<script>
for (const each of document.querySelectorAll("details")) each.open = true;
addEventListener("load", () => {
  const root = document.documentElement;
  const broken = [...document.images].filter(each => !each.complete || !each.naturalWidth).length;
  const paper = getComputedStyle(document.body).backgroundColor;
  const wide = Math.max(root.scrollWidth, document.body.scrollWidth);
  parent.postMessage([root.clientWidth, wide, broken, document.images.length, paper].join(";"), "*");
});
</script>
"""
# whatever is asked of the network, or of another file, is refused and told on the console
_POLICY = (
    '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; img-src data:; '
    "style-src 'unsafe-inline'; script-src 'unsafe-inline'\">"
)
_WRAPPER = """<!DOCTYPE html><html><body><ul id="said"></ul><script>
addEventListener("message", event => said.appendChild(document.createElement("li")).textContent = event.data);
</script>
<iframe src="page.html" width="1300" height="900"></iframe><iframe src="page.html" width="360" height="800"></iframe>
</body></html>"""


def browsed(folder: Path, page: str, *flags: str) -> tuple[list[list[str]], str]:
    """What the page in a wide and in a narrow frame says of itself, and what the browser's log says."""
    assert BROWSER is not None
    (folder / "page.html").write_text(page.replace("<head>", f"<head>{_POLICY}{_REPORTS}", 1), encoding="utf-8")
    (folder / "wrapper.html").write_text(_WRAPPER, encoding="utf-8")
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--hide-scrollbars"]
    command += [f"--user-data-dir={folder / 'profile'}", "--virtual-time-budget=20000", *flags, "--dump-dom"]
    ended = subprocess.run(
        [*command, (folder / "wrapper.html").as_uri()],
        capture_output=True,
        text=True,
        check=True,
        timeout=100,
    )
    said = re.findall(r"<li>(.*?)</li>", ended.stdout)
    return [html.unescape(each).split(";") for each in said], ended.stderr


@pytest.mark.skipif(BROWSER is None, reason="neither chromium nor google-chrome is installed")
def test_browser_shows_the_page_wide_and_narrow_without_overflow_errors_or_requests(page: str, tmp_path: Path) -> None:
    said, log = browsed(tmp_path, page)
    assert sorted(int(each[0]) for each in said) == [360, 1300]
    for width, wide, broken, pictures, _ in said:
        assert int(wide) <= int(width)
        assert int(broken) == 0
        assert int(pictures) == len(FIGURES)
    assert "CONSOLE" not in log


@pytest.mark.skipif(BROWSER is None, reason="neither chromium nor google-chrome is installed")
def test_browser_that_prefers_dark_shows_a_dark_page(page: str, tmp_path: Path) -> None:
    papers = []
    for scheme in (0, 1):  # of Blink's mojom::PreferredColorScheme: dark, light
        (tmp_path / str(scheme)).mkdir()
        said, _ = browsed(tmp_path / str(scheme), page, f"--blink-settings=preferredColorScheme={scheme}")
        papers.append([int(each) for each in re.findall(r"\d+", said[0][-1])[:3]])
    assert max(papers[0]) < 64
    assert min(papers[1]) > 192
