"""All errors of fedsteph: subclasses of :class:`FedstephError`, each with an exit code and a public phrase.

Every error says what was wrong, where (file, row, key) and how to fix it. The full text is for the user at the machine
where it happened. Only ``public_reason`` may leave a site. It is a fixed phrase per class, so that no path, ID or
number can get into a message to the coordinator.
"""

from __future__ import annotations

import re
from pathlib import Path

# In a stranger's file or name: it moves a terminal's cursor, or is no text that can be printed.
_UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")

EXIT_DONE = 0
EXIT_INPUT = 1
EXIT_FEDERATION = 2
EXIT_BUG = 3
EXIT_STOPPED = 130  # by Ctrl-C or SIGTERM


class FedstephError(Exception):
    """Base class of all errors that fedsteph raises on purpose.

    Args:
        what: what was wrong, as one sentence without a full stop.
        where: the file, row or key where it was found.
        remedy: what the user can do about it.
        details: a longer text, such as a table, shown above the sentence.
    """

    exit_code = EXIT_INPUT
    public_reason = "the site refused the request"
    public_kind: str | None = None  # class name for the coordinator, where the true name would reveal too much

    def __init__(
        self,
        what: str,
        *,
        where: str | Path | None = None,
        remedy: str | None = None,
        details: str | None = None,
    ) -> None:
        what = _printable(what)
        self.what = what
        self.where = None if where is None else _printable(str(where))
        self.remedy = remedy
        text = what if self.where is None else f"{self.where}: {what}"
        self.sentence = text if remedy is None else f"{text}. {remedy}"
        self.details = details = None if details is None else _printable(details)
        super().__init__(self.sentence if details is None else f"{details}\n\n{self.sentence}")


def _printable(text: str) -> str:
    return _UNPRINTABLE.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


class ConfigError(FedstephError):
    """A configuration key is unknown, missing or out of range."""

    public_reason = "the site could not accept the configuration"


class DataError(FedstephError):
    """A site's data cannot be used. The coordinator does not learn which check failed."""

    public_reason = "the site's data did not pass its check"
    public_kind = "DataError"


class FeatureFileError(DataError):
    """A feature file is unreadable, has an unknown layout, or holds values that are not features."""


class EmptyBagError(FeatureFileError):
    """A feature file holds no instances."""


class NonFiniteError(FeatureFileError):
    """A feature file holds NaN or Inf."""


class WidthError(FeatureFileError):
    """A feature file does not have the expected width (features per instance)."""


class EncoderError(FeatureFileError):
    """Feature files were made by another feature encoder than the federation's."""


class UnsafePickleError(FeatureFileError):
    """A ``.pt`` file holds more than tensors, so loading it could execute code."""


class LabelError(DataError):
    """The label table is unreadable or contradicts itself."""


class SplitError(DataError):
    """A split is unreadable, has the same patient in two parts, or cannot be made."""


class TooSmallError(DataError):
    """A site has too few patients or events for the task."""


class DeviceError(FedstephError):
    """The configured device is not available."""

    public_reason = "the site does not have the device that it is configured for"


class StorageError(FedstephError):
    """The site's disk cannot be read or written, or is full."""

    public_reason = "the site could not read or write its disk, and its log has the details"


class TrainingError(FedstephError):
    """Training diverged: the loss is not finite."""

    public_reason = "the training at the site diverged"


class VectorError(FedstephError):
    """A task vector or its file is invalid."""

    public_reason = "a task vector was refused"


class VectorFileError(VectorError):
    """The bytes are not a valid vector file."""


class VectorMismatchError(VectorError):
    """Two vectors (or a vector and this federation) differ in architecture or in M0."""

    public_reason = "the model or its initial weights differ from the federation's"


class VectorRangeError(VectorError):
    """A value of a vector is out of range for the dtype in which the recipe shares vectors."""

    public_reason = "its task vector does not fit the number format of the recipe"


class EnvelopeError(VectorError):
    """An envelope was refused; each subclass is one reason."""

    public_reason = "an envelope was refused"


class MalformedEnvelopeError(EnvelopeError):
    """The bytes are not an envelope of this format version."""

    public_reason = "the envelope was malformed"


class TruncatedEnvelopeError(MalformedEnvelopeError):
    """The envelope ends before its stated length."""

    public_reason = "the envelope was cut short"


class UnknownSenderError(EnvelopeError):
    """The sender is not in the pinned roster."""

    public_reason = "the envelope's sender is not in the roster"


