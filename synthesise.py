"""`python synthesise.py source=parts/good`: defects pasted onto good parts. Also `anomalib-lite-synthesise`."""

import sys

from anomalib_lite.run import synthesise_command

if __name__ == "__main__":
    sys.exit(synthesise_command())
