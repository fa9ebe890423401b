"""`python predict.py bundle=outputs/latest/bundle source=new_parts/`. Also `anomalib-lite-predict`."""

import sys

from anomalib_lite.run import predict_command

if __name__ == "__main__":
    sys.exit(predict_command())
