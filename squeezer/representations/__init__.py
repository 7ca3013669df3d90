"""What is *stored* for one tensor. Numpy only; the trainable counterparts live in `squeezer.training`.

A representation is frozen and answers three questions: which weights it stands for (`decode`), which
arrays must be written (`records`), and about how many bits they will take (`cost_bits`).
"""

from squeezer.representations.base import Record, Representation, Role, digest
from squeezer.representations.dense import Dense
from squeezer.representations.masked import Masked
from squeezer.representations.shared import Shared
from squeezer.representations.trellis import Trellis
from squeezer.representations.uniform import Uniform

#: Every representation by its name. A new one is a new file and one entry here.
REPRESENTATIONS: dict[str, type[Representation]] = {cls.kind: cls for cls in (Dense, Masked, Shared, Uniform, Trellis)}

__all__ = [
    "REPRESENTATIONS",
    "Dense",
    "Masked",
    "Record",
    "Representation",
    "Role",
    "Shared",
    "Trellis",
    "Uniform",
    "digest",
]
