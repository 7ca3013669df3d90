"""A child as `scripted_child.py` is one, inside the sandbox."""

import sys
from pathlib import Path

from squeezer import sandbox

source = Path(__file__).with_name("scripted_child.py").read_text()
sandbox.enter(Path(sys.argv[2]))
exec(compile(source, "scripted_child.py", "exec"))  # noqa: S102 - the tests' own
