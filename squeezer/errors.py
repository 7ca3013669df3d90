"""What can go wrong, by cause: every error has a stable code and a sentence that says what to do."""

from __future__ import annotations

from enum import StrEnum


class Code(StrEnum):
    """Stable identifiers of causes; a client may branch on them. `docs/errors.md` describes each."""

    # the recipe
    INVALID_RECIPE = "invalid_recipe"
    # the upload
    EMPTY_FILE = "empty_file"
    UNKNOWN_FORMAT = "unknown_format"
    TRUNCATED_FILE = "truncated_file"
    INVALID_SAFETENSORS = "invalid_safetensors"
    INVALID_CHECKPOINT = "invalid_checkpoint"
    INVALID_ARCHIVE = "invalid_archive"
    ARCHIVE_TOO_LARGE = "archive_too_large"
    INVALID_ONNX = "invalid_onnx"
    UNSAFE_PICKLE = "unsafe_pickle"
    UNSUPPORTED_DTYPE = "unsupported_dtype"
    UNSUPPORTED_FORMAT = "unsupported_format"
    NO_TENSORS = "no_tensors"
    UNSUPPORTED_NAMES = "unsupported_names"
    UNSUPPORTED_OPERATOR = "unsupported_operator"
    INVALID_GRAPH = "invalid_graph"
    MISSING_DEPENDENCY = "missing_dependency"
    FILE_NOT_FOUND = "file_not_found"
    MISMATCHED_ARCHITECTURE = "mismatched_architecture"
    # the data set
    UNKNOWN_DATA = "unknown_data"
    MISSING_ARRAY = "missing_array"
    INVALID_DATA = "invalid_data"
    TOO_FEW_ROWS = "too_few_rows"
    # the work
    NOTHING_TO_COMPRESS = "nothing_to_compress"
    NON_FINITE_WEIGHTS = "non_finite_weights"
    NON_FINITE_LOSS = "non_finite_loss"
    NO_DEVICE = "no_device"
    VERIFICATION_FAILED = "verification_failed"
    NOT_ACCEPTED = "not_accepted"
    EXPORT_FAILED = "export_failed"
    OUT_OF_MEMORY = "out_of_memory"
    DISK_FULL = "disk_full"
    DEADLINE_EXCEEDED = "deadline_exceeded"
    CRASHED = "crashed"
    LOST = "lost"
    INTERNAL = "internal"
    # the artifact
    CORRUPT_ARTIFACT = "corrupt_artifact"
    NOT_AN_ARTIFACT = "not_an_artifact"
    NEWER_ARTIFACT = "newer_artifact"
    ARTIFACT_TOO_LARGE = "artifact_too_large"
    NO_GRAPH = "no_graph"
    UNREADABLE_SOURCE = "unreadable_source"


class SqueezerError(Exception):
    """Base of all errors that a user can act on.

    `code` is stable; `detail` is one sentence or two that name the cause and the remedy.
    """

    def __init__(self, code: Code, detail: str) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail


class RecipeError(SqueezerError):
    """The specification is wrong; nothing was started."""

    def __init__(self, detail: str) -> None:
        super().__init__(Code.INVALID_RECIPE, detail)


class ModelError(SqueezerError):
    """The uploaded model cannot be read, or cannot be compressed as asked."""


class DataError(SqueezerError):
    """The data set cannot be read, or does not fit the network or the recipe's `data`."""


class ArtifactError(SqueezerError):
    """A `.sqz` file is damaged or is not one; `where` names the tensor or the section."""

    def __init__(self, detail: str, where: str, code: Code = Code.CORRUPT_ARTIFACT) -> None:
        super().__init__(code, f"{where}: {detail}")
        self.where = where
