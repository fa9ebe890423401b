"""`python benchmark.py benchmark.models=[cpcae,variation] benchmark.data=[zipper]`: methods side by side."""

import sys

from anomalib_lite.benchmark.command import benchmark_command

if __name__ == "__main__":
    sys.exit(benchmark_command())
