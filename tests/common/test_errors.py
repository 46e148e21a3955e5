"""What an error says to the person in front of it, and how little of it may leave a site."""

from __future__ import annotations

import pickle
import re
from pathlib import Path

from each_case import each

from fedsteph.common import errors
from fedsteph.common.errors import DataError, FedstephError


def tree(cls: type[FedstephError]) -> list[type[FedstephError]]:
    """A class of error and all below it."""
    return [cls, *(found for below in cls.__subclasses__() for found in tree(below))]


CLASSES = list(dict.fromkeys(tree(FedstephError)))
FEDERATION = {"ProtocolError", "MissingEnvelopeError", "SiteError", "QuorumError", "EngineError"}


@each(
    ("where", "remedy", "details", "expected"),
    [
        (None, None, None, "it is empty"),
        ("labels.csv, row 3", None, None, "labels.csv, row 3: it is empty"),
        (Path("a/b.h5"), "Remove it", None, "a/b.h5: it is empty. Remove it"),
        (None, "Remove it", "a | b", "a | b\n\nit is empty. Remove it"),
    ],
)
def test_text(where: str | Path | None, remedy: str | None, details: str | None, expected: str) -> None:
    error = DataError("it is empty", where=where, remedy=remedy, details=details)
    assert str(error) == expected and error.sentence == expected.rpartition("\n")[2]
    assert error.where == (None if where is None else str(where))


@each("cls", CLASSES)
def test_every_class_has_an_exit_code_and_a_fixed_public_phrase(cls: type[FedstephError]) -> None:
    error = cls("secret P001", where="/data/P001.h5", remedy="secret remedy", details="secret table")
    assert error.exit_code == (2 if cls.__name__ in FEDERATION else 1) and error.public_reason == cls.public_reason
    assert error.public_reason.isprintable() and 10 < len(error.public_reason) <= 120
    assert "public_reason" not in vars(error)


@each("cls", CLASSES)
def test_a_public_phrase_is_a_phrase(cls: type[FedstephError]) -> None:
    """One short line of words: no digit, no path, no placeholder, no end of a sentence."""
    assert re.fullmatch(r"[a-zA-Z' -]+(, [a-zA-Z' -]+)*", cls.public_reason.replace("M0", "M")) is not None
    assert cls.public_reason.strip() == cls.public_reason and len(cls.public_reason.split()) >= 4


def test_every_way_to_refuse_an_envelope_says_which_it_is() -> None:
    """A coordinator tells them apart by the phrase as well as by the class."""
    phrases = [cls.public_reason for cls in tree(errors.EnvelopeError)]
    assert len(set(phrases)) == len(phrases) == 14


def test_what_is_wrong_with_the_data_is_told_to_nobody() -> None:
    """One class and one phrase for all of them, so that a coordinator cannot ask questions by trying."""
    found = tree(DataError)
    assert {"TooSmallError", "EmptyBagError", "SplitError", "LabelError"} < {cls.__name__ for cls in found}
    assert {(cls.public_kind, cls.public_reason) for cls in found} == {
        ("DataError", "the site's data did not pass its check")
    }
    assert {cls for cls in CLASSES if cls.public_kind is not None} == set(found)


def test_the_public_phrases_are_those_of_all_classes() -> None:
    assert errors.public_phrases() == {cls.__name__: cls.public_reason for cls in CLASSES}
    assert len(errors.public_phrases()) == len(CLASSES)
    assert errors.public_phrases()["WrongRunError"] == "it is of another run"


@each("cls", tree(errors.PolicyError))
def test_a_refusal_by_policy_says_that_it_is_one(cls: type[FedstephError]) -> None:
    assert "policy" in cls.public_reason


def test_all_errors_stand_in_one_module() -> None:
    """So that the list above is whole, whatever a test happens to import."""
    assert {cls.__module__ for cls in CLASSES} == {errors.__name__}
    found = {c for c in vars(errors).values() if isinstance(c, type) and issubclass(c, FedstephError)}
    assert found == set(CLASSES)


def test_exit_codes_differ() -> None:
    codes = [errors.EXIT_DONE, errors.EXIT_INPUT, errors.EXIT_FEDERATION, errors.EXIT_BUG]
    assert codes == [0, 1, 2, 3] and len(CLASSES) > 45


def test_an_error_survives_the_way_out_of_a_worker_process() -> None:
    error = DataError("it is empty", where="a", remedy="Remove it", details="a | b")
    found = pickle.loads(pickle.dumps(error))
    assert (type(found), str(found), found.sentence, found.where) == (DataError, str(error), error.sentence, "a")
