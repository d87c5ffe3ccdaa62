"""How much an earlier study helps who reads the present one: by region, modality and age."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date
from math import exp

_REGIONS: dict[str, str] = {
    "head": """HEAD BRAIN SKULL CEREBELLUM CIRCLEOFWILLIS IAC EAR EYE ORBIT CORNEA SCLERA SCALP NOSE JAW MAXILLA CHEEK
        MOUTH TONGUE TMJ ZYGOMA PAROTID SUBMANDIBULAR PARANASALSINUS SINUS FACE MANDIBLE HEADNECK WHOLEBODY""",
    "neck": """NECK CAROTID LARYNX PHARYNX THYROID TRACHEA CSPINE CTSPINE HEADNECK NECKCHEST NECKCHESTABDOMEN
        NECKCHESTABDPELV WHOLEBODY""",
    "chest": """CHEST LUNG HEART MEDIASTINUM BRONCHUS CORONARYARTERY ESOPHAGUS RIB STERNUM THYMUS TRACHEA THORAX AORTA
        TSPINE CHESTABDOMEN CHESTABDPELVIS NECKCHEST NECKCHESTABDOMEN NECKCHESTABDPELV WHOLEBODY""",
    "breast": "BREAST AXILLA",
    "abdomen": """ABDOMEN ADRENAL AORTA COLON DUODENUM GALLBLADDER ILEUM JEJUNUM KIDNEY LIVER PANCREAS SPLEEN STOMACH
        URETER UMBILICAL LSPINE ABDOMENPELVIS CHESTABDOMEN CHESTABDPELVIS NECKCHESTABDOMEN NECKCHESTABDPELV
        WHOLEBODY""",
    "pelvis": """PELVIS BLADDER CERVIX OVARY PENIS PROSTATE RECTUM SCROTUM TESTIS URETHRA UTERUS VAGINA VULVA ILIUM
        BUTTOCK COCCYX SSPINE HIP ABDOMENPELVIS CHESTABDPELVIS NECKCHESTABDPELV WHOLEBODY""",
    "spine": "SPINE CSPINE CTSPINE TSPINE TLSPINE LSPINE LSSPINE SSPINE COCCYX BACK WHOLEBODY",
    "shoulder": "SHOULDER CLAVICLE SCAPULA HUMERUS AXILLA ARM UPPERARM",
    "elbow": "ELBOW HUMERUS FOREARM ARM",
    "hand": "HAND WRIST FINGER THUMB FOREARM",
    "hip": "HIP THIGH FEMUR LEG PELVIS",
    "knee": "KNEE PATELLA THIGH CALF FEMUR LEG",
    "foot": "FOOT ANKLE TOE CALCANEUS CALF LEG",
}
"""Values of Body Part Examined (PS3.16 annex L) by the region that a reader compares."""
REGIONS_OF: dict[str, frozenset[str]] = {
    value: frozenset(region for region, values in _REGIONS.items() if value in values.split())
    for values in _REGIONS.values()
    for value in values.split()
}
_ALIKE = (
    frozenset(("CR", "DX", "RG")),
    frozenset(("CT", "MR")),
    frozenset(("CT", "PT", "NM")),
    frozenset(("CT", "CR", "DX")),
    frozenset(("MG", "US", "MR")),
    frozenset(("XA", "RF", "CT")),
)
"""Modalities (PS3.16 CID 33) that show enough of the same to be compared."""
_FADES_IN_YEARS = 4.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """What of a study counts: what it shows, how, and when it was made."""

    body_parts: tuple[str, ...] = ()
    modalities: tuple[str, ...] = ()
    day: date | None = None


def relevance(present: Shown, prior: Shown) -> tuple[float, str]:
    """How relevant a prior is, from 0 to 1, and why in a few words.

    The region counts most: another one leaves a fifth. Of the same region, an old study of another kind still has half.
    """
    region, region_said = _region(present.body_parts, prior.body_parts)
    kind, kind_said = _kind(present.modalities, prior.modalities)
    age, age_said = _age(present.day, prior.day)
    return round(region * (0.5 + 0.3 * kind + 0.2 * age), 3), ", ".join((region_said, kind_said, age_said))


def day_of(value: str | None) -> date | None:
    """The day of a value of VR DA; None where it is none."""
    try:
        is_da = value is not None and len(value) == 8 and value.isascii() and value.isdigit()
        return date(int(value[:4]), int(value[4:6]), int(value[6:])) if value and is_da else None
    except ValueError:
        return None


def regions(body_parts: Iterable[str]) -> frozenset[str]:
    """The regions that values of Body Part Examined lie in; a value that is not known is a region of its own."""
    return frozenset().union(*(REGIONS_OF.get(part, frozenset((part,))) for part in body_parts))


def _region(present: tuple[str, ...], prior: tuple[str, ...]) -> tuple[float, str]:
    ours, theirs = regions(present), regions(prior)
    if not ours or not theirs:
        return 0.6, "region not said"
    shared = sorted(ours & theirs)
    return (1.0, f"same region ({'/'.join(shared)})") if shared else (0.2, "another region")


def _kind(present: tuple[str, ...], prior: tuple[str, ...]) -> tuple[float, str]:
    shared = sorted(set(present) & set(prior) - {"SR", "PR", "KO", "SEG", "DOC", "OT"})
    if shared:
        return 1.0, f"also {'/'.join(shared)}"
    told = "/".join(prior) or "modality not said"
    is_alike = any(group & set(present) and group & set(prior) for group in _ALIKE)
    return (0.6 if is_alike else 0.1), told


def _age(present: date | None, prior: date | None) -> tuple[float, str]:
    if present is None or prior is None:
        return 0.0, "age not known"
    days = (present - prior).days
    if days < 0:
        return 0.0, "later"
    if days < 60:
        said = "the same day" if days == 0 else f"{days} day{'s' * (days > 1)} before"
    elif days < 730:
        said = f"{days // 30} months before"
    else:
        said = f"{days // 365} years before"
    return exp(-days / 365 / _FADES_IN_YEARS), said
