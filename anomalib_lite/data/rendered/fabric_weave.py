"""Woven cloth as threads that cross: where each one lies, how thick it is, and which is on top."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]
Direction = Literal["warp", "weft"]
Colour = tuple[float, float, float]

SAMPLES = 12  # of a thread's course between one crossing and the next
MARGIN = 5  # threads beyond the picture's edge: rotation and waviness must not show the end of the cloth
FLATNESS = 0.62  # height of a thread's cross-section, as a share of its width
CRIMP = 0.21  # how far a thread rises over and dips under the ones it crosses, in warp pitches


@dataclass(frozen=True, slots=True)
class Weave:
    """What distinguishes one cloth from another; colours are linear RGB."""

    name: str
    draft: tuple[tuple[int, ...], ...]  # [weft][warp] of one repeat: 1 where the warp is on top
    weft_pitch: float  # in warp pitches
    warp_colour: Colour
    weft_colour: Colour
    warp_radius: float  # in the direction's own pitch
    weft_radius: float
    uneven: float  # how much thickness varies from thread to thread and along it
    warp_streaks: float  # how much the dye varies along a thread
    weft_streaks: float
    warp_twist: float  # inclination of the fibres: pitches across for each pitch along
    weft_twist: float

    @property
    def is_warp_faced(self) -> bool:
        """True where the warp is on top at more than half of the crossings."""
        return float(np.mean(self.draft)) > 0.5


WEAVES = {
    "plain": Weave(
        name="plain weave, undyed linen",
        draft=((1, 0), (0, 1)),
        weft_pitch=1.08,
        warp_colour=(0.53, 0.45, 0.33),
        weft_colour=(0.57, 0.49, 0.37),
        warp_radius=0.45,
        weft_radius=0.44,
        uneven=1.3,
        warp_streaks=0.8,
        weft_streaks=0.7,
        warp_twist=0.45,
        weft_twist=0.4,
    ),
    "twill": Weave(
        name="3/1 warp-faced twill, indigo denim",
        draft=((1, 1, 1, 0), (1, 1, 0, 1), (1, 0, 1, 1), (0, 1, 1, 1)),
        weft_pitch=1.15,
        warp_colour=(0.062, 0.094, 0.165),
        weft_colour=(0.36, 0.35, 0.325),
        warp_radius=0.50,
        weft_radius=0.44,
        uneven=1.5,
        warp_streaks=2.4,
        weft_streaks=0.7,
        warp_twist=0.5,
        weft_twist=-0.45,
    ),
}


@dataclass(slots=True)
class Threads:
    """All threads of one direction: arrays (threads, samples along) float32; lengths are in their own pitch."""

    offset: Array  # from the place of an even weave, sideways
    radius: Array  # half the width; 0 where the thread is missing
    rise: Array  # above where the crossings put it, in warp pitches
    tone: Array  # factor of the colour
    stain: Array  # 0 clean .. 1 soaked with oil
    twist: Array  # shifts the fibres' pattern, so that no two threads share one

    def copy(self) -> Threads:
        """Threads that can be changed without changing these."""
        return Threads(
            self.offset.copy(),
            self.radius.copy(),
            self.rise.copy(),
            self.tone.copy(),
            self.stain.copy(),
            self.twist.copy(),
        )


@dataclass(slots=True)
class Cloth:
    """A piece of cloth a little larger than the picture."""

    weave: Weave
    crossings: Array  # (wefts, warps): 1 warp on top, -1 weft on top, 0 nothing to cross
    warp: Threads
    weft: Threads

    def copy(self) -> Cloth:
        """Cloth that can be changed without changing this."""
        return Cloth(self.weave, self.crossings.copy(), self.warp.copy(), self.weft.copy())

    def threads(self, direction: Direction) -> Threads:
        """The warp's threads or the weft's."""
        return self.warp if direction == "warp" else self.weft

    def across(self, direction: Direction) -> Array:
        """The crossings (threads, crossed threads) as one direction sees them: 1 where its thread is on top."""
        return self.crossings.T if direction == "warp" else -self.crossings

    def put_on_top(self, direction: Direction, number: int, crossed: slice) -> None:
        """Lead a thread over all of the `crossed` ones."""
        if direction == "warp":
            self.crossings[crossed, number] = 1
        else:
            self.crossings[number, crossed] = -1

    def take_out(self, direction: Direction, number: int, crossed: slice) -> None:
        """Leave the `crossed` threads nothing to bend around where a thread is missing."""
        if direction == "warp":
            self.crossings[crossed, number] = 0
        else:
            self.crossings[number, crossed] = 0


@dataclass(slots=True)
class Surface:
    """What the camera would see from straight above; arrays are (H, W) float32."""

    height: Array  # in warp pitches
    across: Array  # -1 .. 1 from one edge of the topmost thread to the other
    along: Array  # along it, in warp pitches
    tone: Array
    stain: Array
    twist: Array
    is_warp: NDArray[np.bool_]
    is_thread: NDArray[np.bool_]  # False where one sees through the cloth


def sample_position(crossing: np.ndarray | float) -> np.ndarray | float:
    """The column of `Threads`' arrays at a crossing's number.

    >>> float(sample_position(0.0))
    5.5
    """
    return (crossing + 0.5) * SAMPLES - 0.5


def weave_cloth(rng: np.random.Generator, weave: Weave, *, warps: int, wefts: int) -> Cloth:
    """Good cloth: the draft repeated from a random place on, and threads that are as uneven as spun ones are.

    >>> cloth = weave_cloth(np.random.default_rng(0), WEAVES["twill"], warps=20, wefts=16)
    >>> cloth.crossings.shape, float(cloth.crossings.mean())  # three over, one under
    ((16, 20), 0.5)
    """
    draft = np.array(weave.draft, dtype=np.float32) * 2 - 1
    start = rng.integers(0, draft.shape, size=2)
    rows = (np.arange(wefts) + start[0]) % draft.shape[0]
    columns = (np.arange(warps) + start[1]) % draft.shape[1]
    crossings = draft[np.ix_(rows, columns)]
    return Cloth(
        weave,
        crossings,
        warp=_spin(rng, weave, warps, wefts, weave.warp_radius, weave.warp_streaks),
        weft=_spin(rng, weave, wefts, warps, weave.weft_radius, weave.weft_streaks),
    )


def _spin(
    rng: np.random.Generator, weave: Weave, count: int, crossed: int, radius: float, streaks: float
) -> Threads:
    """Threads whose place, thickness and colour wander, each in its own way."""
    shape = (count, crossed * SAMPLES)

    def vary(whole: float, long: float, short: float) -> Array:
        own = whole * rng.standard_normal((count, 1), dtype=np.float32)
        return own + long * _wander(rng, shape, 7.0) + short * _wander(rng, shape, 1.2)

    return Threads(
        offset=weave.uneven * vary(0.035, 0.04, 0.02),
        radius=radius * np.clip(1 + weave.uneven * vary(0.035, 0.045, 0.03), 0.6, 1.5),
        rise=vary(0.0, 0.012, 0.012),
        tone=np.clip(1 + streaks * vary(0.05, 0.06, 0.05), 0.4, 1.8),
        stain=np.zeros(shape, np.float32),
        twist=np.repeat(rng.random((count, 1), dtype=np.float32), shape[1], axis=1),
    )


def _wander(rng: np.random.Generator, shape: tuple[int, int], step: float) -> Array:
    """Smooth noise of unit spread along each row, whose knots are `step` crossings apart; rows are independent."""
    knots = int(shape[1] / (SAMPLES * step)) + 3
    coarse = rng.standard_normal((shape[0], knots), dtype=np.float32)
    course = np.arange(shape[1], dtype=np.float32) / (SAMPLES * step) + np.float32(rng.random())
    columns = np.broadcast_to(course, shape)
    rows = np.broadcast_to(np.arange(shape[0], dtype=np.float32)[:, None], shape)
    noise = cv2.remap(coarse, np.ascontiguousarray(columns), np.ascontiguousarray(rows), cv2.INTER_LINEAR)
    smooth = cv2.blur(noise, (max(3, int(SAMPLES * step * 0.6)), 1))
    return np.asarray(smooth * np.float32(1.35), dtype=np.float32)  # interpolating took from the spread


def thread_heights(cloth: Cloth, direction: Direction) -> Array:
    """The middle line's height of each thread (threads, samples along), in warp pitches.

    A thread bends over what it crosses, and arches where it passes over several.

    >>> cloth = weave_cloth(np.random.default_rng(0), WEAVES["plain"], warps=12, wefts=12)
    >>> heights = thread_heights(cloth, "warp")
    >>> bool(np.ptp(heights[6]) > 1.2 * CRIMP)
    True
    """
    steps = np.repeat(cloth.across(direction), SAMPLES, axis=1)
    bend = cv2.blur(cv2.blur(steps, (int(0.75 * SAMPLES), 1)), (int(0.5 * SAMPLES), 1))
    arch = cv2.blur(cv2.blur(steps, (2 * SAMPLES, 1)), (2 * SAMPLES, 1))
    return np.asarray(CRIMP * (0.85 * bend + 0.25 * arch) + cloth.threads(direction).rise, dtype=np.float32)


def look_from_above(cloth: Cloth, u: Array, v: Array) -> Surface:
    """What is topmost at each place: `u` counts warps, `v` counts wefts (both (H, W)), a thread at each integer.

    >>> cloth = weave_cloth(np.random.default_rng(0), WEAVES["plain"], warps=12, wefts=12)
    >>> row = np.arange(4, 8, dtype=np.float32)[None]  # four warps where they cross weft 5
    >>> above = look_from_above(cloth, row, np.full_like(row, 5)).is_warp[0]
    >>> np.array_equal(above, cloth.crossings[5, 4:8] > 0)
    True
    """
    shape = u.shape
    surface = Surface(
        height=np.full(shape, -0.75, np.float32),
        across=np.zeros(shape, np.float32),
        along=np.zeros(shape, np.float32),
        tone=np.ones(shape, np.float32),
        stain=np.zeros(shape, np.float32),
        twist=np.zeros(shape, np.float32),
        is_warp=np.zeros(shape, np.bool_),
        is_thread=np.zeros(shape, np.bool_),
    )
    pitch = cloth.weave.weft_pitch
    directions: tuple[tuple[Direction, Array, Array, float, float], ...] = (
        ("warp", u, v, 1.0, pitch),
        ("weft", v, u, pitch, 1.0),
    )
    for direction, side, course, own_pitch, crossed_pitch in directions:
        threads = cloth.threads(direction)
        heights = thread_heights(cloth, direction)
        spread = 1 + 0.7 * heights  # pressed flat where it lies on top
        radius = np.minimum(threads.radius * spread, 1 - np.abs(threads.offset))
        table = np.dstack((threads.offset, radius, heights, threads.tone))
        rest = np.dstack((threads.stain, threads.twist))
        topmost = np.full(shape, -1, np.float32)
        column = np.asarray(sample_position(course), dtype=np.float32)
        first = np.floor(side)
        for number in (first, first + 1):  # `radius` lets none reach further than its neighbour's place
            here = cv2.remap(table, column, number, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
            half = np.maximum(here[..., 1], 1e-6)
            across = (side - number - here[..., 0]) / half
            round_ = np.sqrt(np.maximum(1 - across * across, 0))
            height = here[..., 2] + FLATNESS * own_pitch * half * (round_ - 0.8)
            top = (np.abs(across) < 1) & (half > 0.02) & (height > surface.height)
            np.copyto(surface.height, height, where=top)
            np.copyto(surface.across, across, where=top)
            np.copyto(surface.along, course * np.float32(crossed_pitch), where=top)
            np.copyto(surface.tone, here[..., 3], where=top)
            np.copyto(surface.is_warp, direction == "warp", where=top)
            np.copyto(topmost, number, where=top)
            surface.is_thread |= top
        there = topmost >= 0
        more = cv2.remap(rest, column, topmost, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        np.copyto(surface.stain, more[..., 0], where=there)
        np.copyto(surface.twist, more[..., 1], where=there)
    return surface
