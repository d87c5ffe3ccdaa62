"""What the operator says about an algorithm: what it is and is cleared for, where its model is, what goes in."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AnyHttpUrl, BaseModel, ConfigDict, Field, SecretStr, StringConstraints, model_validator

from readingroom import Algorithm, Code
from readingroom.model import Category, Priority

from .hyperdense import THRESHOLD

Probability = Annotated[float, Field(ge=0, le=1)]
Keyword = Annotated[str, StringConstraints(pattern=r"^[A-Z0-9 _]{1,16}$")]
"""A value of VR CS."""
Clearance = Annotated[str, StringConstraints(pattern=r"^(K|DEN|P|H|BK|BP)[0-9]{6}(/S[0-9]{3})?$")]
"""A number of the FDA: 510(k), De Novo, PMA and its supplement, HDE, or one of CBER."""


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class AlgorithmTable(_Table):
    """Which algorithm it is, and its indications for use."""

    name: str
    version: str
    manufacturer: str = ""
    clearance: Clearance | None = None
    modalities: tuple[Keyword, ...] = ()
    body_parts: tuple[Keyword, ...] = ()
    is_research: bool = False

    @model_validator(mode="after")
    def _names_its_indications(self) -> Self:
        if self.clearance is not None and not (self.modalities and self.body_parts):
            raise ValueError(f"{self.clearance} is cleared for something: name its modalities and body_parts")
        return self

    @property
    def algorithm(self) -> Algorithm:
        return Algorithm(**self.model_dump())


class CodeTable(_Table):
    """A coded concept; `system` is DCM, SCT, RADLEX or a URI."""

    value: str
    system: str
    meaning: str

    @property
    def code(self) -> Code:
        return Code(**self.model_dump())


class InputTable(_Table):
    """How pixels become the tensor of a model.

    Values, in Hounsfield units for CT, are mapped from `low`..`high` to 0..1 (without them, from what each image
    holds), then `mean` is taken off and `deviation` divides. ``slices`` gives ``(batch, channels, rows, columns)``, one
    slice a sample; ``volume`` gives ``(1, channels, slices, rows, columns)``.
    """

    name: str
    layout: Literal["slices", "volume"] = "slices"
    rows: Annotated[int, Field(ge=1, le=2048)]
    columns: Annotated[int, Field(ge=1, le=2048)]
    slices: Annotated[int, Field(ge=1, le=1024)] | None = None
    channels: Literal[1, 3] = 1
    batch: Annotated[int, Field(ge=1, le=256)] = 16
    low: float | None = None
    high: float | None = None
    mean: float = 0.0
    deviation: Annotated[float, Field(gt=0)] = 1.0

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        low, high = self.low, self.high
        if (low is None) != (high is None) or (low is not None and high is not None and low >= high):
            raise ValueError("low and high go together, and low is the lower one")
        if (self.layout == "volume") != (self.slices is not None):
            raise ValueError(
                "slices is how many a volume is made to have: give it with the layout volume, and only then"
            )
        return self

    @property
    def shape(self) -> tuple[int | None, ...]:
        """The sizes of a tensor; None where it is the number of slices in a batch, which may be less at the end."""
        if self.layout == "volume":
            return 1, self.channels, self.slices, self.rows, self.columns
        return None, self.channels, self.rows, self.columns


class OutputTable(_Table):
    """Where a model's answer holds the probability: one value a sample, or one of several classes."""

    name: str
    index: Annotated[int, Field(ge=0)] = 0
    activation: Literal["none", "sigmoid", "softmax"] = "none"


class _Model(_Table):
    algorithm: AlgorithmTable
    text: str
    code: CodeTable | None = None
    category: Category | None = None
    priority: Priority | None = "stat"
    threshold: Probability = 0.5
    input: InputTable
    output: OutputTable


class OnnxTable(_Model):
    """A model in a file, run by ONNX Runtime in the plugin's process."""

    kind: Literal["onnx"]
    path: Path
    threads: Annotated[int, Field(ge=1, le=64)] = 1


class KServeTable(_Model):
    """A model behind the Open Inference Protocol (KServe v2, Triton): ``URL/v2/models/MODEL/infer``."""

    kind: Literal["kserve"]
    url: AnyHttpUrl
    model: str = Field(pattern=r"^[A-Za-z0-9._-]+$")
    model_version: str | None = Field(None, pattern=r"^[A-Za-z0-9._-]+$")
    token: SecretStr | None = None
    timeout_seconds: Annotated[float, Field(gt=0, le=240)] = 60.0
    is_binary: bool = False
    """Send the tensor as bytes behind the JSON, which the server has to know as the binary tensor data extension."""


class HyperdenseTable(_Table):
    """The built-in detector of blood on a CT of the head; for research."""

    kind: Literal["hyperdense"] = "hyperdense"
    threshold: Probability = THRESHOLD
    category: Category | None = None
    priority: Priority | None = "stat"


class Settings(_Table):
    """The table of the plugin.

    `is_off_label_tried` lets the algorithm look at series of another region than its own too, or of one that is not
    named; what it says there is research.
    """

    detector: Annotated[HyperdenseTable | OnnxTable | KServeTable, Field(discriminator="kind")] = HyperdenseTable()
    is_off_label_tried: bool = False
