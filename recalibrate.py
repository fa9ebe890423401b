"""`python recalibrate.py bundle=outputs/latest/bundle source=new_good_parts/`. Also `anomalib-lite-recalibrate`."""

import sys

from anomalib_lite.recalibration import recalibrate_command

if __name__ == "__main__":
    sys.exit(recalibrate_command())