class SwappedEnvelopeError(EnvelopeError):
    """The envelope was delivered under another site's name than its sender's."""

    public_reason = "the envelope is another sender's"


class WrongRecipientError(EnvelopeError):
    """The envelope is addressed to another site."""

    public_reason = "the envelope is for another recipient"


class WrongRunError(EnvelopeError):
    """The envelope belongs to another run or federation."""

    public_reason = "it is of another run"


class WrongModelError(EnvelopeError):
    """The envelope holds a vector of another architecture, M0 or recipe."""

    public_reason = "the envelope is of another model, M0 or recipe"


class AlteredEnvelopeError(EnvelopeError):
    """The sealed bytes do not have the SHA-256 that the header states."""

    public_reason = "the envelope was altered on its way"


class ForgedEnvelopeError(EnvelopeError):
    """The signature does not verify with the sender's key in the roster."""

    public_reason = "the envelope's signature is not its sender's"


class WrongKeyError(EnvelopeError):
    """The envelope is genuine, but was sealed to another public key than the recipient's."""

    public_reason = "the envelope was sealed to another key"


class ReplayedEnvelopeError(EnvelopeError):
    """The envelope is a replay: it, or a later one of the same sender, was accepted before."""

    public_reason = "the envelope was used before"


class KeyFormatError(FedstephError):
    """A text is not a key of the expected type."""

    public_reason = "the site's keys cannot be used"


class KeyFileError(FedstephError):
    """A secret key file is missing, or other users of the machine can access it."""

    public_reason = "the site's keys cannot be used"


class RosterError(FedstephError):
    """The roster is unreadable, inconsistent, or not the pinned one."""

    public_reason = "the site's roster is not the federation's"


class MembershipError(FedstephError):
    """``site.yaml`` lacks settings that are needed to take part in a federation."""

    public_reason = "the site is not set up for this federation"


class PolicyError(FedstephError):
    """The site's policy does not allow the request."""

    public_reason = "the site's policy does not allow this"


class TargetPolicyError(PolicyError):
    """The policy does not allow the vector to be sent to this target."""

    public_reason = "the site's policy does not let its vector go to this target"


class UnknownRecipientError(PolicyError):
    """The recipient is not in the pinned roster."""

    public_reason = "the site's policy does not let its vector go to a site outside its roster"


class RecipePolicyError(PolicyError):
    """The policy does not allow this recipe."""

    public_reason = "the site's policy does not allow this recipe"


class SizePolicyError(PolicyError):
    """The site has fewer patients or events than its policy requires for sharing."""

    public_reason = "the site is smaller than its policy asks for"


class UnsealedPolicyError(PolicyError):
    """The policy does not allow unsealed updates to the server, which FedAvg and FedProx need."""

    public_reason = "its policy lets no update go to the server unsealed"


class PrivacyPolicyError(PolicyError):
    """The policy requires a privacy setting that the vector was not trained with."""

    public_reason = "the site's policy asks for another privacy setting"


class AttackPolicyError(PolicyError):
    """The policy limits the success of attacks on the vector: none was run on it, or one exceeded the limit."""

    public_reason = "the site's policy shares no vector that its own attack has not found safe enough"


class BudgetPolicyError(PolicyError):
    """With this vector, all that the site has shared would exceed the privacy budget of its policy."""

    public_reason = "the site's policy lets it spend no more privacy"


class DailyPolicyError(PolicyError):
    """The site has taken part in as many runs, or answered as many merges, as its policy allows within a day."""

    public_reason = "the site's policy lets it answer no more runs or merges today"


class LedgerError(FedstephError):
    """The privacy ledger is missing, damaged, or does not match the audit log."""

    public_reason = "its privacy ledger does not hold together"


class AuditError(FedstephError):
    """An audit log was edited, truncated or reordered, or cannot be written."""

    public_reason = "the site's audit log cannot be written"


class DeploymentError(FedstephError):
    """A server file, a certificate or a folder of a deployment is missing or invalid."""


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
    """Fewer sites are left than the quorum."""

    exit_code = EXIT_FEDERATION


class EngineError(FedstephError):
    """Flower could not be started, or ended a run without a result."""

    exit_code = EXIT_FEDERATION


class RunFolderError(FedstephError):
    """A run folder belongs to another configuration or is damaged."""


def public_phrases() -> dict[str, str]:
    """The public phrase of every error class, by class name."""
    found: dict[str, str] = {}
    waiting: list[type[FedstephError]] = [FedstephError]
    while waiting:
        cls = waiting.pop()
        found[cls.__name__] = cls.public_reason
        waiting += cls.__subclasses__()
    return found
