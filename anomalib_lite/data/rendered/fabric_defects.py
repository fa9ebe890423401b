"""The faults of woven cloth, made in the weave: threads that are missing, thick, misplaced, soiled or knotted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from anomalib_lite.data.rendered.fabric_weave import SAMPLES, Array, Cloth, Direction, Threads

WIDEST = 0.95  # radius in pitches: a thread does not reach past its neighbour's place
EVERYWHERE = 48  # crossings: a broken end this long usually runs through the picture


@dataclass(frozen=True, slots=True)
class Visible:
    """Which part of the cloth the picture shows: (warps, wefts), counted as `look_from_above` does."""

    middle: tuple[float, float]
    reach: tuple[float, float]  # to each side

    def draw_place(self, rng: np.random.Generator) -> tuple[int, int]:
        """A crossing (warp, weft) that is not too near the picture's edge."""
        place = np.array(self.middle) + rng.uniform(-0.78, 0.78, 2) * np.array(self.reach)
        return round(float(place[0])), round(float(place[1]))


@dataclass(frozen=True, slots=True)
class LooseEnd:
    """A piece of thread or fibre that lies on the cloth."""

    course: np.ndarray  # (points, 2): warps, wefts
    of: Direction  # whose colour it has
    width: float  # in warp pitches


AddDefect = Callable[[np.random.Generator, Cloth, Visible, float], list[LooseEnd]]


def add_hole(rng: np.random.Generator, cloth: Cloth, visible: Visible, strength: float) -> list[LooseEnd]:
    """Cut the threads of both directions; their ends fray, and the threads beside give way."""
    centre = visible.draw_place(rng)
    radius = 0.9 + 2.4 * strength  # in warp pitches
    ends: list[LooseEnd] = []
    pitches = {"warp": 1.0, "weft": cloth.weave.weft_pitch}
    for direction, number, middle in _both(centre):
        threads = cloth.threads(direction)
        own, crossed = pitches[direction], pitches["weft" if direction == "warp" else "warp"]
        for index in range(number - 5, number + 6):
            aside = (index - number) * own
            if abs(aside) < radius:
                chord = np.sqrt(radius**2 - aside**2) / crossed
                first, last = middle - chord * rng.uniform(0.6, 1.15), middle + chord * rng.uniform(0.6, 1.15)
                _cut(rng, threads, index, first, last)
                cloth.take_out(direction, index, _crossings(first, last))
                for end in (first, last):
                    for _ in range(rng.integers(1, 4)):
                        ends.append(_fray(rng, direction, index, end, 1.0 if end == first else -1.0))
            else:
                nearness = max(0.0, 1 - (abs(aside) - radius) / own)
                bump = _bump(threads, middle, 0.6 * radius / crossed + 0.5)
                threads.offset[index] += np.sign(aside) * 0.2 * nearness * bump
    return ends


def add_broken_end(
    rng: np.random.Generator, cloth: Cloth, visible: Visible, strength: float
) -> list[LooseEnd]:
    """Leave out a warp thread from a place on; its neighbours close the gap in part."""
    warp, weft = visible.draw_place(rng)
    length = 6 + strength * EVERYWHERE
    first, last = weft - length / 2, weft + length / 2
    _cut(rng, cloth.warp, warp, first, last)
    cloth.take_out("warp", warp, _crossings(first, last))
    closing = (0.30 - 0.18 * strength) * _window(cloth.warp, first + 0.8, last - 0.8, 0.8)
    _push_aside(cloth.warp, warp, -closing)
    return [
        _fray(rng, "warp", warp, end, direction)
        for end, direction in ((first, 1.0), (last, -1.0))
        for _ in range(3)
    ]


def add_slub(rng: np.random.Generator, cloth: Cloth, visible: Visible, strength: float) -> list[LooseEnd]:
    """Spin a thread too thick for a stretch: soft, lighter, and pushing its neighbours aside."""
    direction = _draw_direction(rng)
    number, middle = _on_thread(direction, visible.draw_place(rng))
    threads = cloth.threads(direction)
    bump = _bump(threads, middle, rng.uniform(1.5, 3.0) + 2.5 * strength)
    growth = 0.55 + 0.95 * strength
    thicker = np.minimum(threads.radius[number] * (1 + growth * bump), WIDEST)
    _push_aside(threads, number, 0.75 * (thicker - threads.radius[number]))
    threads.radius[number] = thicker
    threads.rise[number] += (0.05 + 0.20 * strength) * bump
    streaks = cloth.weave.warp_streaks if direction == "warp" else cloth.weave.weft_streaks
    threads.tone[number] *= 1 + (0.10 + 0.22 * streaks * strength) * bump  # dye does not reach the core
    return []


