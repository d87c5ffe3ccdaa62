"""Triage by an algorithm: what it is asked about, what comes of its answer, and that its indications hold."""

from __future__ import annotations

import json
import re
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from conformance.heads import Head, make_head
from plugins import ai_triage as plugin
from plugins.ai_triage.gate import as_used, fault, to_look_at
from plugins.ai_triage.hyperdense import find_spots
from plugins.ai_triage.models import LARGEST_ANSWER, OnnxModel
from plugins.ai_triage.settings import InputTable, OutputTable, Settings
from plugins.ai_triage.tensors import prepared, probabilities
from readingroom import Algorithm, Context, GiveUp, Invalid, RetryLater, Series, Triage
from readingroom.confine import Limits
from readingroom.testing import Deliver, MadeStudy, PluginContract, deliver, made_chest, made_study
from server.settings import Settings as ServerSettings
from server.worklist.gate import decide
from tests.plugins.http import Answer, Request, serving

__all__ = ["deliver"]  # a fixture

CLEARED = Algorithm(name="Bleed", version="2.1", clearance="K221234", modalities=("CT",), body_parts=("HEAD", "BRAIN"))
BLEEDING = 20_011


def triage(made: MadeStudy, **settings: Any) -> Triage | None:
    """What the plugin answers, in this process."""
    return plugin.triage_study(made.study, Context(plugin="ai_triage", settings=Settings(**settings), archive=made))


def head_ct(head: Head, **attributes: Any) -> MadeStudy:
    """A phantom head as a CT study."""
    return made_study(head.hu + np.int16(1024), body_part="HEAD", spacing_mm=head.spacing_mm, **attributes)


def changed(made: MadeStudy, **elements: Any) -> MadeStudy:
    """The same study with other elements in each of its instances; None takes one away."""
    new = {tag.removeprefix("t"): value for tag, value in elements.items()}
    datasets = {
        uid: [{tag: value for tag, value in {**dataset, **new}.items() if value is not None} for dataset in instances]
        for uid, instances in made.datasets.items()
    }
    return replace(made, datasets=datasets)


def together(one: MadeStudy, other: MadeStudy) -> MadeStudy:
    """One study with the series of both."""
    second = replace(other.study.series[0], number=2)
    study = replace(one.study, series=(*one.study.series, second))
    return MadeStudy(
        study=replace(study, body_parts=tuple(sorted({part.body_part or "" for part in study.series}))),
        volumes={**one.volumes, **other.volumes},
        datasets={**one.datasets, **other.datasets},
    )


@pytest.fixture(scope="module")
def bleeding() -> Head:
    """A head with a large bleed."""
    return make_head(BLEEDING, bleed="parenchymal", size=112)


@pytest.fixture(scope="module")
def sound() -> MadeStudy:
    """A CT of the same head without it."""
    return head_ct(make_head(BLEEDING, size=112))


# -- the built-in detector ---------------------------------------------------------------------------------------------


def test_blood_is_found_where_it_is(bleeding: Head) -> None:
    made = head_ct(bleeding)
    answer = triage(made)
    assert answer is not None
    finding = answer.findings[0]
    place = finding.evidence[0]
    (instances,) = made.datasets.values()
    index = [instance["00080018"]["Value"][0] for instance in instances].index(place.instance_uid)
    assert place.box is not None
    left, top, right, bottom = place.box
    assert bleeding.blood[index, top:bottom, left:right].sum() > 0.6 * bleeding.blood[index].sum() > 0
    assert place.frames == (1,)
    assert finding.code is not None
    assert (finding.code.value, finding.code.system) == ("1386000", "SCT")
    assert finding.measurements["volume_ml"] == pytest.approx(bleeding.blood_ml, rel=0.5)
    assert 50 < finding.measurements["mean_hu"] < 85


def test_the_same_head_without_blood_has_no_finding_and_says_what_was_looked_for(sound: MadeStudy) -> None:
    answer = triage(sound)
    assert answer is not None
    assert answer.findings == ()
    assert answer.priority is None
    assert not answer.is_flagged
    assert re.fullmatch(r"Hyperdense 1 found nothing, p=0\.\d\d at most", answer.because)


def test_what_the_built_in_detector_finds_is_research_and_the_core_lets_it_change_nothing(bleeding: Head) -> None:
    made = head_ct(bleeding)
    answer = triage(made)
    assert answer is not None
    assert all(finding.algorithm and finding.algorithm.is_research for finding in answer.findings)
    assert answer.because.endswith("; research: Hyperdense 1 is for research only")
    assert not decide(answer, made.study, is_research_mode=False).may_promote
    assert decide(answer, made.study, is_research_mode=True).may_promote
    assert answer.priority == "stat"


