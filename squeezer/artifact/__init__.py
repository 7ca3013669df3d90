"""The `.sqz` file. `docs/format.md` describes it byte by byte."""

from squeezer.artifact.reader import Artifact
from squeezer.artifact.sources import Source
from squeezer.artifact.writer import ArtifactWriter

__all__ = ["Artifact", "ArtifactWriter", "Source"]