def add_stain(rng: np.random.Generator, cloth: Cloth, visible: Visible, strength: float) -> list[LooseEnd]:
    """Drop oil on the cloth, which creeps along each thread as far as that thread lets it."""
    centre = visible.draw_place(rng)
    radius = rng.uniform(1.6, 5.0)  # in warp pitches
    depth = 0.16 + 0.74 * strength
    waves = rng.normal(0, (0.16, 0.1, 0.06))
    phases = rng.uniform(0, 2 * np.pi, 3)
    pitches = {"warp": 1.0, "weft": cloth.weave.weft_pitch}
    for direction, number, middle in _both(centre):
        threads = cloth.threads(direction)
        own, crossed = pitches[direction], pitches["weft" if direction == "warp" else "warp"]
        count, samples = threads.stain.shape
        aside = (np.arange(count) - number)[:, None] * own
        along = (_course(samples) - middle)[None] * crossed
        creep = np.exp(rng.normal(0.08, 0.16, (count, 1)))
        distance = np.hypot(aside, along / creep)
        # the outline as seen from the centre, the same for both directions
        angle = np.arctan2(along, aside) if direction == "warp" else np.arctan2(aside, along)
        outline = 1 + sum(wave * np.cos((k + 2) * angle + phases[k]) for k, wave in enumerate(waves))
        soaked = np.clip((radius * outline - distance) / (0.35 * radius) + 0.5, 0, 1)
        uneven = 1 + 0.12 * rng.standard_normal((count, 1))
        threads.stain = np.clip(depth * uneven * soaked**1.5, 0, 1).astype(np.float32)
    return []


def add_float(rng: np.random.Generator, cloth: Cloth, visible: Visible, strength: float) -> list[LooseEnd]:
    """Let a thread pass over several that it should have been woven into; it lies there loosely."""
    rarely_on_top: Direction = "weft" if cloth.weave.is_warp_faced else "warp"
    direction = rarely_on_top if rng.random() < 0.5 else _draw_direction(rng)
    number, middle = _on_thread(direction, visible.draw_place(rng))
    length = len(cloth.weave.draft) + 1 + round(7 * strength)  # at least one crossing is wrong
    first = middle - length // 2
    threads = cloth.threads(direction)
    for index in range(number, number + 1 + int(strength > 0.7)):
        cloth.put_on_top(direction, index, slice(max(first, 0), first + length))
        bump = _bump(threads, first + (length - 1) / 2, length / 3)
        threads.rise[index] += (0.06 + 0.22 * strength) * bump
        threads.offset[index] += rng.normal(0, 0.05 + 0.12 * strength) * bump
        threads.radius[index] *= 1 + (0.10 + 0.20 * strength) * bump  # nothing presses it together
        threads.tone[index] *= 1 + 0.15 * strength * bump
    return []


def add_knot(rng: np.random.Generator, cloth: Cloth, visible: Visible, strength: float) -> list[LooseEnd]:
    """Tie a broken thread together: two lobes above the cloth, and two ends that were not cut short."""
    direction = _draw_direction(rng)
    number, middle = _on_thread(direction, visible.draw_place(rng))
    threads = cloth.threads(direction)
    apart = rng.uniform(0.32, 0.42)
    lobes = np.maximum(_bump(threads, middle - apart, 0.42), _bump(threads, middle + apart, 0.42))
    thicker = np.minimum(threads.radius[number] * (1 + (0.35 + 0.45 * strength) * lobes), WIDEST)
    _push_aside(threads, number, 0.5 * (thicker - threads.radius[number]))
    threads.radius[number] = thicker
    threads.rise[number] += (0.40 + 0.25 * strength) * _bump(threads, middle, 0.8)
    threads.twist[number] += np.float32(0.5) * lobes  # wound around itself, its fibres run otherwise
    ends = []
    for side in (-1.0, 1.0):
        heading = rng.uniform(-0.9, 0.9) + (0.0 if side > 0 else np.pi)
        length = 0.7 + 2.2 * strength * rng.uniform(0.6, 1.2)
        start = (number + rng.normal(0, 0.2), middle + side * apart)
        ends.append(_end(rng, direction, start, heading, length, 0.30))
    return ends


