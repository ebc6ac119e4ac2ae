"""``python -m anchor_utils.run PRESET [--notebooks 01 05] [-p name value]`` executes the notebooks of the course."""

import sys

from course.runner import main

if __name__ == "__main__":
    sys.exit(main())
