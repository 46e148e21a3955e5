"""Whether an enhanced model is trusted: three sentences, each red flag at its limit, and what a reader is told."""

from __future__ import annotations

from dataclasses import replace

from each_case import each
from target_results import BETTER, UNSURE, WORSE, make_result

from fedsteph.client.report.answer import answer_of
from fedsteph.client.report.target_sections import deployed_sentence
from fedsteph.client.target.target_result import TargetResult


def names(result: TargetResult) -> list[str]:
    return [flag.name for flag in result.trust.flags]


@each(
    ("c", "uno", "state", "flags"),
    [
        (BETTER, BETTER, "better", []),
        (BETTER, UNSURE, "better", []),
        (UNSURE, BETTER, "not shown", []),
        (UNSURE, UNSURE, "not shown", []),
        (WORSE, WORSE, "worse", []),
        (WORSE, (-0.05, 0.01), "worse", []),
        (BETTER, WORSE, "not shown", ["C-index and Uno's C disagree"]),
        (BETTER, (-0.05, 0.01), "not shown", ["C-index and Uno's C disagree"]),
        (WORSE, BETTER, "not shown", ["C-index and Uno's C disagree"]),
        ((-0.05, 0.01), BETTER, "not shown", ["C-index and Uno's C disagree"]),
        (BETTER, None, "not shown", ["Uno's C unknown"]),
        ((0.0, 0.04), BETTER, "not shown", []),
    ],
)
def test_the_state_is_that_of_both_paired_intervals(c, uno, state, flags):
    result = make_result(c, uno)
    assert (result.trust.state, names(result)) == (state, flags)
    words = {"better": "is better than", "worse": "is worse than", "not shown": "is not shown to be better than"}
    assert result.trust.sentence.startswith(f"The enhanced model {words[state]} the local one: C-index ")
    assert result.trust.is_given == (state == "better" and not flags)


def test_each_red_flag_and_its_limit():
    def row(name: str, **more):
        methods = make_result().methods
        return {"methods": methods | {name: replace(methods[name], **more)}}

    for changes, flag in (
        ({"n_events": 50}, []),
        ({"n_events": 49}, ["too few events", "screening on a small target"]),
        ({"spread": 0.019}, ["predictions hardly vary"]),
        ({"spread": 0.02}, []),
        (row("deployed", further={"calibration_gap_3y": -0.11}), ["calibration off"]),
        (row("deployed", further={"calibration_gap_3y": 0.1}), []),
        (row("deployed", further={}), []),
        (row("deployed", useful=(False, False)), ["no model is useful"]),
        (row("deployed", useful=(False, True)), []),
        (row("deployed", choice=("local", "local")), ["mostly not deployed"]),
        (row("deployed", choice=("local", "panel")), []),
        ({"unequal": "steph.epochs is set"}, ["unequal training"]),
    ):
        result = make_result(**changes)
        assert names(result) == flag and result.trust.is_given == (not flag), changes
    refused = make_result(weight=0.0)
    assert names(refused) == ["sources refused"] and "refused b in" in refused.trust.flags[0].sentence
    assert names(make_result(weight=0.5)) == []


def test_a_model_that_is_no_better_than_chance_is_not_praised():
    """0.427 is above 0.4, and the difference is established: it is still not shown to be of use."""
    result = make_result(own=(0.39, 0.464))
    assert result.trust.state == "not shown" and names(result) == ["near chance"]
    assert "The best C-index, 0.427, is not above chance" in result.trust.flags[0].sentence
    assert "is better than" not in answer_of("kirp", result).sentence


def test_the_page_begins_with_the_sentence_and_its_flags_and_says_nothing_twice():
    result = make_result(n_events=20, spread=0.01)
    answer = answer_of("kirp", result, ["Made today."])
    assert answer.state == "better" and answer.sentence == "At kirp, the enhanced model is better than the local one."
    assert "0.030" in answer.number and answer.facts[-1] == "Made today."
    assert answer.flags == [flag.sentence for flag in result.trust.flags] and len(answer.flags) == 3
    last = "Inner cross-validation deploys the enhanced model (the panel) in every fold."
    assert deployed_sentence(result) == last
    told = result.to_dict()["trust"]
    assert (told["state"], [flag["name"] for flag in told["flags"]]) == ("better", names(result))
    mixed = deployed_sentence(make_result(choice=("local", "panel")))
    assert "in 1 of 2 folds" in mixed and "what is deployed is better than the local model by 0.030" in mixed


def test_a_result_of_an_earlier_version_is_read_and_not_trusted(tmp_path):
    content = make_result().to_dict()
    for key in ("spread", "unequal", "trust"):
        del content[key]
    for key in ("uno_mean", "uno_interval_95"):
        del content["steph_minus_local"][key]
    old = TargetResult.of(content, tmp_path)
    assert (old.trust.state, names(old)) == ("not shown", ["Uno's C unknown"])
    assert TargetResult.of(make_result().to_dict(), tmp_path) == make_result()