ADD_DEFECT: dict[str, AddDefect] = {
    "hole": add_hole,
    "broken_end": add_broken_end,
    "slub": add_slub,
    "stain": add_stain,
    "float": add_float,
    "knot": add_knot,
}


def _both(place: tuple[int, int]) -> tuple[tuple[Direction, int, int], ...]:
    """(direction, its thread, the crossed thread) at a place (warp, weft)."""
    return ("warp", place[0], place[1]), ("weft", place[1], place[0])


def _draw_direction(rng: np.random.Generator) -> Direction:
    return "warp" if rng.random() < 0.5 else "weft"


def _on_thread(direction: Direction, place: tuple[int, int]) -> tuple[int, int]:
    """(thread, crossed thread) of this direction at a place (warp, weft)."""
    return place if direction == "warp" else (place[1], place[0])


def _course(samples: int) -> np.ndarray:
    """Which crossing each sample along a thread lies at."""
    return (np.arange(samples) + 0.5) / SAMPLES - 0.5


def _bump(threads: Threads, middle: float, width: float) -> Array:
    """1 at a crossing and, `width` crossings to each side, 1/e (samples,)."""
    distance = (_course(threads.radius.shape[1]) - middle) / width
    return np.exp(-(distance**2)).astype(np.float32)


def _window(threads: Threads, first: float, last: float, ramp: float) -> Array:
    """1 between two crossings, and 0 from `ramp` crossings outside them on (samples,)."""
    course = _course(threads.radius.shape[1])
    inside = np.minimum(course - first, last - course)
    share = np.clip(inside / ramp + 1, 0, 1)
    return (share * share * (3 - 2 * share)).astype(np.float32)


def _crossings(first: float, last: float) -> slice:
    """The crossed threads between two places."""
    return slice(max(0, int(np.ceil(first))), max(0, int(np.floor(last)) + 1))


def _cut(rng: np.random.Generator, threads: Threads, number: int, first: float, last: float) -> None:
    """Take a thread away between two crossings; its ends taper, stand up and lie a little askew."""
    threads.radius[number] *= 1 - _window(threads, first, last, 0.35)
    for end in (first, last):
        bump = _bump(threads, end, 0.6)
        threads.rise[number] += 0.10 * bump
        threads.offset[number] += np.float32(rng.normal(0, 0.16)) * bump
        threads.tone[number] *= 1 + 0.10 * bump


def _push_aside(threads: Threads, number: int, amount: Array) -> None:
    """Move a thread's two neighbours outwards by `amount` (samples,) pitches; friction holds all others."""
    for side in (-1, 1):
        threads.offset[number + side] += side * amount


def _fray(
    rng: np.random.Generator, direction: Direction, number: int, end: float, inwards: float
) -> LooseEnd:
    """A fibre at a cut thread's end, pointing more or less into the gap."""
    heading = rng.normal(0, 0.6) + (0.0 if inwards > 0 else np.pi)
    start = (number + rng.normal(0, 0.2), end - 0.2 * inwards)
    return _end(rng, direction, start, heading, rng.uniform(0.4, 1.3), 0.07)


def _end(
    rng: np.random.Generator,
    direction: Direction,
    start: tuple[float, float],
    heading: float,
    length: float,
    width: float,
) -> LooseEnd:
    """A bent piece of thread from (thread, crossed thread); heading 0 is along the thread, forwards."""
    points = 10
    angles = heading + np.cumsum(rng.normal(0, 0.14, points)) + np.linspace(0, rng.normal(0, 0.7), points)
    aside = start[0] + np.cumsum(np.sin(angles)) * length / points
    along = start[1] + np.cumsum(np.cos(angles)) * length / points
    course = (aside, along) if direction == "warp" else (along, aside)
    return LooseEnd(np.stack(course, axis=1), direction, width)
