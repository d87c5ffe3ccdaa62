"""The measurement of the built-in detector: its phantoms and figures, and that the page is of the code as it is."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from conformance import triage
from conformance.heads import BLEEDS, LOOK_ALIKES, Bleed, LookAlike, make_head
from plugins.ai_triage.hyperdense import inside_skull


def test_the_results_are_of_the_code_as_it_is() -> None:
    assert triage.is_fresh(), "stale: run make docs"


def test_what_is_said_about_the_code_makes_no_result_stale() -> None:
    code = 'LEAST = 1\ndef look(x):\n    return f"{x}" + "a"\n'
    told = '"""Of a module."""\nLEAST = 1  # so much\n"""And why."""\n\n'
    told += 'def look(x):\n    """Look."""\n    return f"{x}" + "a"\n'
    assert list(triage._code(told)) == list(triage._code(code))
    assert list(triage._code(code.replace("1", "2"))) != list(triage._code(code))


@pytest.mark.parametrize("number", [30, 130, 217])
def test_a_result_is_what_the_detector_says_today(number: int) -> None:
    told, now = triage.results()[number], triage.look(triage.CASES[number])
    assert now.probability == pytest.approx(told.probability, abs=0.02)
    assert (now.seed, now.bleed, now.look_alike, now.is_in_blood) == (
        told.seed,
        told.bleed,
        told.look_alike,
        told.is_in_blood,
    )


def test_the_picture_is_of_the_results() -> None:
    with Image.open(triage.PICTURE) as picture:
        assert picture.info["Source"] == triage.picture_source(triage.RESULTS.read_text()), "stale: run make docs"


def test_nothing_is_measured_on_what_it_was_fitted_to() -> None:
    assert not {case.seed for case in triage.CASES} & {case.seed for case in triage.TUNING}
    assert [result.seed for result in triage.results()] == [case.seed for case in triage.CASES]


def test_every_kind_of_bleeding_and_of_what_looks_like_it_is_measured() -> None:
    assert {case.bleed for case in triage.CASES} == {None, *BLEEDS}
    assert {case.look_alike for case in triage.CASES if case.bleed is None} == {None, *LOOK_ALIKES}


# -- phantoms ----------------------------------------------------------------------------------------------------------


def test_a_head_of_a_seed_is_always_the_same_and_differs_from_that_of_another() -> None:
    one, again, other = (make_head(seed, size=32) for seed in (7, 7, 8))
    assert np.array_equal(one.hu, again.hu)
    assert not np.array_equal(one.hu, other.hu)


@pytest.mark.parametrize("bleed", BLEEDS)
def test_blood_is_denser_than_the_brain_and_lies_within_the_skull(bleed: Bleed) -> None:
    head, sound = make_head(11, bleed=bleed, size=64), make_head(11, size=64)
    assert head.blood.any()
    assert 45 < np.median(head.hu[head.blood]) < 85
    assert np.median(head.hu[head.blood]) > np.median(sound.hu[head.blood]) + 8
    assert head.blood_ml > 0.2
    assert sound.blood_ml == 0


@pytest.mark.parametrize("look_alike", LOOK_ALIKES)
def test_what_looks_like_blood_is_none(look_alike: LookAlike) -> None:
    head, plain = make_head(12, look_alike=look_alike, size=64), make_head(12, size=64)
    assert not head.blood.any()
    assert not np.array_equal(head.hu, plain.hu)


def test_the_brain_of_a_phantom_is_found_within_its_skull() -> None:
    head = make_head(13, size=112)
    inner = inside_skull(head.hu.astype(np.float32))
    assert 700 < inner.sum() * np.prod(head.spacing_mm) / 1000 < 1800  # millilitres
    assert 20 < np.median(head.hu[inner]) < 40


# -- figures -----------------------------------------------------------------------------------------------------------


def test_a_proportion_has_the_interval_of_wilson() -> None:
    # Newcombe 1998, table I: 81 of 263 is 0.2553 to 0.3662; 0 of 20 is 0 to 0.1611.
    assert triage.share(81, 263) == pytest.approx((0.3080, 0.2553, 0.3662), abs=5e-5)
    assert triage.share(0, 20) == pytest.approx((0, 0, 0.1611), abs=5e-5)


def test_the_area_under_the_curve_counts_pairs_and_halves_ties() -> None:
    area, low, high = triage.area([0.9, 0.8, 0.4], [0.1, 0.4, 0.2])
    assert area == pytest.approx(8.5 / 9)
    assert low < area < high <= 1
    assert triage.area([0.9, 0.8], [0.1, 0.2])[0] == 1


def test_the_curve_goes_from_nothing_to_everything() -> None:
    false, true = triage.curve(triage.results())
    assert (false[0], true[0], false[-1], true[-1]) == (0, 0, 1, 1)
    assert (np.diff(false) >= 0).all()
    assert (np.diff(true) >= 0).all()
    measured = triage.results()
    area, _, _ = triage.area(
        [one.probability for one in measured if one.is_bleeding],
        [one.probability for one in measured if not one.is_bleeding],
    )
    assert np.trapezoid(true, false) == pytest.approx(area)
