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
    public_kind: str | None = None  # the class that the coordinator is told, where the true one would say too much

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
    """A site's data cannot be used as it is; which check failed is told to nobody."""

    public_reason = "the site's data did not pass its check"
    public_kind = "DataError"


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


class DeviceError(FedstephError):
    """The device that was asked for is not there."""

    public_reason = "the site does not have the device that it is configured for"


class StorageError(FedstephError):
    """The site's own disk cannot be written, or is full."""

    public_reason = "the site could not read or write its disk, and its log has the details"


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


class VectorRangeError(VectorError):
    """A number of a vector is too large for the dtype that the recipe lets vectors travel in."""

    public_reason = "its task vector does not fit the number format of the recipe"


class EnvelopeError(VectorError):
    """An envelope cannot be accepted; each of its subclasses is one way in which it cannot."""

    public_reason = "an envelope was refused"


class MalformedEnvelopeError(EnvelopeError):
    """The bytes are no envelope of this version."""

    public_reason = "the envelope was malformed"


class TruncatedEnvelopeError(MalformedEnvelopeError):
    """The envelope ends before its stated length."""

    public_reason = "the envelope was cut short"


class UnknownSenderError(EnvelopeError):
    """The sender is not in the pinned roster."""

    public_reason = "the envelope's sender is not in the roster"


class SwappedEnvelopeError(EnvelopeError):
    """The envelope was made by another site than the one that it was delivered for."""

    public_reason = "the envelope is another sender's"


class WrongRecipientError(EnvelopeError):
    """The envelope was made for another site."""

    public_reason = "the envelope is for another recipient"


class WrongRunError(EnvelopeError):
    """The envelope was made in another run or federation."""

    public_reason = "it is of another run"


class WrongModelError(EnvelopeError):
    """The envelope holds a vector of another architecture, M0 or recipe."""

    public_reason = "the envelope is of another model, M0 or recipe"


class AlteredEnvelopeError(EnvelopeError):
    """The sealed bytes are not those that the header was written for."""

    public_reason = "the envelope was altered on its way"


class ForgedEnvelopeError(EnvelopeError):
    """The signature is not by the roster's key of the sender."""

    public_reason = "the envelope's signature is not its sender's"


class WrongKeyError(EnvelopeError):
    """The envelope is genuine, and was sealed to another key than the one at hand."""

    public_reason = "the envelope was sealed to another key"


class ReplayedEnvelopeError(EnvelopeError):
    """The envelope, or a later one of the same sender, was accepted before."""

    public_reason = "the envelope was used before"


class KeyFormatError(FedstephError):
    """A text is not a key of the type that it must be."""

    public_reason = "the site's keys cannot be used"


class KeyFileError(FedstephError):
    """A secret key's file is missing, or other users of the machine can reach it."""

    public_reason = "the site's keys cannot be used"


class RosterError(FedstephError):
    """The roster is unreadable, inconsistent, or not the pinned one."""

    public_reason = "the site's roster is not the federation's"


class MembershipError(FedstephError):
    """The site file lacks what taking part in a federation needs."""

    public_reason = "the site is not set up for this federation"


class PolicyError(FedstephError):
    """The site's own policy does not allow what was asked."""

    public_reason = "the site's policy does not allow this"


class TargetPolicyError(PolicyError):
    """The policy does not let the vector go to that target."""

    public_reason = "the site's policy does not let its vector go to this target"


class UnknownRecipientError(PolicyError):
    """The recipient is not in the pinned roster."""

    public_reason = "the site's policy does not let its vector go to a site outside its roster"


class RecipePolicyError(PolicyError):
    """The policy does not allow this recipe."""

    public_reason = "the site's policy does not allow this recipe"


class SizePolicyError(PolicyError):
    """The site has fewer patients or events than its policy asks for before it shares."""

    public_reason = "the site is smaller than its policy asks for"


class UnsealedPolicyError(PolicyError):
    """The site's policy lets no update go to the server unsealed, as FedAvg and FedProx need it."""

    public_reason = "its policy lets no update go to the server unsealed"


class PrivacyPolicyError(PolicyError):
    """The policy asks for a privacy setting that the vector was not trained with."""

    public_reason = "the site's policy asks for another privacy setting"


class AttackPolicyError(PolicyError):
    """The policy limits what an attack on the vector may achieve; none was made on this one, or one achieved more."""

    public_reason = "the site's policy shares no vector that its own attack has not found safe enough"


class BudgetPolicyError(PolicyError):
    """All that this site has shared would cost more privacy than its policy lets it spend."""

    public_reason = "the site's policy lets it spend no more privacy"


class LedgerError(FedstephError):
    """The privacy ledger is missing, damaged, or not the one that the audit log knows."""

    public_reason = "its privacy ledger does not hold together"


class AuditError(FedstephError):
    """An audit log was edited, cut, reordered, or cannot be written."""

    public_reason = "the site's audit log cannot be written"


class DeploymentError(FedstephError):
    """A server's file, a certificate or a folder of a deployment is not what it must be."""


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


def public_phrases() -> dict[str, str]:
    """What may be said of each class of error, by its name."""
    found: dict[str, str] = {}
    waiting: list[type[FedstephError]] = [FedstephError]
    while waiting:
        cls = waiting.pop()
        found[cls.__name__] = cls.public_reason
        waiting += cls.__subclasses__()
    return found
