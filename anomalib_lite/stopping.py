"""SIGTERM and SIGINT end a stream in order: what waits is still judged, files are closed."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType


@dataclass(slots=True)
class Stopped:
    """Which signal has come."""

    name: str = ""  # "SIGTERM", or "" while there was none


@contextmanager
def stopped_by_signals(stop: Callable[[], None]) -> Iterator[Stopped]:
    """Call `stop` at the first SIGTERM or SIGINT; a second one ends the process at once, as if nobody listened.

    The handlers from before are there again afterwards. Outside of the main thread, which alone may hear signals,
    nothing is changed.
    """
    stopped = Stopped()
    if threading.current_thread() is not threading.main_thread():
        yield stopped
        return

    def heed(number: int, frame: FrameType | None) -> None:
        stopped.name = signal.Signals(number).name
        for other in before:
            # the system's own way: Python would wait for native code to return, which is what may hang
            signal.signal(other, signal.SIG_DFL)
        stop()

    before = {number: signal.signal(number, heed) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stopped
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
