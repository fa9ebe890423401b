"""How a stream goes on: latency, pace, counts, and a line that shows them while it runs."""

from __future__ import annotations

import math
import shutil
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from types import TracebackType
from typing import Protocol, Self, TextIO

REFRESH, LOGGED = 0.25, 10.0  # seconds between two lines: on a terminal, and in a log
WINDOW = 10.0  # seconds that "now" means
WIDEST_WINDOW = 1000  # frames of it that are kept


class Counted(Protocol):
    """What a reader of frames counts."""

    @property
    def dropped(self) -> int:
        """Frames that were read and not given, since newer ones came."""

    @property
    def reconnects(self) -> int:
        """How often the source came back."""


class Latencies:
    """Quantiles of any number of durations in bounded memory: a histogram of bins 2 % wide, 0.01 ms to 1000 s.

    >>> latencies = Latencies()
    >>> for milliseconds in range(1, 1001):
    ...     latencies.add(milliseconds / 1000)
    >>> round(latencies.quantile(0.5), 2), round(latencies.quantile(0.99), 1), latencies.largest
    (0.5, 1.0, 1.0)
    """

    LEAST, MOST, STEP = 1e-5, 1e3, 1.02

    def __init__(self) -> None:
        self.count, self.largest = 0, 0.0
        self._bins = [0] * (math.ceil(math.log(self.MOST / self.LEAST, self.STEP)) + 1)

    def add(self, seconds: float) -> None:
        """Count a duration; what lies outside of the bins is counted in the outermost."""
        self.count += 1
        self.largest = max(self.largest, seconds)
        place = math.log(max(seconds, self.LEAST) / self.LEAST, self.STEP)
        self._bins[min(int(place), len(self._bins) - 1)] += 1

    def quantile(self, share: float) -> float | None:
        """The duration that a `share` of all does not exceed, to 1 %; None of none."""
        rank, seen = max(1, math.ceil(share * self.count)), 0
        for index, count in enumerate(self._bins):
            seen += count
            if seen >= rank:
                return min(float(self.LEAST * self.STEP ** (index + 0.5)), self.largest)
        return None


class Progress:
    """Counts what is judged; inside `with`, a thread shows it on a stream: on a terminal always the same line.

    Args:
        stream: where the line goes, usually stderr.
        reader: which knows what was dropped.
        clock: seconds that never go back.
    """

    def __init__(
        self, stream: TextIO, reader: Counted, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.stream, self.reader, self.clock = stream, reader, clock
        self.verdicts: Counter[str] = Counter()
        self.latencies = Latencies()
        self.started = clock()
        self._recent: deque[tuple[float, float]] = deque(maxlen=WIDEST_WINDOW)  # moment, latency
        self._terminal = stream.isatty()
        self._over = threading.Event()
        self._shower = threading.Thread(target=self._show_until_over, name="progress", daemon=True)
        self._width = 0

    def judged(self, verdict: str, latency: float) -> None:
        """Count a frame whose verdict is written, `latency` seconds after it was read."""
        self.verdicts[verdict] += 1
        self.latencies.add(latency)
        self._recent.append((self.clock(), latency))

    @property
    def frames_per_second(self) -> float:
        """Of the last `WINDOW` seconds, or since the start."""
        now, recent = self.clock(), self._recent.copy()
        start = max(now - WINDOW, self.started)
        if len(recent) == WIDEST_WINDOW:
            start = max(start, recent[0][0])
        return sum(moment > start for moment, _ in recent) / max(now - start, 1e-9)

    def text(self) -> str:
        """The line, for instance "120 frames, 24.9/s, latency 31 ms (p99 58 ms), 3 defective, 2 dropped"."""
        now = self.clock()
        recent = sorted(latency for moment, latency in self._recent.copy() if moment > now - WINDOW)
        parts = [f"{sum(self.verdicts.values())} frames", f"{self.frames_per_second:.1f}/s"]
        if recent:
            median, high = (_nearest(recent, share) * 1000 for share in (0.5, 0.99))
            parts.append(f"latency {median:.0f} ms (p99 {high:.0f} ms)")
        named = [(name, self.verdicts[name]) for name in ("defective", "rejected", "unjudged")]
        named += [("dropped", self.reader.dropped), ("reconnected", self.reader.reconnects)]
        return ", ".join(parts + [f"{count} {name}" for name, count in named if count])

    def __enter__(self) -> Self:
        self._shower.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._over.set()
        self._shower.join()
        self._show(last=True)

    def _show_until_over(self) -> None:
        while not self._over.wait(REFRESH if self._terminal else LOGGED):
            self._show(last=False)

    def _show(self, *, last: bool) -> None:
        text = self.text()
        if self._terminal:
            text = text[: shutil.get_terminal_size().columns - 1]
            # what is left of a longer line before is painted over
            text, self._width = "\r" + text.ljust(self._width), len(text)
        try:
            self.stream.write(text + ("\n" if last or not self._terminal else ""))
            self.stream.flush()
        except (OSError, ValueError):  # nobody is there to look; the verdicts go on
            self._over.set()


def _nearest(ordered: list[float], share: float) -> float:
    """The quantile of sorted values by nearest rank."""
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]
