"""The plugin host: in which order, what a failure means, and when a plugin is switched off."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from pydicom import FileDataset

from readingroom.clock import SetClock
from readingroom.errors import GiveUp, Invalid, PluginFailed, ReadingRoomError, RetryLater
from readingroom.model import Facility, Patient, Series, Sla, Study, WorkItem
from readingroom.plugin import HOST_SETTINGS
from readingroom.results import Prior, Triage, Veto
from server import hooks as host
from server.hooks import Hooks, find_plugins
from server.room import Room
from server.settings import PluginSettings, Settings
from tests import stow, synthetic
from tests.synthetic import part10

HEAD = "from readingroom import *\nimport os, sys, time\nfrom datetime import timedelta\n"
STUDY = Study(study_uid="1.2", facility="north", patient="p")
ITEM = WorkItem(id="i", kind="read", state="ready", facility="north", version=1)
FACILITY = Facility(id="north", name="North")

type Host = Callable[..., Hooks]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where plugins are written."""
    path = tmp_path / "plugins"
    path.mkdir()
    return path


@pytest.fixture
def hosting(folder: Path, clock: SetClock) -> Iterator[Host]:
    """Starts a host of plugins given by name and text, with the settings of each."""
    hosts: list[Hooks] = []

    def start(texts: dict[str, str], **plugins: dict[str, Any]) -> Hooks:
        for name, text in texts.items():
            (folder / f"{name}.py").write_text(HEAD + text)
        settings = Settings(plugins_folder=folder, plugins=plugins)  # type: ignore[arg-type]
        hosts.append(Hooks(find_plugins(settings), clock=clock))
        return hosts[-1]

    yield start
    for one in hosts:
        one.close()


def arrived(hooks: Hooks, plugin: str = "made", **given: Any) -> Any:
    arguments = {"study": STUDY, "order": None, "priors": ()} | given
    return hooks.react(plugin, "triage_study", delivery="d", **arguments)


def says(what: str) -> str:
    return f"@hookimpl\ndef sla_for(item):\n    {what}\n"


def vetoes(what: str) -> str:
    return f"@hookimpl\ndef veto_purge(study):\n    {what}\n"


def triages(what: str) -> str:
    return f"@hookimpl\ndef triage_study(study, ctx):\n    {what}\n"


SOON = "return Sla(due_at=__import__('datetime').datetime(2026, 1, 1, tzinfo=__import__('datetime').UTC), because='{}')"


def sla(hooks: Hooks) -> Sla | None:
    answer: Sla | None = hooks.decide("sla_for", item=ITEM, order=None, facility=FACILITY)
    return answer


def test_of_a_hook_that_the_first_decides_the_first_in_the_settings_wins(hosting: Host) -> None:
    texts = {"a": says(SOON.format("a")), "b": says(SOON.format("b")), "c": says("return None")}
    found = sla(hosting(texts, c={}, b={}, a={}))
    assert found is not None
    assert found.because == "b"


def test_nobody_decides_where_no_plugin_has_an_answer(hosting: Host) -> None:
    assert sla(hosting({"a": says("return None"), "b": vetoes("return None")})) is None
    assert hosting({}).having("sla_for") == ("a",)


def test_of_a_hook_that_all_decide_each_answer_is_given_with_its_plugin(hosting: Host) -> None:
    texts = {
        "a": vetoes("return Veto(because='kept')"),
        "b": vetoes("return None"),
        "c": vetoes("return Veto(because='x')"),
    }
    hooks = hosting(texts)
    answers = list(hooks.decide_all("veto_purge", study=STUDY, reason=""))
    assert [(one.plugin, one.value.because) for one in answers] == [("a", "kept"), ("c", "x")]
    assert hooks.having("veto_purge") == ("a", "b", "c")


def test_a_plugin_that_fails_to_decide_is_passed_over(hosting: Host) -> None:
    found = sla(hosting({"a": says("raise ValueError"), "b": says("os._exit(1)"), "c": says(SOON.format("c"))}))
    assert found is not None
    assert found.because == "c"


