"""`python -m anomalib_lite.runtime <export> <picture or folder>`: a JSON line a part, on stdout."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from anomalib_lite.data.images import list_images, read_image
from anomalib_lite.inspector import examine, unreadable
from anomalib_lite.lines import part_line
from anomalib_lite.runtime.exported import Exported
from anomalib_lite.stream_files import ConsumerGone, StandardOutput
from anomalib_lite.types import InputError


def main(arguments: Sequence[str] | None = None) -> int:
    """Judge photographs; the exit code is 0 if every part is good, 1 if one is not, 2 for a mistake."""
    parser = argparse.ArgumentParser(prog="python -m anomalib_lite.runtime", description=__doc__)
    parser.add_argument("export", type=Path, help="the export's folder")
    parser.add_argument("source", type=Path, help="a picture or a folder of pictures")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    typed = parser.parse_args(arguments)
    if typed.threads < 1:
        parser.error(f"--threads: expected at least 1, got {typed.threads}")
    try:
        return _judge(Exported.load(typed.export, threads=typed.threads), typed.source)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except ConsumerGone:  # who has enough lines
        return 0


def _judge(exported: Exported, source: Path) -> int:
    writer, code = StandardOutput(), 0
    for path in [source] if source.is_file() else list_images(source):
        try:
            examined = examine(exported, read_image(path), path)
        except InputError as error:
            examined = unreadable(path, str(error))
        now = datetime.now().astimezone()
        writer.write(part_line(examined, time=now, where={"path": str(path)}, drift=None))
        code |= examined.verdict in ("defective", "rejected")
    return code


if __name__ == "__main__":
    sys.exit(main())
