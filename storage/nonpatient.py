"""Instances that belong to no patient and so are in no study: their categories, as PS3.18 chapter 12 has them.

They are told from what is in a study by what they say of themselves: their SOP Class, and no Study Instance UID.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from storage.dicomjson import MetadataJson, first_value


@dataclass(frozen=True, slots=True, kw_only=True)
class Category:
    """A resource category (PS3.18 table 12.1.1-1).

    Attributes
    ----------
    name
        The ``npi-name`` of its resources.
    title
        What one of it is called.
    sop_classes
        UIDs of its storage classes.
    section
        Of PS3.4, where the attributes of its information model are.
    keys
        The attributes that searches have to match, by tag; within sequences with dots between. Every other attribute is
        matched too.
    returned
        Further attributes that answers have without being asked.
    """

    name: str
    title: str
    sop_classes: frozenset[str]
    section: str
    keys: tuple[str, ...]
    returned: tuple[str, ...] = ()

    @property
    def plural(self) -> str:
        """What several are called."""
        return self.name.replace("-", " ")

    @property
    def row(self) -> frozenset[str]:
        """The outermost attributes of a row that answers a search."""
        return frozenset(name.partition(".")[0] for name in (_CHARACTER_SET, *self.keys, *self.returned))


_CHARACTER_SET = "00080005"
_UIDS = ("00080016", "00080018")


def _code(*sequences: str) -> Iterator[str]:
    """What is matched of a code sequence: its value, its scheme and its meaning (PS3.4 table 8-1a)."""
    for sequence in sequences:
        yield from (f"{sequence}.{tag}" for tag in ("00080100", "00080102", "00080104"))


def _reference(*sequences: str) -> Iterator[str]:
    """What is matched of references to instances: SOP Class and SOP Instance UID."""
    for sequence in sequences:
        yield from (f"{sequence}.{tag}" for tag in ("00081150", "00081155"))


def _by_name(categories: Iterable[Category]) -> dict[str, Category]:
    return {one.name: one for one in categories}


CATEGORIES: Mapping[str, Category] = _by_name(
    (
        Category(
            name="color-palettes",
            title="color palette",
            sop_classes=frozenset({"1.2.840.10008.5.1.4.39.1"}),
            section="X.6.1.2",
            keys=(*_UIDS, "00700080"),
            returned=("00700081", "00700084", "00700087"),
        ),
        Category(
            name="defined-procedure-protocols",
            title="defined procedure protocol",
            sop_classes=frozenset({"1.2.840.10008.5.1.4.1.1.200.1", "1.2.840.10008.5.1.4.1.1.200.7"}),
            section="HH.6.1.2",
            keys=(
                *_UIDS,
                "00080012",  # Instance Creation Date
                "00080013",  # Instance Creation Time
                *_code("00080220"),  # Responsible Group Code Sequence
                "00080221",  # Equipment Modality
                *_code("00082218", "00082228"),  # Anatomic Region, Primary Anatomic Structure Sequence
                "00120010",  # Clinical Trial Sponsor Name
                "00120020",  # Clinical Trial Protocol ID
                "00181030",  # Protocol Name
                *_code("00189906", "00189907", "00189909"),  # Potential protocols, procedures and reasons
                *_reference("0018990E"),  # Predecessor Protocol Sequence
                *(f"00189912.{tag}" for tag in ("00080070", "00080222", "00081090", "00181020")),  # Model Specification
                "0040A07C.00080080",  # Custodial Organization Sequence
                *_code("0040A07C.00080082"),
                "00700084",  # Content Creator's Name
            ),
            returned=("00189908", "0018990A"),
        ),
        Category(
            name="hanging-protocols",
            title="hanging protocol",
            sop_classes=frozenset({"1.2.840.10008.5.1.4.38.1"}),
            section="U.6.1.2",
            keys=(
                *_UIDS,
                "00720002",  # Hanging Protocol Name
                "00720006",  # Hanging Protocol Level
                "0072000C.00080060",  # Hanging Protocol Definition Sequence
                *_code("0072000C.00081032", "0072000C.00082218"),
                "0072000C.00200060",
                *_code("0072000C.0040100A"),
                *_code("0072000E"),  # Hanging Protocol User Identification Code Sequence
                "00720010",  # Hanging Protocol User Group Name
                "00720014",  # Number of Priors Referenced
                "00720100",  # Number of Screens
            ),
            returned=("00720004", "00720008", "0072000A", "00720102"),
        ),
        Category(
            name="implant-templates",
            title="implant template",
            sop_classes=frozenset(f"1.2.840.10008.5.1.4.{number}.1" for number in (43, 44, 45)),
            section="BB.6.1.2",
            keys=(
                *_UIDS,
                "00080070",  # Manufacturer
                "00221095",  # Implant Name
                "00221097",  # Implant Part Number
                "00686210",  # Implant Size
                *_reference("00686222", "00686224", "00686225"),  # Replaced, Derivation, Original Implant Template
                "00686226",  # Effective DateTime
                *_code("00686230.00082218"),  # Implant Target Anatomy Sequence
                *_code("006862A0", "006863A0", "006863A4"),  # Regulatory Disapproval, Materials, Coating Materials
                "00760001",  # Implant Assembly Template Name
                *_reference("00760008", "0076000C", "0076000E"),  # Replaced, Original, Derivation of assemblies
                *_code("00760020"),  # Procedure Type Code Sequence
                "00760030",  # Surgical Technique
                "00780001",  # Implant Template Group Name
                "00780020",  # Implant Template Group Issuer
                *_reference("00780026"),  # Replaced Implant Template Group Sequence
            ),
            returned=("00780010",),
        ),
        Category(
            name="inventories",
            title="inventory",
            sop_classes=frozenset({"1.2.840.10008.5.1.4.1.1.201.1"}),
            section="JJ.2",
            keys=(
                *_UIDS,
                "00080023",  # Content Date
                "00080033",  # Content Time
                "00080401",  # Inventory Purpose
                "00080403",  # Inventory Level
                "00080426",  # Inventory Completion Status
                "00080428",  # Total Number of Study Records
            ),
            returned=("00080400", "00080402", "00080427"),
        ),
        Category(
            name="protocol-approvals",
            title="protocol approval",
            sop_classes=frozenset({"1.2.840.10008.5.1.4.1.1.200.3"}),
            section="II.6.1.2",
            keys=(
                *_UIDS,
                "00080012",  # Instance Creation Date
                "00080013",  # Instance Creation Time
                *_code("00440100.00440101"),  # Approval Sequence: Assertion Code Sequence
                "00440100.00440103.00080080",  # Asserter Identification Sequence
                *_code("00440100.00440103.00080082"),
                *_code("00440100.00440103.00401101"),
                "00440100.00440103.0040A123",
                *_code("00440100.00440103.0044010A"),
                "00440100.00440104",  # Assertion DateTime
                "00440100.00440105",  # Assertion Expiration DateTime
                *_reference("00440109"),  # Approval Subject Sequence
            ),
        ),
    )
)
"""By name; PS3.18 has them all but the protocol approvals, which CP-2551 adds."""

_OF_CLASS = {uid: one.name for one in CATEGORIES.values() for uid in one.sop_classes}


def category_of(metadata: MetadataJson) -> str:
    """The category of a data set that belongs to no patient; empty for one that is, or has to be, in a study."""
    if first_value(metadata, "0020000D"):
        return ""
    return _OF_CLASS.get(str(first_value(metadata, "00080016")), "")


def non_patient_place(owner_facility: str, category: str, instance_uid: str) -> str:
    """The folder of an instance: fanned out by hash, and the same whoever computes it."""
    key = hashlib.sha256(f"{owner_facility}\n{category}\n{instance_uid}".encode()).hexdigest()[:32]
    return f"n/{category}/{key[:2]}/{key}"