def test_of_several_calls_none_is_asked_further_whose_last_answer_has_come(hosting: Host) -> None:
    texts = {
        "a": vetoes("return Veto(because='a') if study.sex else None"),
        "b": vetoes("raise ValueError if study.sex else RetryLater"),
        "c": vetoes("return Veto(because='c')"),
    }
    hooks = hosting(texts)
    asked = [{"study": Study(study_uid="1", facility="n", patient="p", sex=sex), "reason": ""} for sex in ("F", None)]
    answers = hooks.decide_each("veto_purge", asked, is_last=lambda value: value == Veto(because="a"))
    assert [[(one.plugin, one.value.because) for one in some] for some in answers] == [
        [("a", "a")],
        [("b", "plugin b did not answer"), ("c", "c")],
    ]
    assert hooks.decide_each("veto_purge", []) == []
    hooks.decide_each("veto_purge", asked * 5)
    assert [one.state for one in hooks.states()] == ["on", "off", "on"]


@pytest.mark.parametrize(
    "text", [vetoes("raise ValueError"), vetoes("time.sleep(100)"), vetoes("return 3"), "raise ValueError", "x = 1"]
)
def test_whoever_does_not_answer_to_a_purge_is_against_it(hosting: Host, text: str) -> None:
    hooks = hosting({"a": text})
    (answer,) = hooks.decide_all("veto_purge", study=STUDY, reason="")
    assert answer.value == Veto(because="plugin a did not answer")
    assert sla(hooks) is None


def test_a_decision_does_not_wait_for_a_plugin_that_is_started_again(hosting: Host, folder: Path) -> None:
    stall = folder.parent / "stall"
    text = f"while os.path.exists({str(stall)!r}): time.sleep(0.01)\n" + vetoes("os._exit(1) if study.sex else None")
    hooks = hosting({"a": text}, a={"readable": [str(folder.parent)]})
    assert not list(hooks.decide_all("veto_purge", study=STUDY, reason=""))
    stall.touch()
    with_sex = Study(study_uid="1", facility="north", patient="p", sex="F")
    assert len(list(hooks.decide_all("veto_purge", study=with_sex, reason=""))) == 1
    assert len(list(hooks.decide_all("veto_purge", study=STUDY, reason=""))) == 1  # it is being started
    stall.unlink()
    for _ in range(600):
        if not list(hooks.decide_all("veto_purge", study=STUDY, reason="")):
            return
        threading.Event().wait(0.05)
    pytest.fail("the plugin was not started again")


def test_a_plugin_reacts_in_its_own_process_and_is_checked(hosting: Host) -> None:
    hooks = hosting({"made": triages("return Triage(because=f'{os.getpid()} {ctx.delivery} {ctx.attempt}')")})
    first, second = arrived(hooks), arrived(hooks, attempt=2)
    assert isinstance(first, Triage)
    pid, delivery, attempt = first.because.split()
    assert int(pid) != os.getpid()
    assert (delivery, attempt) == ("d", "1")
    assert second.because == f"{pid} d 2"


def test_what_a_plugin_wants_of_the_queue_is_passed_on(hosting: Host) -> None:
    hooks = hosting(
        {"made": triages("raise RetryLater('busy', after=timedelta(minutes=3))"), "b": triages("raise GiveUp('no')")}
    )
    with pytest.raises(RetryLater) as caught:
        arrived(hooks)
    assert caught.value.after == timedelta(minutes=3)
    with pytest.raises(GiveUp, match="no"):
        arrived(hooks, "b")


def test_what_nobody_can_ever_answer_is_given_up_and_what_may_be_put_right_is_tried_again(hosting: Host) -> None:
    hooks = hosting({"made": vetoes("return None"), "broken": "raise ValueError('no GPU')"})
    with pytest.raises(GiveUp, match="does not run here"):
        arrived(hooks, "gone")
    with pytest.raises(GiveUp, match="does not implement triage_study"):
        arrived(hooks)
    with pytest.raises(RetryLater, match="no GPU"):
        arrived(hooks, "broken")