def test_a_finer_grid_shows_the_same_blood(bleeding: Head) -> None:
    fine = make_head(BLEEDING, bleed="parenchymal", size=224)
    spot, same = find_spots(bleeding.hu, bleeding.spacing_mm)[0], find_spots(fine.hu, fine.spacing_mm)[0]
    away = np.multiply(spot.middle, bleeding.spacing_mm) - np.multiply(same.middle, fine.spacing_mm)
    assert np.linalg.norm(away) < 10
    assert same.millilitres == pytest.approx(spot.millilitres, rel=0.2)
    slice_, row, column = same.middle
    assert fine.blood[slice_, row, column]
    left, top, right, bottom = same.box
    assert fine.blood[slice_, top:bottom, left:right].sum() > 0.6 * fine.blood[slice_].sum()


@pytest.mark.parametrize(
    ("elements", "because"),
    [
        ({"t00180010": {"vr": "LO", "Value": ["Iohexol"]}}, "there is contrast medium in it"),
        ({"t00200032": None}, "its slices do not say where they lie"),
        ({"t00280030": None}, "its slices do not say where they lie"),
        ({"t00280030": {"vr": "DS", "Value": [1e-9, 1e-9]}}, "its slices do not say where they lie"),
        ({"t00280030": {"vr": "DS", "Value": [1e9, 1e9]}}, "its slices do not say where they lie"),
    ],
    ids=["contrast", "no position", "no spacing", "tiny", "huge"],
)
def test_a_series_that_cannot_be_looked_at_is_left_out_with_the_reason(elements: dict[str, Any], because: str) -> None:
    answer = triage(changed(made_study(np.zeros((12, 8, 8), np.int16), body_part="HEAD"), **elements))
    assert answer is not None
    assert answer.because == f"Hyperdense 1 was not asked; series 1: {because}"


def test_a_scout_and_a_coronal_stack_are_left_out() -> None:
    scout = made_study(np.zeros((1, 8, 8), np.int16), body_part="HEAD")
    coronal = made_study(np.zeros((9, 8, 8), np.int16), body_part="HEAD", number=2)
    (uid, instances), *_ = coronal.datasets.items()
    lying = [{**one, "00200032": {"vr": "DS", "Value": [0, 3 * index, 0]}} for index, one in enumerate(instances)]
    answer = triage(together(scout, replace(coronal, datasets={uid: lying})))
    assert answer is not None
    assert answer.because == (
        "Hyperdense 1 was not asked; series 1: it has fewer than 8 slices; series 2: it is not axial"
    )


def test_of_several_series_the_one_of_the_fewest_slices_is_looked_at(bleeding: Head, sound: MadeStudy) -> None:
    thin = made_study(np.repeat(bleeding.hu + np.int16(1024), 2, axis=0), body_part="HEAD", number=2)
    answer = triage(together(sound, thin))
    assert answer is not None
    assert answer.because.startswith("Hyperdense 1 found nothing")


@pytest.mark.parametrize(
    "hu",
    [
        np.zeros((12, 16, 16)),
        np.full((12, 16, 16), 3000.0),
        np.full((12, 64, 64), -1000.0),
        np.full((12, 64, 64), np.nan),
        np.full((12, 64, 64), np.inf),
        np.random.default_rng(1).normal(0, 800, (12, 64, 64)),
        np.full((12, 1, 1), 60.0),
    ],
    ids=["nothing", "metal", "air", "no numbers", "infinite", "noise", "one pixel"],
)
def test_what_is_no_head_has_no_spots(hu: np.ndarray) -> None:
    assert find_spots(hu, (5.0, 2.0, 2.0)) == ()


def test_a_volume_larger_than_a_head_is_not_taken_up(bleeding: Head) -> None:
    assert find_spots(bleeding.hu, (5.0, 2.0, 20.0)) == ()
    assert find_spots(bleeding.hu, (5.0, 0.0, 2.0)) == ()


# -- the gate ----------------------------------------------------------------------------------------------------------


def series(body_part: str | None = "HEAD", modality: str | None = "CT", uid: str = "1.2") -> Series:
    return Series(series_uid=uid, modality=modality, body_part=body_part, instance_count=10)


