"""Where settings and figures lie on an axis of the sweep's plots, and what its marks say."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from anomalib_lite.report.sweep_jobs import as_number, natural

MOST_MARKS = 9  # with a label each; between more of them there is no room
SLOT = 0.13  # of an axis, for each setting that is no number beside others that are
NOT_SET = "not set"


@dataclass(frozen=True, slots=True)
class Scale:
    """A range of numbers spread over 0 to 1."""

    low: float
    high: float
    logarithmic: bool = False

    def share(self, value: float) -> float:
        """Where a number lies; the middle if the range is a point.

        >>> Scale(16, 256, logarithmic=True).share(64), Scale(0.5, 0.5).share(0.5)
        (0.5, 0.5)
        """
        if not self.high > self.low:
            return 0.5
        if self.logarithmic:
            low = math.log2(self.low)  # differences: a ratio to the smallest of numbers is infinite
            return (math.log2(value) - low) / (math.log2(self.high) - low)
        return (value - self.low) / (self.high - self.low)


@dataclass(frozen=True, slots=True)
class Marks:
    """Places on an axis with their labels."""

    places: dict[str, float]  # setting -> share of the axis
    labels: list[tuple[float, str]]  # share -> text


def scale_of(values: Iterable[float]) -> Scale:
    """Linear or logarithmic, whichever spreads the values more evenly.

    >>> scale_of([16, 32, 64]).logarithmic, scale_of([0.1, 0.5, 0.9]).logarithmic
    (True, False)
    """
    ordered = sorted(set(values))
    low, high = ordered[0], ordered[-1]
    if low <= 0 or len(ordered) < 3:
        return Scale(low, high, logarithmic=low > 0 and high >= 8 * low)
    return Scale(low, high, logarithmic=_widest_gap([math.log(x) for x in ordered]) < _widest_gap(ordered))


def round_marks(low: float, high: float, count: int = 5) -> list[float]:
    """Round numbers inside a range, about `count` of them.

    >>> round_marks(0.52, 0.97)
    [0.6, 0.7, 0.8, 0.9]
    """
    rough = (high - low) / count
    if not rough > 0:  # a range so narrow has no marks inside
        return [low]
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(step * power for step in (1, 2, 5, 10) if step * power >= rough)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [float(f"{number * step:.12g}") for number in range(first, last + 1)]


def marks_of_settings(settings: Iterable[str | None]) -> Marks:
    """Numbers in their order and proportion, anything else evenly spaced; None stands for a setting left alone.

    A few words among numbers (`null`) get places below them.
    """
    distinct = sorted(
        {NOT_SET if text is None else text for text in settings}, key=lambda text: (natural(text), text)
    )
    numbers = {text: value for text in distinct if (value := as_number(text)) is not None}
    words = [text for text in distinct if text not in numbers]
    if len(set(numbers.values())) < 2 or len(words) > 2:
        places = {text: place / (len(distinct) - 1 or 1) for place, text in enumerate(reversed(distinct))}
        return Marks(places, _thinned([(place, text) for text, place in places.items()]))
    below = SLOT * len(words)
    scale = scale_of(numbers.values())
    places = {text: below + (1 - below) * scale.share(value) for text, value in numbers.items()}
    if len(numbers) <= MOST_MARKS:
        labels = [(places[text], text) for text in numbers]
    else:
        labels = [(below + (1 - below) * share, text) for share, text in _round_labels(scale)]
    slots = {text: SLOT * place for place, text in enumerate(reversed(words))}
    return Marks(places | slots, [*labels, *((place, text) for text, place in slots.items())])


def marks_of_numbers(values: Sequence[float]) -> tuple[Scale, list[tuple[float, str]]]:
    """A scale for swept numbers and its labels: the numbers themselves while there is room.

    >>> marks_of_numbers([16, 64, 256])[1]
    [(0.0, '16'), (0.5, '64'), (1.0, '256')]
    """
    scale = scale_of(values)
    distinct = sorted(set(values))
    if len(distinct) > MOST_MARKS:
        return scale, _round_labels(scale)
    return scale, [(scale.share(value), short_number(value)) for value in distinct]


def short_number(value: float) -> str:
    """A number in few characters.

    >>> short_number(1e-5), short_number(4096.0), short_number(0.12345)
    ('1e-5', '4096', '0.123')
    """
    return (f"{value:.3g}" if value % 1 else f"{value:g}").replace("e-0", "e-").replace("e+0", "e")


def _round_labels(scale: Scale) -> list[tuple[float, str]]:
    values = (_round_powers if scale.logarithmic else round_marks)(scale.low, scale.high)
    return [(scale.share(value), short_number(value)) for value in values]


def _round_powers(low: float, high: float) -> list[float]:
    """1, 10, 100 ... or, where that gives fewer than two, 1, 2, 5, 10 ... inside a range."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for steps in ((1,), (1, 2, 5)):
        values = [float(f"{step}e{power}") for power in powers for step in steps]
        inside = [value for value in values if low <= value <= high]
        if len(inside) >= 2:
            break
    return inside[:: -(-len(inside) // MOST_MARKS)]


def _widest_gap(ordered: Sequence[float]) -> float:
    gaps = [right - left for left, right in pairwise(ordered)]
    return max(gaps) / (ordered[-1] - ordered[0])


def _thinned(labels: list[tuple[float, str]]) -> list[tuple[float, str]]:
    return labels[:: -(-len(labels) // (2 * MOST_MARKS))]
