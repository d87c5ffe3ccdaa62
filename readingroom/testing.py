"""Tests for plugins: a pytest plugin for vendors and for us.

Put ``pytest_plugins = ["readingroom.testing"]`` into the ``conftest.py`` of the tests. `PluginContract` and the
fixtures `clock`, `chest_ct` and `deliver` need nothing of ours but this package; `room` and `client` need the server.
"""

from __future__ import annotations

import logging
from base64 import b64encode
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from numpy.typing import NDArray

from readingroom.clock import SetClock
from readingroom.confine import Limits
from readingroom.contained import Contained, Launch
from readingroom.context import Archive, Dataset, NoArchive, SharedVolume, new_volume
from readingroom.errors import GiveUp, NotFound, PluginFailed, RetryLater
from readingroom.hooks import Hook
from readingroom.hookspecs import HOOKS
from readingroom.jsonio import from_json
from readingroom.model import (
    Contact,
    Destination,
    Escalation,
    Facility,
    Finding,
    Order,
    Passage,
    Patient,
    Reader,
    Report,
    Rung,
    Section,
    Series,
    Signature,
    Sla,
    Snapshot,
    Source,
    Study,
    Waiting,
    WorkItem,
)
from readingroom.results import Prior

NOW = datetime(2026, 1, 1, 12, 0, tzinfo=UTC)
_LIMIT = timedelta(seconds=60)


@dataclass(frozen=True, kw_only=True)
class MadeStudy:
    """A study made in code, with its pixels and data sets; an archive that shows them.

    `volumes` are stored values by Series Instance UID, `datasets` the instances of each in slice order.
    """

    study: Study
    volumes: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    datasets: Mapping[str, Sequence[Dataset]] = field(default_factory=dict)

    def volume(self, series_uid: str) -> SharedVolume:
        """The stored values of a series; raises `NotFound`."""
        if series_uid not in self.volumes:
            raise NotFound(f"Series {series_uid} has no images.")
        array = self.volumes[series_uid]
        frames = [(dataset["00080018"]["Value"][0], 1) for dataset in self.datasets[series_uid]]
        volume, target = new_volume(array.shape, array.dtype.str, frames)
        target[...] = array
        return volume

    def instances(self, series_uid: str) -> Sequence[Dataset]:
        """Its data sets; raises `NotFound`."""
        if series_uid not in self.datasets:
            raise NotFound(f"No study of this call has the series {series_uid}.")
        return self.datasets[series_uid]


def made_study(
    volume: NDArray[Any],
    *,
    modality: str = "CT",
    body_part: str = "CHEST",
    spacing_mm: tuple[float, float, float] = (5.0, 1.0, 1.0),
    slope: float = 1.0,
    intercept: float = -1024.0,
    facility: str = "north",
    number: int = 1,
) -> MadeStudy:
    """A study of one series whose slices are the planes of a volume of stored values.

    Parameters
    ----------
    volume
        Shape ``(slices, rows, columns)``, of whole numbers.
    spacing_mm
        Between slices, rows and columns.
    number
        Makes its UIDs: the same number, the same study.
    """
    study_uid = f"2.25.{number}00"
    series_uid = f"{study_uid}.1"
    series = Series(
        series_uid=series_uid,
        modality=modality,
        number=1,
        description="Made in code",
        body_part=body_part,
        instance_count=len(volume),
    )
    study = Study(
        study_uid=study_uid,
        facility=facility,
        patient="made-patient",
        patient_id="RR-0001",
        issuer=facility,
        patient_name="Phantom^Ada",
        birth_date="19700101",
        sex="O",
        study_date="20260101",
        study_time="110000",
        accession_number=f"A{number}",
        description=f"{modality} {body_part}",
        modalities=(modality,),
        body_parts=(body_part,),
        series=(series,),
        instance_count=len(volume),
        received_at=NOW,
    )
    datasets = [
        {
            "00080018": {"vr": "UI", "Value": [f"{series_uid}.{index + 1}"]},
            "00080060": {"vr": "CS", "Value": [modality]},
            "00180015": {"vr": "CS", "Value": [body_part]},
            "0020000D": {"vr": "UI", "Value": [study_uid]},
            "0020000E": {"vr": "UI", "Value": [series_uid]},
            "00200013": {"vr": "IS", "Value": [index + 1]},
            "00200032": {"vr": "DS", "Value": [0.0, 0.0, index * spacing_mm[0]]},
            "00200037": {"vr": "DS", "Value": [1.0, 0.0, 0.0, 0.0, 1.0, 0.0]},
            "00280010": {"vr": "US", "Value": [volume.shape[1]]},
            "00280011": {"vr": "US", "Value": [volume.shape[2]]},
            "00280030": {"vr": "DS", "Value": list(spacing_mm[1:])},
            "00281052": {"vr": "DS", "Value": [intercept]},
            "00281053": {"vr": "DS", "Value": [slope]},
        }
        for index in range(len(volume))
    ]
    return MadeStudy(study=study, volumes={series_uid: volume}, datasets={series_uid: datasets})