def test_an_algorithm_within_its_indications_is_named_as_it_is() -> None:
    assert fault(CLEARED, series()) == ""
    assert as_used(CLEARED, series()) is CLEARED


@pytest.mark.parametrize(
    ("algorithm", "shown", "because"),
    [
        (replace(CLEARED, clearance=None), series(), "Bleed 2.1 has no clearance number"),
        (replace(CLEARED, is_research=True), series(), "Bleed 2.1 is for research only"),
        (CLEARED, series(modality="MR"), "Bleed 2.1 is not cleared for MR"),
        (CLEARED, series(modality=None), "Bleed 2.1 is not cleared for a series without modality"),
        (CLEARED, series("CHEST"), "Bleed 2.1 is not cleared for CHEST"),
        (CLEARED, series(None), "Bleed 2.1 is not cleared for an unnamed region"),
    ],
)
def test_outside_of_its_indications_an_algorithm_is_research(algorithm: Algorithm, shown: Series, because: str) -> None:
    assert fault(algorithm, shown) == because
    assert as_used(algorithm, shown).is_research


def test_only_series_of_its_modality_and_region_are_looked_at() -> None:
    head, chest, dose = series(), series("CHEST", uid="1.3"), series(modality="SR", uid="1.4")
    assert to_look_at(CLEARED, (head, chest, dose), is_off_label_tried=False) == ((head,), "")
    assert to_look_at(CLEARED, (head, chest, dose), is_off_label_tried=True) == ((head,), "")


def test_off_label_use_has_to_be_asked_for() -> None:
    chest = series("CHEST")
    because = "Bleed 2.1 is for HEAD/BRAIN, not for CHEST: not asked"
    assert to_look_at(CLEARED, (chest,), is_off_label_tried=False) == ((), because)
    assert to_look_at(CLEARED, (chest,), is_off_label_tried=True) == ((chest,), "")


def test_another_modality_is_never_looked_at() -> None:
    assert to_look_at(CLEARED, (series(modality="MR"),), is_off_label_tried=True) == ((), "")


def test_a_study_of_another_modality_is_abstained_from_and_another_region_is_told() -> None:
    assert triage(made_study(np.zeros((9, 8, 8), np.int16), modality="MR", body_part="HEAD")) is None
    assert triage(made_chest()) == Triage(because="Hyperdense 1 is for HEAD/BRAIN/SKULL, not for CHEST: not asked")


# -- settings ----------------------------------------------------------------------------------------------------------

ALGORITHM = {
    "name": "Bleed",
    "version": "2.1",
    "clearance": "K221234",
    "modalities": ["CT"],
    "body_parts": ["HEAD", "BRAIN"],
}
MODEL: dict[str, Any] = {
    "algorithm": ALGORITHM,
    "text": "Intracranial haemorrhage",
    "input": {"name": "image", "rows": 8, "columns": 8, "low": 0, "high": 80},
    "output": {"name": "p"},
}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"algorithm": {**ALGORITHM, "clearance": "pending"}}, "String should match pattern"),
        ({"algorithm": {**ALGORITHM, "body_parts": []}}, "name its modalities and body_parts"),
        ({"algorithm": {**ALGORITHM, "modalities": ["ct"]}}, "String should match pattern"),
        ({"input": {**MODEL["input"], "low": 80}}, "low is the lower one"),
        ({"input": {**MODEL["input"], "high": None}}, "low and high go together"),
        ({"input": {**MODEL["input"], "slices": 4}}, "only then"),
        ({"threshold": 1.5}, "less than or equal to 1"),
        ({"url": "file:///etc/passwd"}, "URL scheme"),
        ({"model": "../admin"}, "String should match pattern"),
        ({"thresold": 0.5}, "Extra inputs are not permitted"),
    ],
)
def test_a_setting_that_is_not_right_is_refused(change: dict[str, Any], says: str) -> None:
    table = {"kind": "kserve", "url": "http://127.0.0.1:9", "model": "bleed", **MODEL}
    assert Settings(detector=table)
    with pytest.raises(ValidationError, match=says):
        Settings(detector={**table, **change})


