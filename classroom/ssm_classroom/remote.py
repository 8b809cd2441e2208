"""Call a student's function from another process, and let only data come back.

The judge asks with pickle, which is as safe as the judge; the student's kernel answers with JSON
that holds data and nothing else, so that no object of the student acts in the judge's process.

Examples
--------
>>> unpack(pack((1, [2.5, "three"], np.eye(2))))
(1, [2.5, 'three'], array([[1., 0.],
       [0., 1.]]))
"""

from __future__ import annotations

import base64
import json
import pickle
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

MIME = "application/x-ssm-classroom"
KINDS = "biufc"  # of arrays: bool, int, unsigned, float, complex
NO_DATA = "answer must be data; got something else: return numbers, text, arrays or tensors"

_kept: dict[int, Any] = {}  # what the judge holds a handle of


def pack(value: Any, keep: Callable[[Any], int] | None = None) -> Any:
    """Turn data into what JSON can hold; ``keep`` gives a handle for what is no data.

    Raises
    ------
    TypeError
        The value is no data, and there is no ``keep``.
    """
    if value is None or isinstance(value, str) or type(value) in (bool, int):
        return value
    if type(value) is float:
        return {"float": value.hex()}
    if type(value) is complex:
        return {"complex": [value.real.hex(), value.imag.hex()]}
    if type(value) in (tuple, list):
        return {type(value).__name__: [pack(item, keep) for item in value]}
    if type(value) is dict:
        return {"dict": [[pack(key, keep), pack(item, keep)] for key, item in value.items()]}
    if isinstance(value, np.ndarray | np.generic) and value.dtype.kind in KINDS:
        raw = base64.b64encode(np.asarray(value).tobytes()).decode("ascii")
        scalar = isinstance(value, np.generic)
        return {"array": [value.dtype.str, list(value.shape), raw, scalar]}
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(value, torch.Tensor):
        return {"tensor": pack(value.detach().cpu().resolve_conj().numpy())}
    if keep is None:
        raise TypeError(
            f"value must be data; got {type(value).__name__}: pass numbers, text, arrays or tensors"
        )
    return {"handle": keep(value)}


def unpack(node: Any, handle: Callable[[int], Any] | None = None) -> Any:
    """Turn what ``pack`` wrote back into data; ``handle`` makes what stands for the rest.

    Raises
    ------
    ValueError
        It is not what ``pack`` writes.
    """
    if node is None or isinstance(node, str | bool | int):
        return node
    if not isinstance(node, dict) or len(node) != 1:
        raise ValueError(NO_DATA)
    ((kind, content),) = node.items()
    if kind == "float":
        return float.fromhex(content)
    if kind == "complex":
        return complex(*map(float.fromhex, content))
    if kind in ("tuple", "list"):
        items = [unpack(item, handle) for item in content]
        return tuple(items) if kind == "tuple" else items
    if kind == "dict":
        return {unpack(key, handle): unpack(item, handle) for key, item in content}
    if kind == "array":
        name, shape, raw, scalar = content
        dtype = np.dtype(name)
        if dtype.kind not in KINDS:
            raise ValueError(NO_DATA)
        array = np.frombuffer(base64.b64decode(raw), dtype).reshape(shape).copy()
        return array[()] if scalar else array
    if kind == "tensor":
        import torch

        return torch.from_numpy(unpack(content))
    if kind == "handle" and handle is not None:
        return handle(int(content))
    raise ValueError(NO_DATA)


class Remote:
    """Stands in the judge for something in the student's kernel: call it, read its attributes."""

    def __init__(self, ask: Callable[..., Any], number: int) -> None:
        self.__ask, self.__number = ask, number

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call it over there; what comes back is data, or another of these."""
        return self.__ask("call", self.__number, args, kwargs)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return self.__ask("attribute", self.__number, name)

    def __reduce__(self) -> tuple[Callable[[int], Any], tuple[int]]:
        return _kept_object, (self.__number,)


def request(kind: str, *arguments: Any) -> str:
    """Write the code that asks in the student's kernel."""
    text = base64.b64encode(pickle.dumps((kind, *arguments))).decode("ascii")
    return f"__import__('ssm_classroom.remote', fromlist=['answer']).answer('{text}')"


def answer(text: str) -> None:
    """Do, in the student's kernel, what is asked, and publish the result."""
    from IPython.display import display

    try:
        reply = {"value": pack(_do(*pickle.loads(base64.b64decode(text))), _keep)}
    except Exception as error:  # whatever the student's function raises
        reply = {"error": [type(error).__name__, str(error)[:2000]]}
    display({MIME: json.dumps(reply)}, raw=True)


def _do(kind: str, target: Any, *rest: Any) -> Any:
    if kind == "names":
        namespace = vars(sys.modules["__main__"])
        return {name: namespace[name] for name in target if name in namespace}
    thing = _kept_object(target)
    if kind == "call":
        args, kwargs = rest
        return thing(*args, **kwargs)
    return getattr(thing, rest[0])


def _kept_object(number: int) -> Any:
    return _kept[number]


def _keep(value: Any) -> int:
    _kept[id(value)] = value
    return id(value)
