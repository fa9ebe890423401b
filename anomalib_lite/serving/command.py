"""`serve.py`: a bundle or an export behind a page on this machine."""

from __future__ import annotations

import logging
import math
import os
import socket
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path

from omegaconf import DictConfig

from anomalib_lite.console import main
from anomalib_lite.data.video import FrameReader, open_source
from anomalib_lite.drift_watch import make_monitor
from anomalib_lite.inspector import Inspector, load_inspector
from anomalib_lite.runtime.exported import is_export
from anomalib_lite.serving.guard import is_loopback
from anomalib_lite.serving.reviews import Reviews
from anomalib_lite.types import InputError

log = logging.getLogger(__name__)

NEEDED = ("fastapi", "uvicorn")
MIB = 2**20


def serve_command(arguments: Sequence[str] | None = None) -> int:
    """`anomalib-lite-serve`: returns the exit code, 0 after Ctrl-C."""
    return main("serve", serve, arguments)


def serve(cfg: DictConfig) -> None:
    """Serve the page until Ctrl-C.

    Raises:
        InputError: for a bundle, a source, a folder, an address or a port that cannot be used.
    """
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        raise InputError(f"serve needs {' and '.join(missing)}: pip install 'anomalib-lite[serve]'")
    from anomalib_lite.serving.app import make_app
    from anomalib_lite.serving.local import listen, make_server

    host, bundle = str(cfg.host), Path(str(cfg.bundle))
    port = _whole("port", cfg.port, least=0, most=65535)
    upload_bytes = _whole("upload_mib", cfg.upload_mib, least=1, most=1024) * MIB
    memory = _whole("memory_mib", cfg.memory_mib, least=16) * MIB
    reviews = Reviews(Path(str(cfg.reviews)), bundle=str(bundle))
    reviews.check()
    inspector, prepare = _load(bundle, cfg.threads)
    monitor = make_monitor(inspector, window=cfg.drift.window, false_alarms=cfg.drift.false_alarms)
    source = None if cfg.source is None else open_source(str(cfg.source))
    ear = listen(host, port)
    address = ear.getsockname()
    app = make_app(
        inspector,
        bundle=str(bundle),
        reviews=reviews,
        frames=None if source is None else FrameReader(source),
        monitor=monitor,
        upload_bytes=upload_bytes,
        waiting=_whole("waiting", cfg.waiting, least=1, most=64),
        kept=_whole("kept", cfg.kept, least=1, most=1000),
        memory=memory,
        names=(host, socket.gethostname()),
        addresses=not is_loopback(host),
        prepare=prepare,
    )
    shown = f"[{host}]" if ":" in host else host
    if not is_loopback(host):
        log.warning(
            "host=%s: everybody who reaches this machine may use the page; it asks for no password", host
        )
    print(f"page:    http://{shown}:{address[1]}/\nreviews: {reviews.folder}\nCtrl-C ends it", flush=True)
    try:
        make_server(app).run(sockets=[ear])
    except KeyboardInterrupt:  # the usual end
        print("\nstopped")


def _load(bundle: Path, threads: int | None) -> tuple[Inspector, Callable[[], object] | None]:
    """The inspector, and what the thread that judges has to set for itself."""
    if threads is None:
        threads = int(os.environ.get("OMP_NUM_THREADS") or len(os.sched_getaffinity(0)))
    inspector = load_inspector(bundle, threads=_whole("threads", threads, least=1))
    if is_export(bundle):  # which runs without torch
        return inspector, None
    from anomalib_lite.run import set_threads

    set_threads(threads)
    return inspector, lambda: set_threads(threads)


def _whole(name: str, value: object, *, least: int, most: float = math.inf) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        limit = f"at least {least}" if most == math.inf else f"from {least} to {most}"
        raise InputError(f"{name} must be a whole number {limit}, got {value}")
    return value
