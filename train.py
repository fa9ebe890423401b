"""`python train.py model=cpcae data=zipper`: learn, calibrate, test, report. Also `anomalib-lite-train`."""

import sys

from anomalib_lite.run import train_command

if __name__ == "__main__":
    sys.exit(train_command())
