"""`python export.py bundle=outputs/latest/bundle format=onnx`. Also `anomalib-lite-export`."""

import sys

from anomalib_lite.exporting.command import export_command

if __name__ == "__main__":
    sys.exit(export_command())