def made_chest() -> MadeStudy:
    """A small CT of a chest that nobody ever had: soft tissue, two lungs, a spine; 16 slices of 64 x 64, 5 mm apart."""
    z, y, x = np.mgrid[:16, :64, :64]
    values = np.full(z.shape, -1000.0)
    values[((x - 32) / 30) ** 2 + ((y - 32) / 24) ** 2 < 1] = 40
    for centre in (19, 45):
        values[((x - centre) / 9) ** 2 + ((y - 30) / 15) ** 2 + ((z - 8) / 9) ** 2 < 1] = -850
    values[(x - 32) ** 2 + (y - 48) ** 2 < 16] = 400
    noise = np.random.default_rng(1).normal(0, 10, values.shape)
    return made_study((values + noise + 1024).round().astype("<i2"))


@pytest.fixture
def clock() -> SetClock:
    """A clock that stands still until the test moves it."""
    return SetClock(NOW)


@pytest.fixture(scope="session")
def chest_ct() -> MadeStudy:
    """A small chest CT."""
    return made_chest()


type Deliver = Callable[..., Any]


@pytest.fixture(scope="session")
def deliver() -> Iterator[Deliver]:
    """Calls a hook of a plugin in a process of its own, as the server does, and gives its answer.

    ``deliver(plugin, hook, archive=chest_ct, settings={...}, **arguments)``; the arguments that are left out are made.
    """
    children: dict[str, Contained] = {}

    def call(
        plugin: str,
        hook: str,
        *,
        archive: Archive | None = None,
        settings: Mapping[str, Any] | None = None,
        limits: Limits | None = None,
        module: str | None = None,
        delivery: str = "delivery-1",
        attempt: int = 1,
        **arguments: Any,
    ) -> Any:
        launch = Launch(name=plugin, module=_placed(module), settings=settings or {}, limits=limits or Limits())
        child = children.get(repr(launch))
        if child is None or not child.is_alive:
            child = children[repr(launch)] = Contained(launch, now=NOW)
        spec = HOOKS[hook]
        made = archive if isinstance(archive, MadeStudy) else made_chest()
        answer = child.call(
            spec,
            made_arguments(spec, made) | arguments,
            limit=_LIMIT,
            now=NOW,
            archive=archive or made,
            delivery=delivery,
            attempt=attempt,
        )
        return from_json(spec.result, answer)

    yield call
    for child in children.values():
        child.stop(now=NOW)


@pytest.fixture
def room_settings() -> Mapping[str, Any]:
    """Settings of `room`; override it to turn plugins on: ``{"plugins": {"acme": {}}}``."""
    return {}


@pytest.fixture
def room(tmp_path: Path, clock: SetClock, room_settings: Mapping[str, Any]) -> Iterator[Any]:
    """A server's room with an empty archive; skips where the server is not installed."""
    app = pytest.importorskip("server.app")
    settings = pytest.importorskip("server.settings").Settings(data=tmp_path / "data", **room_settings)
    with app.build_room(settings, clock=clock) as opened:
        yield opened


@pytest.fixture
def client(room: Any) -> Iterator[Any]:
    """Speaks HTTP with the app of `room`, in this process."""
    app = pytest.importorskip("server.app")
    with pytest.importorskip("starlette.testclient").TestClient(
        app.create_app(room), base_url="http://127.0.0.1:8780"
    ) as opened:
        yield opened


def _placed(module: str | None) -> str | None:
    """A file or folder as the process of a plugin finds it, which has a working folder of its own."""
    return None if module is None else str(Path(module).resolve())


def made_arguments(hook: Hook, made: MadeStudy) -> dict[str, Any]:
    """What a hook is called with for a made study, as the server might."""
    study = made.study
    prior = replace(study, study_uid=f"{study.study_uid}9", study_date="20250101", series=(), instance_count=0)
    item = WorkItem(
        id="item-1",
        kind="read",
        state="ready",
        facility=study.facility,
        version=2,
        study_uid=study.study_uid,
        modality=study.modalities[0] if study.modalities else None,
        body_part=study.body_parts[0] if study.body_parts else None,
        created_at=NOW,
        ready_at=NOW,
        due_at=NOW + timedelta(hours=1),
    )
    contact = Contact(name="Desk", role="desk", channel="none", address="desk")
    given: dict[str, Any] = {
        "study": study,
        "order": Order(accession_number="A1", facility=study.facility),
        "priors": (Prior(study_uid=prior.study_uid, relevance=0.5, study_date=prior.study_date),),
        "patient": Patient(id=study.patient, patient_id=study.patient_id, issuer=study.issuer, studies=(prior,)),
        "item": item,
        "before": replace(item, state="waiting", version=1),
        "sla": Sla(due_at=NOW + timedelta(hours=1)),
        "mark": "warn",
        "escalation": Escalation(id="escalation-1", facility=study.facility, study_uid=study.study_uid, category=1),
        "rung": Rung(number=1, role="desk", after=timedelta(0)),
        "contact": contact,
        "snapshot": Snapshot(
            at=NOW,
            waiting=(Waiting(item=item, eligible=("reader-1",)),),
            readers=(Reader(id="reader-1", name="Reader One", free_at=NOW),),
        ),
        "facility": Facility(id=study.facility, name="North", contacts=(contact,)),
        "source": Source(facility=study.facility, name="stow"),
        "header": dict(next(iter(made.datasets.values()))[0]) if made.datasets else {},
        "reason": "removed 30 days ago",
        "findings": (Finding(text="Something to be seen", probability=0.8),),
        "pdf": b64encode(b"%PDF-1.7\n%%EOF\n").decode(),
        "report": Report(
            id="report-1",
            facility=study.facility,
            status="final",
            number=1,
            study_uid=study.study_uid,
            patient_id=study.patient_id,
            patient_name=study.patient_name,
            modalities=study.modalities,
            sections=(Section(name="impression", title="Impression", passages=(Passage(text="Nothing new."),)),),
            signatures=(Signature(reader="reader-1", name="Reader One", role="attending", at=NOW),),
            signed_at=NOW,
        ),
        "destination": Destination(id="desk", facility=study.facility, channel="none", address="desk"),
        "reader": "reader-1",
        "read_before": 40,
        "alike_before": 12,
        "added": (),
        "removed": (),
    }
    return {name: given[name] for name in hook.parameters}


