"""What two statements about the making of features have in common."""

from __future__ import annotations

from fedsteph.common.config.extraction import UNSTATED, Extraction, stated

WHOLE = Extraction("uni_v2", 20.0, 256.0)


def test_only_what_both_state_can_differ() -> None:
    for same in (WHOLE, Extraction(), Extraction("uni_v2"), Extraction(None, 20.0, None)):
        assert WHOLE.agrees_with(same) and same.agrees_with(WHOLE)
    for other in (Extraction("uni_v1", 20.0, 256.0), Extraction(None, 40.0), Extraction(None, None, 512.0)):
        assert not WHOLE.agrees_with(other) and not other.agrees_with(WHOLE)


def test_one_fills_in_what_another_leaves_open() -> None:
    assert Extraction(None, 20.0).or_else(Extraction("uni_v2", 40.0, 256.0)) == WHOLE
    assert WHOLE.or_else(Extraction("uni_v1")) == WHOLE and Extraction().or_else(WHOLE) == WHOLE
    assert stated([Extraction(None, 20.0), Extraction("uni_v2", 40.0), WHOLE]) == WHOLE and stated([]) == UNSTATED


def test_it_is_told_in_words() -> None:
    assert str(WHOLE) == "uni_v2 at 20x, patches of 256 pixels"
    assert str(Extraction()) == "an unnamed encoder"
