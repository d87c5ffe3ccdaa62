"""Where the sentences of a text come from."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from readingroom.errors import Invalid
from readingroom.model import CriticalResult, FollowUp, Passage
from server.reports.drafting import Offer, Text, WrittenSection, attributed, checked, digest, sentences, unaccepted

AI = Offer.of("There is an acute subdural haematoma of 9 mm. There is no shift of the midline. ", "ai", "triage")


def origins(text: str, *offers: Offer) -> list[str]:
    return [passage.origin for passage in attributed(text, offers)]


@given(st.text(max_size=400))
def test_nothing_of_a_text_is_lost_when_it_is_cut(text: str) -> None:
    assert "".join(sentences(text)) == text
    assert "".join(one.text for one in attributed(text, [AI])) == text


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("A nodule of 3.5 mm. It is new.", 2),
        ("No shift!  Why? Nobody knows", 3),
        ("One line\nanother line\n", 2),
        ("无出血。左肺结节。", 2),
        ("Segment S. 2 is clear.", 1),
        ("", 0),
    ],
)
def test_a_text_is_cut_behind_its_sentences(text: str, count: int) -> None:
    assert len(list(sentences(text))) == count


def test_a_sentence_of_an_algorithm_is_known_whatever_its_white_space() -> None:
    assert origins("There is  no shift\tof the midline.\n", AI) == ["ai"]


def test_a_sentence_of_an_algorithm_that_was_changed_is_told_apart_from_one_that_is_new() -> None:
    text = "There is an acute subdural hematoma of 11 mm. The sinuses are clear."
    assert origins(text, AI) == ["edited", "human"]


def test_of_several_who_offer_a_sentence_the_algorithm_is_taken_for_its_origin() -> None:
    usual = Offer.of("There is no shift of the midline.", "template", "Head")
    assert origins("There is no shift of the midline.", usual, AI) == ["ai"]


def test_where_a_sentence_is_to_be_seen_goes_with_it() -> None:
    (passage,) = attributed("There is no shift of the midline.", [AI])
    assert passage.source == "triage"
    assert not passage.is_accepted


def test_only_sentences_of_algorithms_are_to_be_accepted() -> None:
    text = "There is no shift of the midline. I see nothing else."
    assert [one.text for one in unaccepted(attributed(text, [AI]))] == ["There is no shift of the midline. "]
    taken = [digest("There is no shift of the midline.")]
    assert not unaccepted(attributed(text, [AI], taken))


def test_a_sentence_that_was_changed_after_it_was_accepted_is_to_be_accepted_anew() -> None:
    taken = [digest("There is no shift of the midline.")]
    assert unaccepted(attributed("There is a shift of the midline.", [AI], taken))


def test_a_long_text_against_many_sentences_is_looked_at_in_bounded_steps() -> None:
    many = Offer(passages=tuple(Passage(text=f"Nodule {n} of the left lung. ", origin="ai") for n in range(3000)))
    text = "".join(f"Nodule number {n} lies in the right lung. " for n in range(2000))
    assert len(attributed(text, [many])) == 2000


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (Text(sections=(WrittenSection(name="Findings", text=""),)), "small letters"),
        (Text(sections=(WrittenSection(name="findings", text=""),) * 2), "two sections"),
        (Text(sections=(WrittenSection(name="findings", text="a\x00b"),)), "control character"),
        (Text(addendum="\ud800"), "control character"),
        (Text(addendum="x" * 200_001), "200000"),
        (Text(follow_ups=(FollowUp(text="CT", due_on="soon"),)), "day such as"),
        (Text(critical_results=(CriticalResult(category=1, text=" "),)), "in words"),
        (Text(critical_results=(CriticalResult(category=1, text="x"),) * 51), "at most 50"),
        (Text(language="<b>"), "BCP 47"),
    ],
)
def test_a_text_that_cannot_be_is_refused_with_what_is_wrong(text: Text, says: str) -> None:
    with pytest.raises(Invalid, match=says):
        checked(text)


def test_a_usual_section_gets_its_title() -> None:
    sections = (WrittenSection(name="findings", text="x"), WrittenSection(name="lung-rads", text="2"))
    assert [one.title for one in checked(Text(sections=sections)).sections] == ["Findings", "Lung rads"]