def test_the_settings_of_the_guide_are_accepted() -> None:
    page = (Path(__file__).parents[2] / "docs" / "how-to" / "ai-triage.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```toml\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    given = [ServerSettings(**tomllib.loads(block)).plugins for block in blocks]  # type: ignore[arg-type]
    kinds = [Settings(**table.own).detector.kind for plugins in given for table in plugins.values()]
    assert sorted(kinds) == ["hyperdense", "kserve", "onnx"]


# -- tensors -----------------------------------------------------------------------------------------------------------


def test_values_are_windowed_normalised_and_batched_in_slice_order() -> None:
    wanted = InputTable(name="x", rows=2, columns=2, low=0, high=100, mean=0.5, deviation=0.5, batch=2, channels=3)
    values = np.stack([np.full((2, 2), value) for value in (-50.0, 50.0, 200.0)])
    tensors = list(prepared(values, wanted))
    assert [tensor.shape for tensor in tensors] == [(2, 3, 2, 2), (1, 3, 2, 2)]
    assert [float(tensor[index, 2, 0, 0]) for tensor in tensors for index in range(len(tensor))] == [-1, 0, 1]
    assert all(tensor.dtype == np.float32 and tensor.flags.c_contiguous for tensor in tensors)


def test_without_a_window_an_image_is_scaled_by_what_it_holds_and_inverted_where_dark_means_dense() -> None:
    wanted = InputTable(name="x", rows=1, columns=3)
    (tensor,) = prepared(np.array([[[100, 200, 300]]]), wanted)
    assert tensor.ravel().tolist() == [0, 0.5, 1]
    (inverted,) = prepared(np.array([[[100, 200, 300]]]), wanted, is_inverted=True)
    assert inverted.ravel().tolist() == [1, 0.5, 0]


def test_a_volume_is_one_tensor_of_the_size_that_the_model_wants() -> None:
    wanted = InputTable(name="x", layout="volume", slices=4, rows=8, columns=8, low=0, high=1)
    (tensor,) = prepared(np.ones((9, 16, 20)), wanted)
    assert tensor.shape == (1, 1, 4, 8, 8)
    assert tensor == pytest.approx(1)


def test_an_image_of_one_colour_is_no_reason_to_divide_by_nothing() -> None:
    (tensor,) = prepared(np.full((1, 2, 2), 7), InputTable(name="x", rows=2, columns=2))
    assert np.isfinite(tensor).all()


@pytest.mark.parametrize(
    ("answer", "output", "expected"),
    [
        ([[0.1], [0.9]], {}, [0.1, 0.9]),
        ([0.1, 0.9], {}, [0.1, 0.9]),
        ([[0.0], [40.0]], {"activation": "sigmoid"}, [0.5, 1.0]),
        ([[0.0, 0.0], [0.0, 40.0]], {"activation": "softmax", "index": 1}, [0.5, 1.0]),
    ],
)
def test_an_answer_is_one_probability_a_sample(answer: Any, output: dict[str, Any], expected: list[float]) -> None:
    assert probabilities(np.array(answer), 2, OutputTable(name="p", **output)).tolist() == pytest.approx(expected)


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        ([0.1, 0.2, 0.3], "3 values to 2 samples"),
        ([], "0 values to 2 samples"),
        ([0.1, float("nan")], "no number"),
        ([0.1, 7.0], "outside 0 to 1"),
        (["a", "b"], "2 values to 2 samples"),
    ],
)
def test_an_answer_that_holds_no_probabilities_is_given_up(answer: Any, says: str) -> None:
    with pytest.raises(GiveUp, match=says):
        probabilities(np.array(answer), 2, OutputTable(name="p"))
    with pytest.raises(GiveUp, match="none of index 3"):
        probabilities(np.array([0.1, 0.2]), 2, OutputTable(name="p", index=3))


# -- a model in a file -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def brightest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose probability is the greatest value of each sample."""
    from onnx import TensorProto, helper, save

    node = helper.make_node("ReduceMax", ["image"], ["p"], axes=[1, 2, 3], keepdims=0)
    graph = helper.make_graph(
        [node],
        "brightest",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 1, 8, 8])],
        [helper.make_tensor_value_info("p", TensorProto.FLOAT, ["batch"])],
    )
    path = tmp_path_factory.mktemp("models") / "brightest.onnx"
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), path)
    return path


def with_one_bright_slice(body_part: str = "HEAD") -> MadeStudy:
    """Twenty slices of 20 HU, of which the thirteenth has 72."""
    volume = np.full((20, 8, 8), 1024 + 20, np.int16)
    volume[12] = 1024 + 72
    return made_study(volume, body_part=body_part)


