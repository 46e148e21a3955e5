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

    exit_code: int = EXIT_INPUT
    public_reason: str = "the site refused the request"
    public_kind: str | None = None  # class name for the coordinator, where the true name would reveal too much

    def __init_subclass__(cls, reason: str = "", kind: str | None = None, exit_code: int = 0) -> None:
        """What a class does not give is its base class's."""
        cls.public_reason = reason or cls.public_reason
        cls.public_kind = kind or cls.public_kind
        cls.exit_code = exit_code or cls.exit_code

    def __init__(
        self, what: str, *, where: str | Path | None = None, remedy: str | None = None, details: str | None = None
    ) -> None:
        self.what = what = _printable(what)
        self.where = None if where is None else _printable(str(where))
        self.remedy = remedy
        text = what if self.where is None else f"{self.where}: {what}"
        self.sentence = text if remedy is None else f"{text}. {remedy}"
        self.details = details = None if details is None else _printable(details)
        super().__init__(self.sentence if details is None else f"{details}\n\n{self.sentence}")


def _printable(text: str) -> str:
    return _UNPRINTABLE.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


class ConfigError(FedstephError, reason="the site could not accept the configuration"):
    """A configuration key is unknown, missing or out of range."""


class DataError(FedstephError, reason="the site's data did not pass its check", kind="DataError"):
    """A site's data cannot be used. The coordinator does not learn which check failed."""


class FeatureFileError(DataError):
    """A feature file is unreadable, has an unknown layout, or holds values that are not features."""


class EmptyBagError(FeatureFileError):
    """A feature file holds no instances."""


class NonFiniteError(FeatureFileError):
    """A feature file holds NaN or Inf."""


class WidthError(FeatureFileError):
    """A feature file does not have the expected width (features per instance)."""


class EncoderError(FeatureFileError):
    """Feature files were made by another encoder, at another magnification or patch size, than those they go with."""


class UnsafePickleError(FeatureFileError):
    """A ``.pt`` file holds more than tensors, so loading it could execute code."""


class LabelError(DataError):
    """The label table is unreadable or contradicts itself."""


class SplitError(DataError):
    """A split is unreadable, has the same patient in two parts, or cannot be made."""


class TooSmallError(DataError):
    """A site has too few patients or events for the task."""


class DeviceError(FedstephError, reason="the site does not have the device that it is configured for"):
    """The configured device is not available."""


class StorageError(FedstephError, reason="the site could not read or write its disk, and its log has the details"):
    """The site's disk cannot be read or written, or is full."""


class TrainingError(FedstephError, reason="the training at the site diverged"):
    """Training diverged: the loss is not finite."""


class VectorError(FedstephError, reason="a task vector was refused"):
    """A task vector or its file is invalid."""


class VectorFileError(VectorError):
    """The bytes are not a valid vector file."""


class VectorMismatchError(VectorError, reason="the model or its initial weights differ from the federation's"):
    """Two vectors (or a vector and this federation) differ in architecture or in M0."""


class VectorRangeError(VectorError, reason="its task vector does not fit the number format of the recipe"):
    """A value of a vector is out of range for the dtype in which the recipe shares vectors."""


class EnvelopeError(VectorError, reason="an envelope was refused"):
    """An envelope was refused; each subclass is one reason."""


class MalformedEnvelopeError(EnvelopeError, reason="the envelope was malformed"):
    """The bytes are not an envelope of this format version."""


class TruncatedEnvelopeError(MalformedEnvelopeError, reason="the envelope was cut short"):
    """The envelope ends before its stated length."""


class UnknownSenderError(EnvelopeError, reason="the envelope's sender is not in the roster"):
    """The sender is not in the pinned roster."""


class SwappedEnvelopeError(EnvelopeError, reason="the envelope is another sender's"):
    """The envelope was delivered under another site's name than its sender's."""


class WrongRecipientError(EnvelopeError, reason="the envelope is for another recipient"):
    """The envelope is addressed to another site."""


class WrongRunError(EnvelopeError, reason="it is of another run"):
    """The envelope belongs to another run or federation."""


class WrongModelError(EnvelopeError, reason="the envelope is of another model, M0 or recipe"):
    """The envelope holds a vector of another architecture, M0 or recipe."""


class AlteredEnvelopeError(EnvelopeError, reason="the envelope was altered on its way"):
    """The sealed bytes do not have the SHA-256 that the header states."""


class ForgedEnvelopeError(EnvelopeError, reason="the envelope's signature is not its sender's"):
    """The signature does not verify with the sender's key in the roster."""


class WrongKeyError(EnvelopeError, reason="the envelope was sealed to another key"):
    """The envelope is genuine, but was sealed to another public key than the recipient's."""


class ReplayedEnvelopeError(EnvelopeError, reason="the envelope was used before"):
    """The envelope is a replay: it, or a later one of the same sender, was accepted before."""


