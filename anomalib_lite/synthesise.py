"""`python -m anomalib_lite.synthesise source=parts/good`: the command without its script."""

import sys

from anomalib_lite.run import synthesise_command

if __name__ == "__main__":
    sys.exit(synthesise_command())
