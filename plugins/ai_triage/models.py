"""Asks a learned model: one in a file by ONNX Runtime, or one on a server by the Open Inference Protocol."""

from __future__ import annotations

import json
from datetime import timedelta
from functools import cache
from typing import Any, Protocol

import httpx
import numpy as np
from numpy.typing import NDArray

from readingroom import GiveUp, Invalid, RetryLater

from .settings import KServeTable, OnnxTable
from .tensors import Tensor

LARGEST_ANSWER = 16 << 20
"""Bytes that an inference server may answer."""


class Model(Protocol):
    """What is asked."""

    def infer(self, tensor: Tensor) -> NDArray[Any]:
        """The output that the settings name, for one tensor."""


class OnnxModel:
    """A model in a file.

    Raises
    ------
    Invalid
        It has no such input or output, or takes tensors of another shape; the message names what it has.
    """

    def __init__(self, table: OnnxTable) -> None:
        try:
            import onnxruntime
        except ImportError:
            raise Invalid("A detector of kind onnx needs ONNX Runtime: pip install 'readingroom[ai-triage]'.") from None
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = table.threads
        options.inter_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(table.path, options, providers=["CPUExecutionProvider"])
        self._input, self._output = table.input.name, table.output.name
        inputs = {one.name: one for one in self._session.get_inputs()}
        outputs = [one.name for one in self._session.get_outputs()]
        if list(inputs) != [self._input] or self._output not in outputs:
            raise Invalid(
                f"The model {table.path.name} has the inputs {', '.join(inputs)} and the outputs {', '.join(outputs)}; "
                f"the settings say input {self._input} and output {self._output}."
            )
        taken = inputs[self._input]
        if taken.type != "tensor(float)" or not _fits(table.input.shape, taken.shape):
            raise Invalid(
                f"The model {table.path.name} takes a {taken.type} of {taken.shape}; "
                f"the settings make a tensor(float) of {list(table.input.shape)}."
            )

    def infer(self, tensor: Tensor) -> NDArray[Any]:
        (answer,) = self._session.run([self._output], {self._input: tensor})
        return np.asarray(answer)


def _fits(given: tuple[int | None, ...], taken: list[int | str | None]) -> bool:
    """Whether a tensor may be given: a size that has a name, or none, is any."""
    return len(given) == len(taken) and all(
        not isinstance(size, int) or mine is None or mine == size for mine, size in zip(given, taken, strict=True)
    )


class KServeModel:
    """A model on a server; nothing but the configured address is ever asked, and no redirect is followed."""

    def __init__(self, table: KServeTable) -> None:
        self._table = table
        version = f"/versions/{table.model_version}" if table.model_version else ""
        self._url = f"{str(table.url).rstrip('/')}/v2/models/{table.model}{version}/infer"
        self._headers = {"Authorization": f"Bearer {table.token.get_secret_value()}"} if table.token else {}

    def infer(self, tensor: Tensor) -> NDArray[Any]:
        """Ask the server once.

        Raises
        ------
        RetryLater
            It cannot be reached, takes too long, or says that it cannot answer now.
        GiveUp
            It refuses the request, or its answer is none of the protocol.
        """
        body, headers = self._request(tensor)
        try:
            with (
                httpx.Client(timeout=self._table.timeout_seconds, trust_env=False) as client,
                client.stream(
                    "POST", self._url, content=body, headers={**self._headers, **headers, "Accept-Encoding": "identity"}
                ) as response,
            ):
                status = response.status_code
                content = _read(response)
        except httpx.HTTPError as error:
            raise RetryLater(f"The inference server does not answer: {type(error).__name__}.") from None
        if status >= 500 or status in (408, 425, 429):
            raise RetryLater(f"The inference server answers {status}.", after=timedelta(seconds=30))
        if status != 200:
            raise GiveUp(f"The inference server answers {status} to {self._table.model}: {_reason(content)}")
        return self._output(content)

    def _request(self, tensor: Tensor) -> tuple[bytes, dict[str, str]]:
        given: dict[str, Any] = {"name": self._table.input.name, "shape": list(tensor.shape), "datatype": "FP32"}
        data = tensor.astype("<f4").tobytes() if self._table.is_binary else b""
        if self._table.is_binary:
            given["parameters"] = {"binary_data_size": len(data)}
        else:
            given["data"] = tensor.ravel().tolist()
        head = json.dumps({"inputs": [given], "outputs": [{"name": self._table.output.name}]}).encode()
        if not self._table.is_binary:
            return head, {"Content-Type": "application/json"}
        sizes = {"Content-Type": "application/octet-stream", "Inference-Header-Content-Length": str(len(head))}
        return head + data, sizes

    def _output(self, content: bytes) -> NDArray[Any]:
        try:
            outputs = {one["name"]: one for one in json.loads(content)["outputs"]}
            found = outputs[self._table.output.name]
            return np.asarray(found["data"], np.float64).reshape(found["shape"])
        except (ValueError, TypeError, KeyError, OverflowError):
            name = self._table.output.name
            raise GiveUp(f"The inference server's answer has no output {name!r} of numbers in its shape.") from None


def _read(response: httpx.Response) -> bytes:
    content = bytearray()
    for chunk in response.iter_bytes():
        content += chunk
        if len(content) > LARGEST_ANSWER:
            raise GiveUp(f"The inference server answers more than {LARGEST_ANSWER >> 20} MiB.")
    return bytes(content)


def _reason(content: bytes) -> str:
    try:
        return str(json.loads(content)["error"])[:200]
    except (ValueError, TypeError, KeyError):
        return "it does not say why."


@cache
def model_of(table: OnnxTable | KServeTable) -> Model:
    """The model that a table names; loaded once in a process."""
    return OnnxModel(table) if isinstance(table, OnnxTable) else KServeModel(table)
