"""The figures of a report, from the logs of pretraining, the result lines, and the files that these name."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator
from sklearn.manifold import TSNE

from converters.errors import InputError, printable
from transfer.archives import read_archive
from transfer.logistic import WEIGHT_DECAYS
from transfer.report_curves import Curves
from transfer.report_drawing import (
    COLOURS,
    MARKERS,
    STYLE,
    Drawn,
    legend_of,
    look_of,
    panels_of,
    plain,
    saved,
    with_left_out,
)
from transfer.report_ranks import draw_ranks
from transfer.report_rows import Column, Row
from transfer.segmentation_files import PREDICTIONS, SHOWN
from transfer.segmentation_pictures import Shown, draw_segmentations

_MOST_LINES = 8  # in a panel
_MOST_PANELS = 6
_TSNE_IMAGES, _TSNE_CLASSES, _TSNE_PANELS = 500, 10, 4
_MOST_SEGMENTORS, _MOST_SCENES = 3, 5


def draw_figures(rows: Sequence[Row], curves: Sequence[Curves], scratch: Path) -> tuple[list[Drawn], list[str]]:
    """All figures that there are records for, and a sentence for each of the others.

    Args:
        rows: methods with their numbers.
        curves: of pretraining runs.
        scratch: a folder for files that do not last.
    """
    drawn, absent = list[Drawn](), list[str]()
    makers: tuple[Callable[[], Drawn | str], ...] = (
        lambda: _accuracy(curves, predictor=True),
        lambda: _accuracy(curves, predictor=False),
        lambda: _embedding(rows),
        lambda: _scenes(rows, scratch),
        lambda: _paths(rows),
        lambda: _collapse(curves),
        lambda: _gradients(curves),
        lambda: draw_ranks(rows),
    )
    for make in makers:
        try:
            with mpl.rc_context(STYLE):
                result = make()
        except InputError as error:  # a file that a line names is gone or damaged: the tables do not need it
            result = f"Left out: {printable(str(error))}."
        if isinstance(result, Drawn):
            drawn.append(result)
        else:
            absent.append(result)
    return drawn, absent


# --- pretraining ---


def _accuracy(curves: Sequence[Curves], *, predictor: bool) -> Drawn | str:
    """k-NN accuracy by epoch, a line for each method, as Figures 4 and 5 of the GSG paper."""
    name, what = ("figure-4", "Figure 4") if predictor else ("figure-5", "Figure 5")
    title = f"{what}: k-NN accuracy by epoch{'' if predictor else ', without predictor'}"
    chosen = [each for each in curves if each.left_out_predictor != predictor and each.points("knn", "epoch")]
    groups: dict[Any, dict[str, list[Curves]]] = defaultdict(dict)
    for setting in dict.fromkeys(each.setting for each in chosen):
        groups[setting] = _by_recipe([each for each in chosen if each.setting == setting])
    if not groups:
        lacking = "with k-NN accuracies in its log" if predictor else "without predictor (objective.predictor=none)"
        return f"{title}: there is no pretraining run {lacking}."
    figure, panels = panels_of(min(len(groups), _MOST_PANELS))
    for axes, (setting, methods) in zip(panels, list(groups.items())[:_MOST_PANELS], strict=True):
        for index, (method, runs) in enumerate(list(methods.items())[:_MOST_LINES]):
            _mean_line(axes, [each.points("knn", "epoch") for each in runs], 100, method, look_of(index))
        objective, arch, dataset, epochs, batch = setting
        axes.set_title(f"{objective}, {arch}, {dataset}, {epochs} epochs, batch {batch}", parse_math=False)
        axes.set(xlabel="epoch", ylabel="k-NN accuracy, per cent")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    legend_of(figure, panels)
    caption = (
        f"{title}, by the monitor of pretraining; a line is the mean over seeds where all have one, a band from the "
        "lowest to the highest"
    )
    most = max(map(len, groups.values()))
    caption = with_left_out(caption, most, _MOST_LINES, "methods").removesuffix(".")
    return saved(name, with_left_out(caption, len(groups), _MOST_PANELS, "settings"), figure)


def _by_recipe(curves: Sequence[Curves]) -> dict[str, list[Curves]]:
    """Runs that differ in their seeds alone, by their method's name, and by recipe where one has several."""
    recipes: dict[str, dict[str, list[Curves]]] = defaultdict(lambda: defaultdict(list))
    for each in curves:
        recipes[each.method][each.recipe].append(each)
    return {
        method if len(of_method) == 1 else f"{method}, recipe {recipe}": runs
        for method, of_method in recipes.items()
        for recipe, runs in of_method.items()
    }


