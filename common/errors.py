"""Typed errors, rooted in one :class:`FedstephError`, and the exit code that each family ends a command with.

Every error says what was wrong, where (file, row, key) and how to mend it. The full text is for the
person at the machine where it happened; ``public_reason`` is the only part that may leave a site: a
fixed phrase per class, so that no path, ID or number can slip into a message to the coordinator.
"""

from __future__ import annotations

from pathlib import Path

EXIT_DONE = 0
EXIT_INPUT = 1
EXIT_FEDERATION = 2
EXIT_BUG = 3
EXIT_STOPPED = 130  # by Ctrl-C or a plain kill


class FedstephError(Exception):
    """Root of all errors that fedsteph raises on purpose.

    Args:
        what: what was wrong, as one sentence without a full stop.
        where: the file, row or key at which it was found.
        remedy: what the user can do about it.
        details: a table or the like, which stands above the sentence.
    """

    exit_code = EXIT_INPUT
    public_reason = "the site refused the request"

    def __init__(
        self,
        what: str,
        *,
        where: str | Path | None = None,
        remedy: str | None = None,
        details: str | None = None,
    ) -> None:
        self.what = what
        self.where = None if where is None else str(where)
        self.remedy = remedy
        text = what if self.where is None else f"{self.where}: {what}"
        self.sentence = text if remedy is None else f"{text}. {remedy}"
        self.details = details
        super().__init__(self.sentence if details is None else f"{details}\n\n{self.sentence}")


class ConfigError(FedstephError):
    """A configuration key is unknown, missing or out of its range."""

    public_reason = "the site could not accept the configuration"


class DataError(FedstephError):
    """A site's data cannot be used as it is."""

    public_reason = "the site's data did not pass its check"


class FeatureFileError(DataError):
    """A feature file is unreadable, of an unknown layout, or holds values that are not features."""


class EmptyBagError(FeatureFileError):
    """A feature file holds no instance (N = 0)."""


class NonFiniteError(FeatureFileError):
    """A feature file holds NaN or Inf."""


class WidthError(FeatureFileError):
    """A feature file's width is not the one expected."""


class EncoderError(FeatureFileError):
    """Feature files are of another encoder than the federation's."""


class UnsafePickleError(FeatureFileError):
    """A ``.pt`` file holds more than plain tensors, so loading it could run code."""


class LabelError(DataError):
    """The label table is unreadable or contradicts itself."""


class SplitError(DataError):
    """A split is unreadable, leaks patients between its parts, or cannot be made."""


class TooSmallError(DataError):
    """A site has too few patients or events for what was asked."""

    public_reason = "the site has too little data for this task"


class DeviceError(FedstephError):
    """The device that was asked for is not there."""

    public_reason = "the site does not have the device that it is configured for"


class TrainingError(FedstephError):
    """A training diverged: its loss is not finite."""

    public_reason = "the training at the site diverged"


class VectorError(FedstephError):
    """A task vector, or the file that carries it, is not what it must be."""

    public_reason = "a task vector was refused"


class VectorFileError(VectorError):
    """The bytes are not a well-formed vector file."""


class VectorMismatchError(VectorError):
    """Two vectors (or a vector and this federation) differ in architecture or in M0."""

    public_reason = "the model or its initial weights differ from the federation's"


class EnvelopeError(VectorError):
    """An envelope is malformed, altered, or meant for another run, sender or recipient."""

    public_reason = "an envelope was refused"


class ModelFileError(FedstephError):
    """A saved model cannot be read or does not fit the data."""


class ProtocolError(FedstephError):
    """A message does not follow the protocol."""

    exit_code = EXIT_FEDERATION
    public_reason = "the message did not follow the protocol"


class SiteError(FedstephError):
    """A site failed, answered with an error, or never answered."""

    exit_code = EXIT_FEDERATION


class QuorumError(FedstephError):
    """Too few sites are left to go on."""

    exit_code = EXIT_FEDERATION


class EngineError(FedstephError):
    """Flower could not be started, or ended a run without a result."""

    exit_code = EXIT_FEDERATION


class RunFolderError(FedstephError):
    """A run folder belongs to another configuration or is damaged."""