class StaleEnvelopeError(EnvelopeError, reason="the envelope came too late"):
    """The days that its sender lets the vector be kept are over."""


class OtherRosterError(EnvelopeError, reason="its sender has got another roster"):
    """Sender and recipient were given two different additions to one roster."""


class KeyFormatError(FedstephError, reason="the site's keys cannot be used"):
    """A text is not a key of the expected type."""


class KeyFileError(FedstephError, reason="the site's keys cannot be used"):
    """A secret key file is missing, or other users of the machine can access it."""


class RosterError(FedstephError, reason="the site's roster is not the federation's"):
    """The roster is unreadable, inconsistent, or not the pinned one."""


class RosterSignatureError(RosterError, reason="the new roster is not signed by the key that the site pins"):
    """A roster that was sent is unsigned, signed by another key, too large, or another than the signed one."""


class RosterChangeError(RosterError, reason="the new roster does more than add sites, which people have to agree on"):
    """A roster that was sent changes or removes what the site knows."""


class RosterForkError(RosterError, reason="the site and the federation have got different rosters"):
    """A roster that was sent is older than the site's, or follows other rosters than the site's does."""


class MembershipError(FedstephError, reason="the site is not set up for this federation"):
    """``site.yaml`` lacks settings that are needed to take part in a federation."""


class PolicyError(FedstephError, reason="the site's policy does not allow this"):
    """The site's policy does not allow the request."""


class TargetPolicyError(PolicyError, reason="the site's policy does not let its vector go to this target"):
    """The policy does not allow the vector to be sent to this target."""


class UnknownRecipientError(
    PolicyError, reason="the site's policy does not let its vector go to a site outside its roster"
):
    """The recipient is not in the pinned roster."""


class KeepingPolicyError(PolicyError, reason="the site's policy lets its vector be used in a run only"):
    """The policy lets no recipient keep the vector, so it cannot travel as a file."""


class RecipePolicyError(PolicyError, reason="the site's policy does not allow this recipe"):
    """The policy does not allow this recipe."""


class SizePolicyError(PolicyError, reason="the site is smaller than its policy asks for"):
    """The site has fewer patients or events than its policy requires for sharing."""


class UnsealedPolicyError(PolicyError, reason="its policy lets no update go to the server unsealed"):
    """The policy does not allow unsealed updates to the server, which FedAvg and FedProx need."""


class PrivacyPolicyError(PolicyError, reason="the site's policy asks for another privacy setting"):
    """The policy requires a privacy setting that the vector was not trained with."""


class AttackPolicyError(
    PolicyError, reason="the site's policy shares no vector that its own attack has not found safe enough"
):
    """The policy limits the success of attacks on the vector: none was run on it, or one exceeded the limit."""


class BudgetPolicyError(PolicyError, reason="the site's policy lets it spend no more privacy"):
    """With this vector, all that the site has shared would exceed the privacy budget of its policy."""


class DailyPolicyError(PolicyError, reason="the site's policy lets it answer no more runs or merges today"):
    """The site has taken part in as many runs, or answered as many merges, as its policy allows within a day."""


class LedgerError(FedstephError, reason="its privacy ledger does not hold together"):
    """The privacy ledger is missing, damaged, or does not match the audit log."""


class AuditError(FedstephError, reason="the site's audit log cannot be written"):
    """An audit log was edited, truncated or reordered, or cannot be written."""


class BackupError(FedstephError):
    """A backup cannot be made or read: damaged, another passphrase, another version, or not what a backup holds."""


class TurnedBackError(BackupError):
    """A restore would turn back a ledger, a sequence number or the audit log."""


class DeploymentError(FedstephError):
    """A server file, a certificate or a folder of a deployment is missing or invalid."""


class ModelFileError(FedstephError):
    """A saved model cannot be read or does not fit the data."""


class ProtocolError(FedstephError, reason="the message did not follow the protocol", exit_code=EXIT_FEDERATION):
    """A message does not follow the protocol."""


class MissingEnvelopeError(ProtocolError, reason="an envelope that the server names did not come, or is another"):
    """A merge names an envelope that was not delivered, or is another than the one that lies there."""


class SiteError(FedstephError, exit_code=EXIT_FEDERATION):
    """A site failed, answered with an error, or never answered."""


class QuorumError(FedstephError, exit_code=EXIT_FEDERATION):
    """Fewer sites are left than the quorum."""


class EngineError(FedstephError, exit_code=EXIT_FEDERATION):
    """Flower could not be started, or ended a run without a result."""


class RunFolderError(FedstephError):
    """A run folder belongs to another configuration or is damaged."""


def public_phrases() -> dict[str, str]:
    """The public phrase of every error class, by class name."""
    found, waiting = {}, [FedstephError]
    while waiting:
        cls = waiting.pop()
        found[cls.__name__] = cls.public_reason
        waiting += cls.__subclasses__()
    return found