def test_a_model_in_a_file_finds_what_it_was_made_for_and_says_where(brightest: Path) -> None:
    made = with_one_bright_slice()
    answer = triage(made, detector={"kind": "onnx", "path": brightest, **MODEL, "category": 1})
    assert answer is not None
    (finding,) = answer.findings
    assert finding.probability == pytest.approx(0.9)
    assert [place.instance_uid for place in finding.evidence] == [f"{made.study.series[0].series_uid}.13"]
    assert (finding.category, finding.algorithm) == (1, CLEARED)
    assert (answer.priority, answer.is_flagged) == ("stat", True)
    assert answer.because == "Intracranial haemorrhage, p=0.90"
    assert decide(answer, made.study, is_research_mode=False).because == "cleared: Bleed K221234"


def test_a_cleared_model_that_is_tried_off_label_changes_nothing(brightest: Path) -> None:
    made = with_one_bright_slice("CHEST")
    detector = {"kind": "onnx", "path": brightest, **MODEL}
    assert triage(made, detector=detector) == Triage(because="Bleed 2.1 is for HEAD/BRAIN, not for CHEST: not asked")
    answer = triage(made, detector=detector, is_off_label_tried=True)
    assert answer is not None
    assert answer.because == "Intracranial haemorrhage, p=0.90; research: Bleed 2.1 is not cleared for CHEST"
    # Even where another series is what it is cleared for, as the core sees the study.
    both = replace(made.study, body_parts=("CHEST", "HEAD"))
    assert decide(answer, both, is_research_mode=False).because == "Bleed 2.1 is for research only"


def test_a_series_of_another_region_is_not_looked_at_beside_the_right_one(brightest: Path) -> None:
    quiet = made_study(np.full((9, 8, 8), 1024, np.int16), body_part="HEAD", number=2)
    answer = triage(
        together(with_one_bright_slice("CHEST"), quiet), detector={"kind": "onnx", "path": brightest, **MODEL}
    )
    assert answer == Triage(because="Bleed 2.1 found nothing, p=0.00 at most")


def test_below_its_threshold_a_model_finds_nothing(brightest: Path) -> None:
    answer = triage(with_one_bright_slice(), detector={"kind": "onnx", "path": brightest, **MODEL, "threshold": 0.95})
    assert answer == Triage(because="Bleed 2.1 found nothing, p=0.90 at most")


def test_an_image_in_colour_is_left_out(brightest: Path) -> None:
    made = made_study(np.zeros((2, 8, 8, 3), np.uint8), modality="OT")
    table = {"kind": "onnx", "path": brightest, **MODEL, "algorithm": {"name": "Any", "version": "1"}}
    assert triage(made, detector=table) == Triage(because="Any 1 was not asked; series 1: it is in colour")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"input": {**MODEL["input"], "name": "x"}}, "has the inputs image and the outputs p"),
        ({"output": {"name": "y"}}, "has the inputs image and the outputs p"),
        ({"input": {**MODEL["input"], "rows": 9}}, r"takes a tensor\(float\) of \['batch', 1, 8, 8\]"),
        ({"input": {**MODEL["input"], "layout": "volume", "slices": 8}}, r"of \[1, 1, 8, 8, 8\]"),
    ],
)
def test_settings_that_do_not_fit_the_model_are_told_at_the_start(
    brightest: Path, change: dict[str, Any], says: str
) -> None:
    settings = Settings(detector={"kind": "onnx", "path": brightest, **MODEL, **change})  # type: ignore[arg-type]
    with pytest.raises(Invalid, match=says):
        plugin.started(Context(plugin="ai_triage", settings=settings))


def test_a_file_that_is_no_model_is_told_at_the_start(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"no model")
    settings = Settings(detector={"kind": "onnx", "path": tmp_path / "model.onnx", **MODEL})  # type: ignore[arg-type]
    with pytest.raises(Exception, match=r"(?i)model\.onnx"):
        plugin.started(Context(plugin="ai_triage", settings=settings))


