"""``python -m anchor_utils.run PRESET ...`` is ``python -m anchor_utils run PRESET ...``."""

import sys

from anchor_utils.__main__ import main

if __name__ == "__main__":
    sys.exit(main(["run", *sys.argv[1:]]))
