"""The figures of an evaluation as a table for the terminal: what is usually reported first, then the rest."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from training.accuracy import GROUPS, MAIN_RULE, SHOT_RULES, TOP_K, shot_groups
from training.calibration import BINS

CONFUSIONS_SHOWN = 5
LABEL_WIDTH, CELL_WIDTH = 40, 16

Row = tuple[str, tuple[str, ...]]
"""What a row is called, and the keys that lead to its figure in what `head_figures` returns."""

OTHER_ROWS: list[Row] = [
    (f"top-{TOP_K}, all images", ("top5",)),
    ("mean over classes", ("macro",)),
    ("worst class", ("worst",)),
    ("geometric mean over classes", ("geometric_mean",)),
    ("harmonic mean over classes", ("harmonic_mean",)),
    (f"expected calibration error, {BINS} bins", ("calibration_error",)),
]


def evaluation_table(result: dict[str, Any], class_names: Sequence[str]) -> str:
    """Lines of text from what `--json` writes: a column a trained head, in percent."""
    heads, used = result["heads"], result["inference_head"]
    lines = [f"{result['checkpoint']} on {result['data']}: {result['images']} images, top-1 in percent"]
    if result["chosen"]:
        lines.append(f"The checkpoint is {result['chosen']}.")
    lines.append(" " * LABEL_WIDTH + _cells([f"{head} *" if head == used else head for head in heads]))
    shifts: list[Row] = [(name, ("shifted", name)) for name in heads[used]["shifted"]]
    by_rule = _by_rule(result["train_counts"])
    sections = {
        f"the usual: {SHOT_RULES[MAIN_RULE].text}": [("all images", ("all",)), *by_rule.pop(MAIN_RULE)],
        "other figures": OTHER_ROWS,
        **{f"by the rule {rule}: {SHOT_RULES[rule].text}": rows for rule, rows in by_rule.items()},
        "long-tailed test priors, most images of the classes frequent in training (forward) or rare": shifts,
    }
    for title, rows in sections.items():
        lines.append(title)
        for name, keys in rows:
            values = [percent(_find(figures, keys)) for figures in heads.values()]
            lines.append(f"  {name}".ljust(LABEL_WIDTH) + _cells(values))
    worst, never = class_names[heads[used]["worst_class"]], heads[used]["never_right"]
    lines.append(f"* the inference head: its worst class is {worst}, and {never} classes are never right")
    for label, taken_for, images in result["most_confused"][:CONFUSIONS_SHOWN]:
        lines.append(f"  {images} images of {class_names[label]} were taken for {class_names[taken_for]}")
    return "\n".join(lines)


def percent(fraction: float | None) -> str:
    """A fraction as percent with one decimal, a dash for none."""
    return "-" if fraction is None else f"{100 * fraction:.1f}"


def _cells(texts: Sequence[str]) -> str:
    return "".join(text.rjust(CELL_WIDTH) for text in texts)


def _find(figures: dict[str, Any], keys: tuple[str, ...]) -> float | None:
    value: Any = figures
    for key in keys:
        value = value[key]
    return value


def _by_rule(train_counts: Sequence[int]) -> dict[str, list[Row]]:
    """By rule, a row for each group with the number of its classes."""
    sections: dict[str, list[Row]] = {}
    for rule in SHOT_RULES:
        groups = shot_groups(train_counts, rule)
        sections[rule] = [
            (f"{name} ({(groups == code).sum()} of {len(groups)} classes)", ("by_rule", rule, name))
            for code, name in enumerate(GROUPS)
        ]
    return sections