def test_a_plugin_that_has_all_hands_full_is_asked_again_later(hosting: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "_PATIENCE_SECONDS", 0.05)
    hooks = hosting({"made": triages("time.sleep(1.5 if study.sex else 0)\n    return Triage()")})
    slow = threading.Thread(
        target=arrived, args=(hooks,), kwargs={"study": Study(study_uid="1", facility="n", patient="p", sex="M")}
    )
    slow.start()
    while hooks._hosted["made"]._reacting._slots.acquire(blocking=False):
        hooks._hosted["made"]._reacting._slots.release()
    with pytest.raises(RetryLater, match="busy"):
        arrived(hooks)
    slow.join()
    monkeypatch.setattr(host, "_PATIENCE_SECONDS", 5)
    assert arrived(hooks) == Triage()
    assert hooks.states()[0].failures == 0


def test_several_processes_take_several_calls_at_once(hosting: Host) -> None:
    hooks = hosting(
        {"made": triages("time.sleep(0.2); return Triage(because=str(os.getpid()))")}, made={"processes": 2}
    )
    pids: list[str] = []
    threads = [threading.Thread(target=lambda: pids.append(arrived(hooks).because)) for _ in range(2)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert len(set(pids)) == 2


def test_a_plugin_that_fails_again_and_again_is_switched_off_longer_each_time(hosting: Host, clock: SetClock) -> None:
    hooks = hosting({"made": triages("raise ValueError if study.sex else RetryLater")})
    bad = Study(study_uid="1", facility="north", patient="p", sex="F")
    for _ in range(5):
        assert hooks.states()[0].state == "on"
        with pytest.raises(PluginFailed):
            arrived(hooks, study=bad)
    (state,) = hooks.states()
    assert (state.state, state.failures) == ("off", 5)
    for minutes in (1, 2, 4):
        with pytest.raises(RetryLater, match="off for") as caught:
            arrived(hooks)
        assert caught.value.after == timedelta(minutes=minutes)
        clock.advance(timedelta(minutes=minutes))
        assert hooks.states()[0].state == "trial"
        with pytest.raises(PluginFailed):
            arrived(hooks, study=bad)
    clock.advance(timedelta(minutes=8))
    with pytest.raises(RetryLater, match="This job"):
        arrived(hooks)
    assert hooks.states()[0].state == "on"


def test_failures_that_lie_far_apart_switch_nothing_off(hosting: Host, clock: SetClock) -> None:
    hooks = hosting({"made": triages("raise ValueError")})
    for _ in range(8):
        with pytest.raises(PluginFailed):
            arrived(hooks)
        clock.advance(timedelta(minutes=3))
    assert hooks.states()[0].state == "on"


def test_a_plugin_that_is_off_is_not_asked_to_decide(hosting: Host, clock: SetClock) -> None:
    hooks = hosting({"a": says("raise ValueError"), "b": says(SOON.format("b"))})
    for _ in range(6):
        assert sla(hooks) is not None
    outcomes = {
        sample.labels["outcome"]: sample.value
        for metric in hooks.calls.collect()
        for sample in metric.samples
        if sample.labels["plugin"] == "a" and sample.name.endswith("_total")
    }
    assert outcomes == {"error": 5.0, "busy": 1.0}


def test_a_trusted_plugin_runs_in_this_process_and_its_errors_are_contained(hosting: Host) -> None:
    text = (
        triages("raise ValueError if study.sex else GiveUp(str(os.getpid()))")
        + "@hookimpl\ndef started(ctx): ctx.log.info('x')"
    )
    hooks = hosting({"made": text}, made={"trusted": True})
    with pytest.raises(GiveUp, match=str(os.getpid())):
        arrived(hooks)
    with pytest.raises(PluginFailed, match="raised ValueError"):
        arrived(hooks, study=Study(study_uid="1", facility="north", patient="p", sex="F"))
    assert hooks.states()[0].layers == ("trusted: in the server's process",)


def test_settings_that_do_not_fit_leave_the_plugin_out_and_say_so(hosting: Host) -> None:
    text = "from pydantic import BaseModel\nclass S(BaseModel):\n    speed: int\n" + says("return None")
    text += "@hookimpl\ndef register_settings(): return S\n"
    hooks = hosting(
        {"a": text, "b": text, "c": text, "d": text}, a={"speed": "x"}, b={"speed": 3}, c={}, d={"enabled": False}
    )
    states = {one.name: one for one in hooks.states()}
    assert set(states) == {"a", "b", "c"}
    assert (states["a"].state, states["b"].state, states["c"].state) == ("broken", "on", "broken")
    assert "speed: Input should be a valid integer" in states["a"].problem
    assert "speed: Field required" in states["c"].problem


def test_what_the_server_reads_in_the_table_of_a_plugin_is_what_the_contract_reserves() -> None:
    assert set(PluginSettings.model_fields) == HOST_SETTINGS


def test_every_plugin_is_found_once_and_those_of_the_settings_first(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = tmp_path / "site"
    info = site / "acme-1.2.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: acme\nVersion: 1.2\n")
    (info / "entry_points.txt").write_text("[readingroom]\nacme = acme.hooks\nidle = acme.idle\n")
    monkeypatch.syspath_prepend(str(site))
    (folder / "zeta.py").touch()
    (folder / "_hidden.py").touch()
    (folder / "big").mkdir()
    (folder / "big" / "__init__.py").touch()
    tables = {
        "zeta": {},
        "acme": {},
        "far": {"python": "/opt/far/bin/python"},
        "lost": {},
        "one": {"module": "/x/one.py"},
    }
    found = find_plugins(Settings(plugins_folder=folder, plugins=tables))  # type: ignore[arg-type]
    ours = [one for one in found if one.settings or one.name == "idle"]
    assert [(one.name, one.where, one.version, one.is_enabled) for one in ours] == [
        ("zeta", str(folder / "zeta.py"), "", True),
        ("acme", "acme (acme.hooks)", "1.2", True),
        ("far", "an entry point of /opt/far/bin/python", "", True),
        ("lost", "no distribution that is installed", "", True),
        ("one", "/x/one.py", "", True),
        ("big", str(folder / "big"), "", True),
        ("idle", "acme (acme.idle)", "1.2", False),
    ]


def test_a_folder_of_plugins_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(Invalid, match="plugins_folder"):
        find_plugins(Settings(plugins_folder=tmp_path / "nothing"))


def test_a_call_may_see_the_studies_among_its_arguments_and_no_others() -> None:
    other, remote = Study(study_uid="3", facility="south", patient="p"), "https://archive.example"
    arguments = {
        "patient": Patient(id="p", studies=(other,)),
        "priors": (Prior(study_uid="4", relevance=1), Prior(study_uid="5", relevance=1, root=remote)),
        "study": STUDY,
        "order": None,
    }
    assert host._studies(arguments) == {("north", "1.2"), ("south", "3"), ("north", "4")}


# -- in a room ---------------------------------------------------------------------------------------------------------

ROOM_PLUGIN = (
    HEAD
    + """
@hookimpl
def accept_instance(header, source):
    description = header.get("00081030", {}).get("Value", [""])[0]
    if description.startswith("refuse"):
        return Reject(because=f"no {description}", kind=description.split()[1])
    if description == "coerce":
        return Coerce(changes={"StudyDescription": f"from {source.name} for {source.facility}"}, remove=("StudyID",))
    if description == "wrong":
        return Coerce(changes={"StudyInstanceUID": "1.2.3"})
    if description == "crash":
        os._exit(1)
    if description == "fail":
        raise ValueError

@hookimpl
def metrics():
    return (
        Metric(name="seen", value=3, kind="counter", help="Seen", labels={"modality": "CT"}),
        Metric(name="load", value=0.5),
        Metric(name="bad name", value=1),
    )

@hookimpl
def triage_study(study, ctx):
    told = []
    for series in study.series:
        try:
            volume = ctx.pixels.volume(series)
            layout = ctx.pixels.layout(series)
            told.append((volume.shape, volume.dtype.str, int(volume.astype("i8").sum()),
                [int(one.max()) for one in volume], layout.spacing_mm, [one.instance_uid for one in layout.frames]))
        except ReadingRoomError as error:
            told.append(type(error).__name__ + ": " + error.message)
    return Triage(because=repr(told))
"""
)


@pytest.fixture
def settings(folder: Path, tmp_path: Path, sqlite_url: str, request: pytest.FixtureRequest) -> Settings:
    """A room with one plugin."""
    (folder / "made.py").write_text(ROOM_PLUGIN)
    return Settings(
        data=tmp_path / "data",
        database=sqlite_url,
        plugins_folder=folder,
        plugins={"made": PluginSettings.model_validate({"milliseconds": 5000, **getattr(request, "param", {})})},
    )


def shown(client: httpx.Client, dataset: FileDataset) -> dict[str, Any]:
    found: dict[str, Any] = client.get(f"/dicomweb/studies/{dataset.StudyInstanceUID}/metadata").json()[0]
    return found


@pytest.mark.parametrize(("kind", "reason"), [("refused", 0x0124), ("invalid", 0x0110), ("unavailable", 0xA700)])
def test_a_plugin_may_refuse_an_object(client: httpx.Client, kind: str, reason: int) -> None:
    wrong, right = synthetic.secondary_capture(StudyDescription=f"refuse {kind}"), synthetic.secondary_capture()
    answer = stow.store(client, part10(wrong), part10(right))
    assert answer.status == 202
    assert answer.failed == {wrong.SOPInstanceUID: reason}
    assert list(answer.stored) == [right.SOPInstanceUID]


def test_a_plugin_may_change_what_is_shown_of_an_object_and_its_bytes_are_kept(client: httpx.Client) -> None:
    dataset = synthetic.secondary_capture(StudyDescription="coerce")
    sent = part10(dataset)
    assert stow.store(client, sent).status == 202  # a warning: what is shown is not what was sent
    header = shown(client, dataset)
    assert header["00081030"]["Value"] == ["from stow for local"]
    assert "00200010" not in header
    series = f"/dicomweb/studies/{dataset.StudyInstanceUID}/series/{dataset.SeriesInstanceUID}"
    path = f"{series}/instances/{dataset.SOPInstanceUID}"
    assert client.get(path, params={"original": "true"}, headers=stow.AS_STORED).content == sent


def test_of_several_objects_each_has_its_own_answer(client: httpx.Client) -> None:
    what = ("plain", "refuse invalid", "coerce", "wrong", "fail", "plain")
    sent = [synthetic.secondary_capture(StudyDescription=one) for one in what]
    answer = stow.store(client, *map(part10, sent))
    assert answer.failed == {sent[1].SOPInstanceUID: 0x0110}
    told = [shown(client, one)["00081030"]["Value"][0] for one in sent if one is not sent[1]]
    assert told == ["plain", "from stow for local", "wrong", "fail", "plain"]
    failed = client.get("/dicomweb/changes", params={"type": "GateFailed"}).json()
    assert {uid for one in failed for uid in one["details"]["unseen"]} == {
        sent[3].SOPInstanceUID,
        sent[4].SOPInstanceUID,
    }
    page = client.get("/metrics").text
    assert 'readingroom_plugin_calls_total{hook="accept_instance",outcome="ok",plugin="made"} 5.0' in page
    assert 'readingroom_plugin_calls_total{hook="accept_instance",outcome="error",plugin="made"} 1.0' in page


@pytest.mark.parametrize("description", ["wrong", "crash"])
def test_an_object_is_stored_as_it_is_where_a_plugin_fails(client: httpx.Client, description: str) -> None:
    dataset = synthetic.secondary_capture(StudyDescription=description)
    assert stow.store(client, part10(dataset)).status == 200
    assert shown(client, dataset)["00081030"]["Value"] == [description]
    (told,) = client.get("/dicomweb/changes", params={"type": "GateFailed"}).json()
    assert (told["study"], told["details"]["plugin"]) == (dataset.StudyInstanceUID, "made")
    assert told["details"]["unseen"] == [dataset.SOPInstanceUID]
    assert told["details"]["because"]


def test_of_what_a_plugin_has_looked_at_nobody_says_that_it_failed(client: httpx.Client) -> None:
    stow.store(client, part10(synthetic.secondary_capture(StudyDescription="coerce")))
    assert client.get("/dicomweb/changes", params={"type": "GateFailed"}).json() == []


@pytest.mark.parametrize("settings", [{"on_error": "reject"}], indirect=True)
def test_an_object_is_refused_where_a_plugin_fails_that_has_to_see_it(client: httpx.Client) -> None:
    dataset = synthetic.secondary_capture(StudyDescription="crash")
    assert stow.store(client, part10(dataset)).failed == {dataset.SOPInstanceUID: 0xA700}


def test_the_metrics_page_has_the_numbers_of_plugins(client: httpx.Client) -> None:
    stow.store(client, part10(synthetic.secondary_capture()))
    page = client.get("/metrics").text
    assert 'readingroom_plugin_up{plugin="made"} 1.0' in page
    assert 'readingroom_plugin_seen_total{modality="CT",plugin="made"} 3.0' in page
    assert 'readingroom_plugin_load{plugin="made"} 0.5' in page
    assert 'readingroom_plugin_calls_total{hook="accept_instance",outcome="ok",plugin="made"} 1.0' in page
    assert "bad name" not in page


def triaged(room: Room, dataset: FileDataset, *series_uids: str) -> list[Any]:
    series = tuple(Series(series_uid=uid) for uid in series_uids or (dataset.SeriesInstanceUID,))
    study = Study(study_uid=dataset.StudyInstanceUID, facility="local", patient="p", series=series)
    told = room.hooks.react("made", "triage_study", delivery="d", study=study, order=None, priors=())
    found: list[Any] = eval(told.because)
    return found


def test_a_plugin_sees_a_series_as_a_volume_in_slice_order(
    room: Room, client: httpx.Client, chest_ct: list[FileDataset]
) -> None:
    shuffled = [chest_ct[index] for index in (3, 0, 4, 1, 2)]
    localizer = synthetic.ct_series(1, 8, 8, study_uid=chest_ct[0].StudyInstanceUID)[0]
    localizer.SeriesInstanceUID = chest_ct[0].SeriesInstanceUID
    stow.store(client, *map(part10, [localizer, *shuffled]))
    truth = np.stack([one.pixel_array for one in chest_ct])
    ((shape, dtype, total, brightest, spacing, uids),) = triaged(room, chest_ct[0])
    assert (shape, dtype, total) == (truth.shape, "<i2", int(truth.astype("i8").sum()))
    assert brightest == [int(one.max()) for one in truth]
    assert spacing == (2.0, 0.7, 0.7)
    assert uids == [one.SOPInstanceUID for one in chest_ct]


def test_compressed_and_multi_frame_images_are_volumes_too(room: Room, client: httpx.Client) -> None:
    import imagecodecs

    pixels = np.arange(3 * 8 * 8, dtype="<u2").reshape(3, 8, 8)
    streams = [bytes(imagecodecs.jpeg2k_encode(one, codecformat="J2K", reversible=True, level=0)) for one in pixels]
    compressed = synthetic.encapsulated(streams)
    plain = synthetic.cine(4)
    for dataset, truth in ((compressed, pixels), (plain, plain.pixel_array)):
        assert stow.store(client, part10(dataset)).status == 200
        ((shape, _, total, brightest, _, uids),) = triaged(room, dataset)
        assert (shape, total) == (truth.shape, int(truth.sum()))
        assert brightest == [int(one.max()) for one in truth]
        assert uids == [dataset.SOPInstanceUID] * len(truth)


def test_a_series_without_images_of_another_study_or_broken_is_said_to_the_plugin(
    room: Room, client: httpx.Client, chest_ct: list[FileDataset]
) -> None:
    report, broken = synthetic.text_report(), synthetic.encapsulated([b"\xff\x4f\xff\x51broken", b"no image"])
    stow.store(client, *map(part10, [report, broken, chest_ct[0]]))
    (told,) = triaged(room, report)
    assert told == f"NotFound: Series {report.SeriesInstanceUID} has no images."
    (told,) = triaged(room, report, chest_ct[0].SeriesInstanceUID)
    assert told == f"NotFound: No study of this call has the series {chest_ct[0].SeriesInstanceUID}."
    (told,) = triaged(room, broken)
    assert told.startswith(("NotDicom", "NotAcceptable"))


def test_every_error_that_a_plugin_can_get_is_one_that_it_can_name() -> None:
    from readingroom import errors

    for kind in vars(errors).values():
        if isinstance(kind, type) and issubclass(kind, ReadingRoomError):
            assert getattr(errors, kind.__name__) is kind
