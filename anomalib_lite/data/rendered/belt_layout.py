"""What lies where on the rendered belt: capsules, and the anomalies among them, cell by cell."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import Literal

import numpy as np

from anomalib_lite.data.rendered.rendering import defect_strength
from anomalib_lite.types import GOOD

# Lengths are in units: pixels of the default 320 x 240 frame. x runs along the belt, y across it from its middle.
CELL = 320.0  # nothing lies across the border of two cells, so any stretch of belt can be laid out by itself
RAIL = 13.0  # width of the fixed aluminium rail at either side
GAP = 4.0  # dark gap between rail and belt
HALF_LENGTH = 31.0
RADIUS = 11.0  # of a capsule; length : diameter as of a real size 0
CLEARANCE = 3.0
AREA_PER_CAPSULE = 8200.0
Run = Literal["train", "test", "ring", "broken", "video"]
RUNS: tuple[Run, ...] = ("train", "test", "ring", "broken", "video")  # stretches with nothing in common


@dataclass(frozen=True)
class View:
    """The camera's frame: `width` x `height` pixels."""

    width: int
    height: int

    @cached_property
    def scale(self) -> float:
        """Pixels per unit."""
        return min(self.width / 320, self.height / 240)

    @cached_property
    def oversampling(self) -> int:
        """Samples per pixel in each direction."""
        return 2 if self.scale < 2 else 1

    @cached_property
    def density(self) -> float:
        """Samples per unit."""
        return self.scale * self.oversampling

    @cached_property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of samples."""
        return self.height * self.oversampling, self.width * self.oversampling

    @cached_property
    def half_belt(self) -> float:
        """Half of the belt's width in units."""
        return self.height / self.scale / 2 - RAIL - GAP


@dataclass(frozen=True, slots=True)
class Item:
    """A capsule or a ring on the belt, its middle at (x, y) in units."""

    kind: Literal["capsule", "ring"]
    x: float
    y: float
    angle: float  # radians from the belt's direction, clockwise as seen; a capsule's cap points there
    half_length: float  # of a capsule's axis between the centres of its two domes; 0 for a ring
    radius: float
    key: tuple[int, ...]  # seeds the item's own look
    anomaly: str = GOOD
    strength: float = 0.0  # 0 barely visible .. 1 plain

    def axis(self) -> np.ndarray:
        """Points of its axis, (9, 2), close enough together to measure distances by."""
        along = np.linspace(-self.half_length, self.half_length, 9)
        return np.stack([self.x + along * np.cos(self.angle), self.y + along * np.sin(self.angle)], axis=1)


@lru_cache(maxsize=64)
def lay_out(
    seed: int, run: Run, cell: int, half_belt: float, anomaly: str, strength: float
) -> tuple[Item, ...]:
    """The items of a cell; `anomaly` is "good", "ring" or "broken", and changes nothing but itself.

    >>> good = lay_out(0, "train", 3, 103.0, "good", 0.0)
    >>> with_ring = lay_out(0, "train", 3, 103.0, "ring", 0.5)
    >>> with_ring[:-1] == good, with_ring[-1].kind
    (True, 'ring')
    """
    key = (seed, RUNS.index(run), cell)
    for_capsules, for_anomaly = np.random.default_rng(key).spawn(2)
    items: list[Item] = []
    wanted = round(2 * half_belt * CELL / AREA_PER_CAPSULE * for_capsules.uniform(0.8, 1.2))
    for _ in range(40 * wanted):
        if len(items) == wanted:
            break
        item = _capsule(for_capsules, cell, half_belt, (*key, len(items)))
        if all(_distance(item, other) > CLEARANCE for other in items):
            items.append(item)
    if anomaly == "ring":
        items.append(_ring(for_anomaly, cell, half_belt, (*key, 1000), items, strength))
    elif anomaly == "broken":
        chosen = int(for_anomaly.integers(len(items)))
        items[chosen] = replace(items[chosen], anomaly="broken", strength=strength)
    return tuple(items)


def visible_items(
    view: View, *, seed: int, run: Run, start: float, anomalies: tuple[str, ...], spacing: int
) -> list[Item]:
    """Items that the camera sees when the frame's left edge lies `start` units along the belt.

    >>> items = visible_items(View(320, 240), seed=0, run="train", start=500, anomalies=(), spacing=1)
    >>> all(450 < item.x < 870 for item in items), len(items) > 3
    (True, True)
    """
    end = start + view.width / view.scale
    margin = 60.0  # an item's powder and shadow reach that far at most
    items: list[Item] = []
    for cell in range(max(0, int((start - margin) // CELL)), int((end + margin) // CELL) + 1):
        anomaly, strength = anomaly_in(cell, anomalies, spacing)
        for item in lay_out(seed, run, cell, view.half_belt, anomaly, strength):
            if start - margin < item.x < end + margin:
                items.append(item)
    return items


def anomaly_in(cell: int, anomalies: tuple[str, ...], spacing: int) -> tuple[str, float]:
    """Which anomaly a cell has, and how plain: one in every `spacing` cells, the kinds in turn.

    >>> [anomaly_in(cell, ("ring", "broken"), 2) for cell in range(4)]
    [('good', 0.0), ('ring', 0.5), ('good', 0.0), ('broken', 0.5)]
    """
    number, place = divmod(cell, spacing)
    if not anomalies or place != spacing // 2:
        return GOOD, 0.0
    return anomalies[number % len(anomalies)], defect_strength(number // len(anomalies))


def _capsule(rng: np.random.Generator, cell: int, half_belt: float, key: tuple[int, ...]) -> Item:
    angle = rng.uniform(-np.pi, np.pi)
    half_length = (HALF_LENGTH - RADIUS) * rng.uniform(0.985, 1.015)
    reach_x = half_length * abs(np.cos(angle)) + RADIUS + 1
    reach_y = half_length * abs(np.sin(angle)) + RADIUS + 3
    x = rng.uniform(reach_x, CELL - reach_x) + cell * CELL
    y = rng.uniform(-1, 1) * max(0.0, half_belt - reach_y)
    return Item("capsule", float(x), float(y), float(angle), float(half_length), RADIUS, key)


def _ring(
    rng: np.random.Generator,
    cell: int,
    half_belt: float,
    key: tuple[int, ...],
    others: list[Item],
    strength: float,
) -> Item:
    """A ring where there is room; where there is none, where there is most."""
    radius = (5.0 + 9.0 * strength) * rng.uniform(0.85, 1.15)
    angle = float(rng.uniform(-np.pi, np.pi))
    reach = radius + 3
    rings = []
    for _ in range(60):
        x = rng.uniform(reach, CELL - reach) + cell * CELL
        y = rng.uniform(-1, 1) * (half_belt - reach)
        rings.append(Item("ring", float(x), float(y), angle, 0.0, float(radius), key, "ring", strength))
    room = [min(_distance(ring, other) for other in others) for ring in rings]
    roomy = np.flatnonzero(np.array(room) > CLEARANCE)
    return rings[int(roomy[0] if len(roomy) else np.argmax(room))]


def _distance(one: Item, other: Item) -> float:
    """Between their outlines, in units."""
    between = one.axis()[:, None] - other.axis()[None]
    return float(np.hypot(between[..., 0], between[..., 1]).min()) - one.radius - other.radius