def _mean_line(
    axes: Axes, runs: Sequence[Sequence[tuple[float, float]]], scale: float, label: str, look: dict[str, Any]
) -> None:
    values: dict[float, list[float]] = defaultdict(list)
    for points in runs:
        for x, y in points:
            values[x].append(scale * y)
    places = sorted(x for x, each in values.items() if len(each) == len(runs))
    means = [float(np.mean(values[each])) for each in places]
    seeds = f" (n = {len(runs)})" if len(runs) > 1 else ""
    axes.plot(places, means, label=plain(label) + seeds, markevery=max(1, len(places) // 8), **look)
    if len(runs) > 1:
        lows, highs = [min(values[each]) for each in places], [max(values[each]) for each in places]
        axes.fill_between(places, lows, highs, color=look["color"], alpha=0.15, linewidth=0)


def _collapse(curves: Sequence[Curves]) -> Drawn | str:
    """Spread and effective rank of the projections."""
    title = "Collapse indicators"
    chosen = [each for each in curves if each.points("spread", "step") or each.points("effective_rank", "epoch")]
    groups = _by_setting_and_recipe(chosen)
    if not groups:
        return f"{title}: there is no log of a pretraining run with spread or effective rank."
    figure, panels = panels_of(2)
    for index, (label, runs) in enumerate(list(groups.items())[:_MOST_LINES]):
        for axes, name, over in ((panels[0], "spread", "step"), (panels[1], "effective_rank", "epoch")):
            _mean_line(axes, [each.points(name, over) for each in runs], 1, label, look_of(index))
    panels[0].set(xlabel="step", ylabel="spread of the projections", ylim=(0, None))
    panels[1].set(xlabel="epoch", ylabel="effective rank of the projections", ylim=(0, None))
    panels[1].xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    legend_of(figure, panels)
    caption = (
        f"{title}: deviation per dimension of the normalised projections times sqrt(d) (1 is even, 0 a point; Chen & "
        "He 2021), and RankMe (1 is one direction; Garrido et al. 2023)"
    )
    return saved("figure-collapse", with_left_out(caption, len(groups), _MOST_LINES, "methods"), figure)


def _gradients(curves: Sequence[Curves]) -> Drawn | str:
    """The two terms of the gradient in UniGrad's form, and what they lead to."""
    title = "Gradient terms"
    groups = _by_setting_and_recipe([each for each in curves if each.points("positive_norm", "step")])
    if not groups:
        return f"{title}: there is no log of a pretraining run with them (monitor.gradients=true)."
    panels_shown = {
        "positive_norm": "norm, positive term",
        "negative_norm": "norm, negative term",
        "terms_angle": "angle, degrees",
        "alignment": "alignment",
        "uniformity": "uniformity",
    }
    figure, panels = panels_of(len(panels_shown))
    for axes, (name, label) in zip(panels, panels_shown.items(), strict=True):
        for index, (method, runs) in enumerate(list(groups.items())[:_MOST_LINES]):
            _mean_line(axes, [each.points(name, "step") for each in runs], 1, method, look_of(index))
        axes.set(xlabel="step", ylabel=label)
    for axes in panels[:2]:
        axes.set_yscale("log")  # the methods' losses differ in scale
    legend_of(figure, panels)
    caption = (
        f"{title} of the loss with respect to the first view's projections, times the number of images: norms per "
        "image, and angle (180 where the terms cancel; Tao et al. 2022); mean squared distance of an image's two views "
        "(MoCo: of query and key) and logarithm of the mean potential between images (lower is more uniform; Wang & "
        "Isola 2020)"
    )
    return saved("figure-gradients", with_left_out(caption, len(groups), _MOST_LINES, "methods"), figure)


def _by_setting_and_recipe(curves: Sequence[Curves]) -> dict[str, list[Curves]]:
    """Runs that differ in their seeds alone, by method and setting."""
    return {
        f"{name}, {setting[1]}, {setting[2]}, {setting[3]} epochs, batch {setting[4]}": runs
        for setting in dict.fromkeys(each.setting for each in curves)
        for name, runs in _by_recipe([each for each in curves if each.setting == setting]).items()
    }


# --- evaluation ---


def _paths(rows: Sequence[Row]) -> Drawn | str:
    """Validation score by weight decay, a panel for each data set."""
    title = "Regularisation path"
    groups: dict[Column, list[tuple[int, str, list[float], float]]] = defaultdict(list)
    for place, row in enumerate(rows):
        for column, sample in row.samples.items():
            details = sample.records[0].result.details
            scores = details.get("validation_scores")
            chosen: Any = details.get("weight_decay")
            if column.metric != "calibration_error" and scores and _is_path(scores, chosen):
                groups[column].append((place, row.title, scores, chosen))
    if not groups:
        return f"{title}: there is no result of logistic regression."
    figure, panels = panels_of(min(len(groups), _MOST_PANELS), 2.6)
    for axes, (column, lines) in zip(panels, list(groups.items())[:_MOST_PANELS], strict=True):
        for place, label, scores, chosen in lines[:_MOST_LINES]:
            look = look_of(place)  # the same in all panels
            axes.plot(WEIGHT_DECAYS, [100 * score for score in scores], label=plain(label), **{**look, "marker": None})
            best = int(np.argmin(np.abs(np.log(WEIGHT_DECAYS) - np.log(chosen))))
            axes.plot([WEIGHT_DECAYS[best]], [100 * scores[best]], **{**look, "linestyle": "none"})
        axes.set(title=f"{column.dataset}, {column.protocol}", xscale="log")
        axes.set(xlabel="weight decay", ylabel="validation score, per cent")
    legend_of(figure, panels)
    caption = (
        f"{title}: validation score of every weight decay; the marker is the chosen one; of several seeds the first"
    )
    most = max(map(len, groups.values()))
    caption = with_left_out(caption, most, _MOST_LINES, "methods").removesuffix(".")
    return saved("figure-path", with_left_out(caption, len(groups), _MOST_PANELS, "columns"), figure)


def _is_path(scores: Any, chosen: Any) -> bool:
    """Whether details hold a score of every weight decay, and the chosen one."""
    numbers = isinstance(scores, list) and all(isinstance(each, int | float) for each in (*scores, chosen))
    return numbers and len(scores) == len(WEIGHT_DECAYS) and chosen > 0


def _embedding(rows: Sequence[Row]) -> Drawn | str:
    """t-SNE of test features coloured by class, as Figure 6 of the GSG paper."""
    title = "Figure 6: t-SNE of the test features"
    groups: dict[str, list[tuple[str, Path, Path]]] = defaultdict(list)
    for row in rows:
        for column, sample in row.samples.items():
            record = sample.records[0]
            details, folder = record.result.details, record.path.parent
            features, predictions = (folder / str(details.get(name)) for name in ("features", "predictions"))
            known = all(details.get(name) for name in ("features", "predictions"))
            if (
                column.task == "linear"
                and column.metric in ("accuracy", "mean_per_class")
                and known
                and features.is_file()
            ):
                groups[f"{column.dataset} {column.data}"].append((row.title, features, predictions))
    if not groups:
        return f"{title}: no features of a data set with one label per image are remembered (runs/features)."
    dataset, subjects = max(groups.items(), key=lambda item: len(item[1]))
    shown = subjects[:_TSNE_PANELS]
    figure, panels = panels_of(len(shown), 2.7)
    numbers = []
    for axes, (label, features, predictions) in zip(panels, shown, strict=True):
        try:
            numbers.append(_embed(axes, *_read_features(features, predictions)))
        except InputError as error:
            return f"{title}: {printable(str(error))}."
        axes.set(xticks=[], yticks=[])
        axes.set_title(label, parse_math=False)
    panels[0].legend(fontsize=6, title="class", ncols=2, handletextpad=0.1, columnspacing=0.5)
    caption = (
        f"{title} of {dataset.split()[0]}, coloured by class, of {max(numbers)} images (scikit-learn, perplexity 30); "
        "distances between groups mean nothing"
    )
    return saved("figure-6", with_left_out(caption, len(subjects), _TSNE_PANELS, "methods"), figure)


def _read_features(features: Path, predictions: Path) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.integer]]:
    labels = read_archive(predictions, "predictions of transfer/linear.py", "evaluate again")["labels"]
    try:
        read = np.load(features, mmap_mode="r")
    except (OSError, ValueError, EOFError, SyntaxError) as error:
        raise InputError(f"{features} is damaged ({printable(str(error))}); evaluate again") from error
    if read.ndim != 2 or len(read) != len(labels) or not np.isfinite(read).all():
        raise InputError(f"{features}: expected finite features of {len(labels)} images, got {read.shape}")
    if min(read.shape) < 2 or not np.ptp(read, axis=0).any():
        raise InputError(f"{features}: expected features that differ, of two images and two dimensions or more")
    return read, labels


