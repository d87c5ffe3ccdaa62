"""Measures the built-in detector of the triage plugin on phantom heads: ``python -m conformance.triage``.

`CASES` are heads of seeds that nothing was fitted to. Their scores are kept in ``docs/reference/ai-triage.tsv``, and
the page and the picture are made from that. ``python -m conformance.triage fit`` prints what the detector was fitted to
give on the heads of `TUNING`.
"""

from __future__ import annotations

import csv
import hashlib
import io
import sys
import tokenize
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import astuple, dataclass, fields
from itertools import cycle
from math import sqrt
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from conformance import heads
from conformance.heads import BLEEDS, LOOK_ALIKES, Bleed, Head, LookAlike, make_head
from plugins.ai_triage import hyperdense
from plugins.ai_triage.hyperdense import TERMS, Spot, find_spots

DOCS = Path(__file__).parents[1] / "docs"
RESULTS = DOCS / "reference" / "ai-triage.tsv"
PICTURE = DOCS / "images" / "ai-triage.png"
SIZE = 112
"""Rows and columns: pixels of 2 mm, the grid that the detector averages a finer image on."""

type Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Case:
    """One head: its seed, and what is in it."""

    seed: int
    bleed: Bleed | None
    look_alike: LookAlike | None

    def head(self) -> Head:
        return make_head(self.seed, bleed=self.bleed, look_alike=self.look_alike, size=SIZE)


@dataclass(frozen=True, slots=True)
class Result:
    """What the detector made of a case: the probability of its likeliest spot, and whether that one lies in blood."""

    seed: int
    bleed: str
    look_alike: str
    blood_ml: float
    probability: float
    is_in_blood: bool

    @property
    def is_bleeding(self) -> bool:
        return bool(self.bleed)


def cases(first: int, each: int) -> tuple[Case, ...]:
    """As many heads without blood as with, of each kind of either so many.

    One in three of those that bleed has a look-alike as well; of those that do not, four in five have one.
    """
    like: Iterator[LookAlike] = cycle(LOOK_ALIKES)
    bleeding = [(bleed, next(like) if number % 3 == 2 else None) for bleed in BLEEDS for number in range(each)]
    sound = [(None, look_alike) for look_alike in (None, *LOOK_ALIKES) for _ in range(each)]
    return tuple(Case(first + number, *kind) for number, kind in enumerate([*bleeding, *sound]))


TUNING = cases(2_000, 36)
CASES = cases(70_000, 24)


def look(case: Case) -> Result:
    """Make the head of a case and let the detector look at it."""
    head = case.head()
    spots = find_spots(head.hu, head.spacing_mm)
    return Result(
        seed=case.seed,
        bleed=case.bleed or "",
        look_alike=case.look_alike or "",
        blood_ml=round(head.blood_ml, 1),
        probability=round(spots[0].probability, 3) if spots else 0.0,
        is_in_blood=bool(spots) and lies_in_blood(spots[0], head),
    )


def lies_in_blood(spot: Spot, head: Head) -> bool:
    """Whether the middle of a spot is blood, or next to it."""
    index, row, column = spot.middle
    return bool(head.blood[index, max(row - 1, 0) : row + 2, max(column - 1, 0) : column + 2].any())


def measure() -> None:
    """Look at all cases, and write what came of it, and the picture."""
    text = _written(_each(look, CASES))
    RESULTS.write_text(text, encoding="utf-8")
    PICTURE.write_bytes(picture(results(), text))


def results() -> list[Result]:
    """What was measured last."""
    rows = csv.reader(io.StringIO(RESULTS.read_text(encoding="utf-8")), delimiter="\t")
    next(rows), next(rows)
    return [
        Result(int(seed), bleed, like, float(ml), float(probability), hit == "True")
        for seed, bleed, like, ml, probability, hit in rows
    ]


def is_fresh() -> bool:
    """Whether what was measured last is of the code as it is."""
    return RESULTS.exists() and RESULTS.read_text(encoding="utf-8").splitlines()[0] == f"# {_sources()}"


def _written(measured: Sequence[Result]) -> str:
    out = io.StringIO()
    out.write(f"# {_sources()}\n")
    table = csv.writer(out, delimiter="\t", lineterminator="\n")
    table.writerow([field.name for field in fields(Result)])
    table.writerows(astuple(result) for result in measured)
    return out.getvalue()


def _sources() -> str:
    """Says of which code a result is; what is said about the code does not count."""
    digest = hashlib.sha256(repr(CASES).encode())
    for module in (heads, hyperdense):
        text = Path(str(module.__file__)).read_text(encoding="utf-8")
        digest.update(" ".join(_code(text)).encode())
    return digest.hexdigest()


def _code(text: str) -> Iterator[str]:
    """The tokens of a module without comments, layout, and strings that are statements of their own."""
    is_first = True
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type in (tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT):
            is_first = True
        elif token.type not in (tokenize.COMMENT, tokenize.NL):
            if not (is_first and token.type == tokenize.STRING):
                yield token.string
            is_first = False


