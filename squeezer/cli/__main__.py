"""`python -m squeezer.cli`."""

import sys

from squeezer.cli import main

sys.exit(main())
