"""`python serve.py bundle=outputs/latest/bundle`: a page to look at. Also `anomalib-lite-serve`."""

import sys

from anomalib_lite.serving.command import serve_command

if __name__ == "__main__":
    sys.exit(serve_command())