def _each[T](look_at: Callable[[Case], T], them: Sequence[Case]) -> list[T]:
    with ProcessPoolExecutor(mp_context=get_context("spawn")) as pool:
        return list(pool.map(look_at, them, chunksize=8))


# -- figures -----------------------------------------------------------------------------------------------------------


def area(bleeding: Sequence[float], sound: Sequence[float]) -> tuple[float, float, float]:
    """The area under the ROC curve with its 95 % interval, by the variance of DeLong and others (1988)."""
    ones, others = np.array(bleeding)[:, None], np.array(sound)[None]
    wins: Array = (ones > others) + 0.5 * (ones == others)
    auc = float(wins.mean())
    error = sqrt(wins.mean(axis=1).var(ddof=1) / len(ones) + wins.mean(axis=0).var(ddof=1) / others.shape[1])
    return auc, max(auc - 1.96 * error, 0.0), min(auc + 1.96 * error, 1.0)


def share(hits: int, of: int) -> tuple[float, float, float]:
    """A proportion with its 95 % interval, by Wilson's score."""
    z2 = 1.96**2
    part = hits / of
    middle = (part + z2 / (2 * of)) / (1 + z2 / of)
    reach = sqrt(z2 * (part * (1 - part) / of + z2 / (4 * of * of))) / (1 + z2 / of)
    return part, max(middle - reach, 0.0), min(middle + reach, 1.0)


def curve(measured: Sequence[Result]) -> tuple[Array, Array]:
    """False and true positive rates, from the strictest threshold to the loosest."""
    scores = np.array([result.probability for result in measured])
    bleeds = np.array([result.is_bleeding for result in measured])
    thresholds = [np.inf, *np.unique(scores)[::-1], -np.inf]
    false = np.array([(scores[~bleeds] >= least).mean() for least in thresholds])
    true = np.array([(scores[bleeds] >= least).mean() for least in thresholds])
    return false, true


# -- the page ----------------------------------------------------------------------------------------------------------

_HEAD = """\
# How good the built-in detector is

Made by `make docs` from `conformance/triage.py`.

The triage plugin comes with one detector of its own: dense spots within the skull on a CT of the head, by their density
and shape, without anything learned from patients. **It is for research.** The FDA has not cleared it, so it changes
nothing outside [research mode](../how-to/ai-triage.md).

It is measured on {count} phantom heads, made in code (`conformance/heads.py`) of seeds that nothing was fitted to.
There are {each} of each of five kinds of bleeding, one in three of them with something else that may be taken for
blood, and {each} of each of five kinds that do not bleed, four of which show such a thing. The weights of the detector
and its threshold of {threshold} come from {tuning} heads of other seeds. Slices are {slice:g} mm thick, and pixels are
{pixel:g} mm wide. Intervals are of 95 %: DeLong's for areas, Wilson's for proportions.

**What this does not say.** A phantom is simpler than a head. There are no tumours, no contrast medium, no old blood, no
haemorrhagic infarcts, no shunts and no skull after an operation in it, its look-alikes are drawn by the same hand as
the detector, and half of the heads bleed, as in no emergency room. How good the detector is with patients, nobody
knows.

![The ROC curve](../images/ai-triage.png)

"""


def page() -> str:
    """The page of the results, as Markdown."""
    measured = results()
    bleeding = [result for result in measured if result.is_bleeding]
    sound = [result for result in measured if not result.is_bleeding]
    found = [result for result in bleeding if result.probability >= hyperdense.THRESHOLD]
    head = _HEAD.format(
        count=len(CASES),
        each=len(CASES) // 10,
        threshold=hyperdense.THRESHOLD,
        tuning=len(TUNING),
        slice=heads.SLICE_MM,
        pixel=heads.FIELD_MM / SIZE,
    )
    lines = [
        "| figure | value | heads |\n|---|---|---|\n",
        f"| area under the ROC curve | {_told(_area(bleeding, sound))} | {len(measured)} |\n",
        f"| sensitivity | {_told(_found(bleeding))} | {len(bleeding)} |\n",
        f"| specificity | {_told(_passed(sound))} | {len(sound)} |\n",
        f"| the likeliest spot is blood, where something was found | "
        f"{_told(share(sum(one.is_in_blood for one in found), len(found)))} | {len(found)} |\n",
        "\n## By kind and amount of blood\n\n",
        "| bleeding | sensitivity | area under the ROC curve | heads |\n|---|---|---|---|\n",
    ]
    groups: list[tuple[str, list[Result]]] = [
        (kind, [one for one in bleeding if one.bleed == kind]) for kind in BLEEDS
    ] + [
        (name, [one for one in bleeding if low <= one.blood_ml < high])
        for name, low, high in (("less than 5 mL", 0, 5), ("5 to 20 mL", 5, 20), ("20 mL and more", 20, np.inf))
    ]
    lines += [
        f"| {name} | {_told(_found(group))} | {_told(_area(group, sound))} | {len(group)} |\n" for name, group in groups
    ]
    lines.append("\n## By what looks like blood\n\n| head that does not bleed | specificity | heads |\n|---|---|---|\n")
    for kind in ("", *LOOK_ALIKES):
        group = [one for one in sound if one.look_alike == kind]
        lines.append(f"| {kind or 'plain'} | {_told(_passed(group))} | {len(group)} |\n")
    return head + "".join(lines) + "\nThe result of each head is in [ai-triage.tsv](ai-triage.tsv).\n"