def _embed(axes: Axes, features: npt.NDArray[np.float32], labels: npt.NDArray[np.integer]) -> int:
    shown = np.flatnonzero(labels < _TSNE_CLASSES)
    chosen = np.sort(np.random.default_rng(0).permutation(shown)[:_TSNE_IMAGES])
    perplexity = min(30, max(1, (len(chosen) - 1) // 3))  # scikit-learn wants fewer than the images
    points = TSNE(perplexity=perplexity, random_state=0, init="pca").fit_transform(np.asarray(features[chosen]))
    for label in np.unique(labels[chosen]):
        of_class = points[labels[chosen] == label]
        colour, marker = COLOURS[label % len(COLOURS)], MARKERS[label % len(MARKERS)]
        axes.scatter(of_class[:, 0], of_class[:, 1], s=7, linewidths=0.6, label=str(label), color=colour, marker=marker)
    return len(chosen)


def _scenes(rows: Sequence[Row], scratch: Path) -> Drawn | str:
    """Predictions on validation scenes, as Figure 7 of the GSG paper."""
    title = "Figure 7: predictions on validation scenes"
    groups: dict[Any, dict[str, Path]] = defaultdict(dict)
    first: dict[Any, Shown] = {}
    damaged = list[str]()
    for row in rows:
        for column, sample in row.samples.items():
            record = sample.records[0]
            below = Path(str(record.result.details.get("confusions", ""))).parent
            folder = record.path.parent
            if column.metric != "mIoU" or not (folder / SHOWN).is_file() or not (folder / below / PREDICTIONS).is_dir():
                continue
            try:
                shown = Shown.read(folder / SHOWN)
            except InputError as error:
                damaged.append(printable(str(error)))
                continue
            key = column, shown.names, shown.classes
            first.setdefault(key, shown)
            groups[key][row.title] = folder / below / PREDICTIONS
    if not groups:
        return f"{title}: {damaged[0] if damaged else 'there is no folder of a segmentation run with its pictures'}."
    key, columns = max(groups.items(), key=lambda item: len(item[1]))
    chosen = dict(list(columns.items())[:_MOST_SEGMENTORS])
    shown = first[key].first(_MOST_SCENES)
    content = {}
    for suffix in ("png", "pdf"):
        path = scratch / f"scenes.{suffix}"
        try:
            draw_segmentations(shown, chosen, path)
        except InputError as error:
            return f"{title}: {printable(str(error))}."
        content[suffix] = path.read_bytes()
    caption = with_left_out(f"{title} of {key[0].dataset}", len(columns), _MOST_SEGMENTORS, "methods")
    return Drawn("figure-7", caption, **content)