def test_a_model_is_loaded_once(brightest: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = {"kind": "onnx", "path": brightest, **MODEL, "threshold": 0.123}
    triage(with_one_bright_slice(), detector=table)
    monkeypatch.setattr(OnnxModel, "__init__", None)
    assert triage(with_one_bright_slice(), detector=table) is not None


# -- a model on a server -----------------------------------------------------------------------------------------------


def brightest_server(request: Request) -> Answer:
    """The Open Inference Protocol, with the same model: JSON or binary tensors in, JSON out."""
    if request.path != "/v2/models/bleed/infer":
        return 404, b'{"error": "unknown model"}', {}
    length = int(request.headers.get("Inference-Header-Content-Length", len(request.body)))
    asked = json.loads(request.body[:length])
    (given,), (wanted,) = asked["inputs"], asked["outputs"]
    assert given["datatype"] == "FP32"
    if "parameters" in given:
        assert given["parameters"]["binary_data_size"] == len(request.body) - length
        data = np.frombuffer(request.body[length:], "<f4")
    else:
        data = np.array(given["data"])
    answer = data.reshape(given["shape"]).max(axis=(1, 2, 3))
    output = {"name": wanted["name"], "datatype": "FP32", "shape": list(answer.shape), "data": answer.tolist()}
    return 200, json.dumps({"model_name": "bleed", "outputs": [output]}).encode(), {}


@pytest.mark.parametrize("is_binary", [False, True])
def test_a_model_on_a_server_is_asked_by_the_open_inference_protocol(is_binary: bool) -> None:
    made = with_one_bright_slice()
    with serving(brightest_server) as server:
        table = {
            "kind": "kserve",
            "url": server.url,
            "model": "bleed",
            "token": "secret",
            "is_binary": is_binary,
            **MODEL,
        }
        answer = triage(made, detector=table)
        assert [request.headers["Authorization"] for request in server.asked] == ["Bearer secret"] * 2
    assert answer is not None
    assert answer.findings[0].probability == pytest.approx(0.9)
    assert answer.findings[0].evidence[0].instance_uid == f"{made.study.series[0].series_uid}.13"


def ask_server(answer: Answer, **settings: Any) -> None:
    with serving(lambda request: answer) as server:
        triage(
            with_one_bright_slice(),
            detector={"kind": "kserve", "url": server.url, "model": "bleed", **MODEL, **settings},
        )


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_server_that_cannot_answer_now_is_asked_again_later(status: int) -> None:
    with pytest.raises(RetryLater, match=rf"answers {status}\."):
        ask_server((status, b"", {}))


def test_a_server_that_is_not_there_is_asked_again_later() -> None:
    with serving(brightest_server) as server:
        gone = server.url
    with pytest.raises(RetryLater, match="does not answer: ConnectError"):
        triage(with_one_bright_slice(), detector={"kind": "kserve", "url": gone, "model": "bleed", **MODEL})


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        ((400, b'{"error": "wrong shape"}', {}), "answers 400 to bleed: wrong shape"),
        ((404, b"<html>", {}), "answers 404 to bleed: it does not say why"),
        ((302, b"", {"Location": "/v2/models/bleed/infer"}), "answers 302"),
        ((200, b"<html>", {}), "no output 'p'"),
        ((200, b"[]", {}), "no output 'p'"),
        ((200, b'{"outputs": [{"name": "q", "shape": [1], "data": [1]}]}', {}), "no output 'p'"),
        ((200, b'{"outputs": [{"name": "p", "shape": [7], "data": [1]}]}', {}), "no output 'p'"),
        ((200, b'{"outputs": [{"name": "p", "shape": [1], "data": ["x"]}]}', {}), "no output 'p'"),
        ((200, b" " * (LARGEST_ANSWER + 1), {}), "more than 16 MiB"),
    ],
    ids=["refuses", "unknown", "redirects", "html", "array", "other output", "other shape", "text", "too much"],
)
def test_a_server_that_answers_what_nobody_can_use_is_given_up(answer: Answer, says: str) -> None:
    with pytest.raises(GiveUp, match=re.escape(says)):
        ask_server(answer)


# -- as the server runs it ---------------------------------------------------------------------------------------------


class TestTheContract(PluginContract):
    plugin = "ai_triage"


def test_a_confined_process_finds_the_blood_too(bleeding: Head, deliver: Deliver) -> None:
    made = head_ct(bleeding)
    answer = deliver("ai_triage", "triage_study", archive=made, study=made.study)
    assert answer == triage(made)
    assert answer.findings


def test_a_confined_process_runs_a_model_that_it_may_read(brightest: Path, deliver: Deliver) -> None:
    made = with_one_bright_slice()
    detector = {"kind": "onnx", "path": str(brightest), **MODEL}
    answer = deliver(
        "ai_triage",
        "triage_study",
        archive=made,
        settings={"detector": detector},
        limits=Limits(readable=(str(brightest.parent),)),
        study=made.study,
    )
    assert answer == triage(made, detector=detector)