def _area(bleeding: Sequence[Result], sound: Sequence[Result]) -> tuple[float, float, float]:
    return area([one.probability for one in bleeding], [one.probability for one in sound])


def _found(bleeding: Sequence[Result]) -> tuple[float, float, float]:
    return share(sum(one.probability >= hyperdense.THRESHOLD for one in bleeding), len(bleeding))


def _passed(sound: Sequence[Result]) -> tuple[float, float, float]:
    return share(sum(one.probability < hyperdense.THRESHOLD for one in sound), len(sound))


def _told(figure: tuple[float, float, float]) -> str:
    return f"{figure[0]:.2f} ({figure[1]:.2f} to {figure[2]:.2f})"


def picture(measured: Sequence[Result], text: str) -> bytes:
    """The ROC curves as a PNG, which says of which results it is."""
    import matplotlib  # late: only a new measurement draws

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6, 5.2), dpi=110)
    sound = [one for one in measured if not one.is_bleeding]
    for kind in BLEEDS:
        group = [one for one in measured if one.bleed == kind]
        auc, _, _ = _area(group, sound)
        axes.step(*curve([*group, *sound]), where="post", linewidth=1, label=f"{kind}, {auc:.2f}")
    auc, _, _ = _area([one for one in measured if one.is_bleeding], sound)
    axes.step(*curve(measured), where="post", color="black", linewidth=2.2, label=f"all, {auc:.2f}")
    at = 1 - _passed(sound)[0], _found([one for one in measured if one.is_bleeding])[0]
    axes.plot(*at, "o", color="black", label=f"threshold {hyperdense.THRESHOLD}")
    axes.plot([0, 1], [0, 1], ":", color="grey", linewidth=1)
    axes.set(xlabel="1 - specificity", ylabel="sensitivity", xlim=(-0.01, 1), ylim=(0, 1.01))
    axes.set_title("Hyperdense blood on unseen phantom heads")
    axes.legend(loc="lower right", title="area under the curve", fontsize=8, title_fontsize=8)
    out = io.BytesIO()
    figure.savefig(out, format="png", metadata={"Software": None, "Source": picture_source(text)})
    pyplot.close(figure)
    return out.getvalue()


def picture_source(text: str) -> str:
    """What a picture of these results names as its source."""
    return hashlib.sha256(text.encode()).hexdigest()


# -- fitting -----------------------------------------------------------------------------------------------------------


def fit() -> str:
    """The terms of the detector's regression, as Python, fitted to the spots of the heads of `TUNING`."""
    seen = _each(_spots, TUNING)
    values = np.array([spot.features for spots in seen for spot, _ in spots])
    blood = np.array([is_blood for spots in seen for _, is_blood in spots], np.float64)
    means, deviations = values.mean(axis=0), values.std(axis=0)
    scores = np.clip((values - means) / deviations, -hyperdense.FURTHEST, hyperdense.FURTHEST)
    bias, *weights = _regression(np.column_stack([np.ones(len(scores)), scores, scores**2]), blood)
    lines = [f"BIAS = {bias:.3f}", "TERMS: Mapping[str, Term] = {"]
    count = len(TERMS)
    for number, name in enumerate(TERMS):
        figures = (means[number], deviations[number], weights[number], weights[count + number])
        lines.append(f'    "{name}": Term({", ".join(f"{figure:.3f}" for figure in figures)}),')
    return "\n".join([*lines, "}"])


def threshold(specificity: float = 0.9) -> float:
    """The probability that so many of the sound heads of `TUNING` stay below, with the terms as they are."""
    sound = [look_result.probability for look_result in _each(look, [case for case in TUNING if case.bleed is None])]
    return float(np.quantile(sound, specificity))


def _spots(case: Case) -> list[tuple[Spot, bool]]:
    head = case.head()
    return [(spot, lies_in_blood(spot, head)) for spot in find_spots(head.hu, head.spacing_mm)]


def _regression(values: Array, truth: Array, ridge: float = 1.0) -> Array:
    """Weights of a logistic regression, by Newton's method; all but the first are held small."""
    weights = np.zeros(values.shape[1])
    penalty = ridge * np.eye(len(weights))
    penalty[0, 0] = 0
    for _ in range(100):
        likely = 1 / (1 + np.exp(-np.clip(values @ weights, -30, 30)))
        slope = values.T @ (likely - truth) + penalty @ weights
        step = np.linalg.solve(values.T @ (values * (likely * (1 - likely))[:, None]) + penalty, slope)
        weights = weights - step
        if np.abs(step).max() < 1e-9:
            break
    return weights


def main() -> None:
    """Measure where the code has changed; with ``fit`` or ``threshold`` say what to write into the detector."""
    match sys.argv[1:]:
        case ["fit"]:
            print(fit())
        case ["threshold"]:
            print(f"THRESHOLD = {threshold():.2f}")
        case _ if not is_fresh():
            measure()


if __name__ == "__main__":
    main()