class PluginContract:
    """What every plugin has to keep; derive a test class from it and say which plugin it is.

    Attributes
    ----------
    plugin
        The name of its entry point.
    module
        Its file or folder, for one without an entry point.
    settings
        Its own settings.
    limits
        What it needs beyond what every plugin has: network, paths.
    """

    plugin: ClassVar[str]
    module: ClassVar[str | None] = None
    settings: ClassVar[Mapping[str, Any]] = {}
    limits: ClassVar[Limits] = Limits()

    @pytest.fixture(scope="class")
    @classmethod
    def child(cls) -> Iterator[Contained]:
        """The plugin in a process of its own, as the server runs it."""
        child = Contained(cls.launch(), now=NOW)
        yield child
        child.kill()

    @classmethod
    def launch(cls, **settings: Any) -> Launch:
        """How the plugin is started."""
        return Launch(
            name=cls.plugin, module=_placed(cls.module), settings={**cls.settings, **settings}, limits=cls.limits
        )

    def call(self, child: Contained, hook: Hook, made: MadeStudy, *, attempt: int = 1) -> Any:
        """Its answer, checked; None where it wants to be asked another time, or never again."""
        archive: Archive = made if hook.family == "react" else NoArchive()
        try:
            answer = child.call(
                hook,
                made_arguments(hook, made),
                limit=_LIMIT,
                now=NOW,
                archive=archive,
                delivery=f"{hook.name}-1",
                attempt=attempt,
            )
        except (RetryLater, GiveUp):
            return None
        return from_json(hook.result, answer)

    def called(self, child: Contained) -> list[Hook]:
        """The hooks that it implements, without those of its start and end."""
        return [hook for name, hook in HOOKS.items() if name in child.loaded.hooks and hook.family != "register"]

    def test_it_starts_in_a_process_of_its_own(self, child: Contained) -> None:
        """With its settings, confined, and with a hook at least that somebody calls."""
        assert child.is_alive
        assert self.called(child)

    def test_it_refuses_a_setting_that_it_does_not_know(self) -> None:
        """A misspelt setting that is taken in silence is found out in the night."""
        with pytest.raises(PluginFailed) as caught:
            Contained(self.launch(no_such_setting_is_known=1), now=NOW).kill()
        assert "no_such_setting_is_known" in caught.value.message

    def test_each_hook_answers_what_it_may(self, child: Contained) -> None:
        """For a small CT that has nothing special."""
        for hook in self.called(child):
            self.call(child, hook, made_chest())
        assert child.is_alive

    def test_each_hook_lives_with_a_study_that_is_not_for_it(self, child: Contained) -> None:
        """Without images, without a region, of a modality that nobody has."""
        empty = MadeStudy(study=Study(study_uid="2.25.7", facility="north", patient="nobody", modalities=("ZZ",)))
        for hook in self.called(child):
            self.call(child, hook, empty)
        assert child.is_alive

    def test_each_hook_lives_with_a_second_delivery(self, child: Contained) -> None:
        """With the same key, as after a crash."""
        for hook in self.called(child):
            first = self.call(child, hook, made_chest())
            assert type(self.call(child, hook, made_chest(), attempt=2)) is type(first)

    def test_it_writes_no_patient_to_the_log(self, child: Contained, caplog: pytest.LogCaptureFixture) -> None:
        """What it logs and prints goes to the server's log."""
        caplog.set_level(logging.DEBUG)
        for hook in self.called(child):
            self.call(child, hook, made_chest())
        for told in ("Phantom", "Ada", "RR-0001", "19700101"):
            assert told not in caplog.text

    def test_it_ends_when_it_is_told(self) -> None:
        """Within its time, and by itself."""
        child = Contained(self.launch(), now=NOW)
        assert child.stop(now=NOW) == 0
