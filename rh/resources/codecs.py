"""Serializers of blobs: how an object becomes bytes and comes back the same.

Each is declared by name in the blob's record. Nothing is guessed from bytes, and nothing is unpickled unless the caller
says `trust=True` at that call: a pickle runs whatever code whoever wrote it wants.
"""

from __future__ import annotations

import io
import json
import math
from collections.abc import Callable
from typing import Any, NamedTuple

from rh import plugins
from rh.errors import AccessError, IntegrityError, InvalidError, RhError

__all__ = ["CODECS", "decode", "encode", "pick"]


class Codec(NamedTuple):
    """`encode` refuses what `decode` would not give back equal."""

    encode: Callable[[Any], bytes]
    decode: Callable[[bytes], Any]


def _bytes(value: Any) -> bytes:
    if not isinstance(value, bytes | bytearray | memoryview):
        raise InvalidError(f"serializer 'bytes' takes bytes, not {type(value).__name__}")
    return bytes(value)


def _text(value: Any) -> bytes:
    if not isinstance(value, str):
        raise InvalidError(f"serializer 'text' takes text, not {type(value).__name__}")
    try:
        return value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise InvalidError("the text is not valid Unicode", hint="give bytes") from error


def _json(value: Any) -> bytes:
    _check_json(value, "value")
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8")


def _check_json(value: Any, where: str) -> None:
    if value is None or type(value) in (bool, int, str):
        return
    if type(value) is float:
        if not math.isfinite(value):
            raise InvalidError(f"{where} is {value}, which JSON does not have")
        return
    if type(value) is list:
        for number, inner in enumerate(value):
            _check_json(inner, f"{where}[{number}]")
        return
    if type(value) is dict:
        for key, inner in value.items():
            if type(key) is not str:
                raise InvalidError(f"{where} has the key {key!r}, which JSON would turn into text")
            _check_json(inner, f"{where}[{key!r}]")
        return
    raise InvalidError(
        f"{where} is a {type(value).__name__}, which JSON would not give back",
        hint=_ARRAYS
        if _is_tensor(value)
        else "lists and dicts of text, numbers and booleans; or choose serializer='pickle' yourself",
    )


_ARRAYS = "serializer='safetensors' takes a dict of arrays: {\"name\": tensor.detach().cpu().numpy()}"
"""The hint for tensors, which would come back as arrays."""


def _is_tensor(value: Any) -> bool:
    """Whether it is a tensor of torch, or a kind of one. Imports nothing."""
    return any((kind.__module__, kind.__name__) == ("torch", "Tensor") for kind in type(value).__mro__)


def _from_json(data: bytes) -> Any:
    return json.loads(data.decode("utf-8"))


def _npy(value: Any) -> bytes:
    numpy = plugins.need("numpy", purpose="serializer 'npy'")
    if type(value) is not numpy.ndarray:
        raise InvalidError(f"serializer 'npy' takes a numpy.ndarray, not {type(value).__name__}")
    if value.dtype.hasobject:
        raise InvalidError(
            "an array of Python objects would have to be pickled", hint="serializer='pickle', if you mean it"
        )
    buffer = io.BytesIO()
    numpy.save(buffer, value, allow_pickle=False)
    return buffer.getvalue()


def _from_npy(data: bytes) -> Any:
    return plugins.need("numpy", purpose="serializer 'npy'").load(io.BytesIO(data), allow_pickle=False)


def _arrow(value: Any) -> bytes:
    arrow = plugins.need("pyarrow", purpose="serializer 'arrow'")
    ipc = plugins.need("pyarrow.ipc")
    if not isinstance(value, arrow.Table):
        raise InvalidError(f"serializer 'arrow' takes a pyarrow.Table, not {type(value).__name__}")
    value = value.unify_dictionaries()  # a file holds one for each column
    sink = arrow.BufferOutputStream()
    with ipc.new_file(sink, value.schema) as writer:
        writer.write_table(value)
    encoded: bytes = sink.getvalue().to_pybytes()
    return encoded


def _from_arrow(data: bytes) -> Any:
    ipc = plugins.need("pyarrow.ipc", purpose="serializer 'arrow'")
    return ipc.open_file(data).read_all()


def _safetensors(value: Any) -> bytes:
    numpy = plugins.need("numpy", extra="safetensors", purpose="serializer 'safetensors'")
    if type(value) is not dict or not all(type(k) is str and type(v) is numpy.ndarray for k, v in value.items()):
        raise InvalidError("serializer 'safetensors' takes a dict of text to numpy arrays", hint=_ARRAYS)
    if "__metadata__" in value:
        raise InvalidError("safetensors keeps the name '__metadata__' for itself", hint="another name")
    save = plugins.need("safetensors.numpy", purpose="serializer 'safetensors'")
    encoded: bytes = save.save({key: numpy.asarray(array, order="C") for key, array in value.items()})
    return encoded


def _from_safetensors(data: bytes) -> Any:
    return plugins.need("safetensors.numpy", purpose="serializer 'safetensors'").load(data)


def _pickle(value: Any) -> bytes:
    import pickle

    return pickle.dumps(value, protocol=5)


def _from_pickle(data: bytes) -> Any:
    import pickle

    return pickle.loads(data)  # noqa: S301 - `decode` asks for trust first


CODECS: dict[str, Codec] = {
    "bytes": Codec(_bytes, bytes),
    "text": Codec(_text, lambda data: data.decode("utf-8")),
    "json": Codec(_json, _from_json),
    "npy": Codec(_npy, _from_npy),
    "arrow": Codec(_arrow, _from_arrow),
    "safetensors": Codec(_safetensors, _from_safetensors),
    "pickle": Codec(_pickle, _from_pickle),
}
"""Serializers by name."""


def pick(value: Any) -> str:
    """The serializer that gives an object of this type back as it is. Never `pickle`: that is chosen by name."""
    if isinstance(value, bytes | bytearray | memoryview):
        return "bytes"
    if type(value) is str:
        return "text"
    kind = type(value).__module__.partition(".")[0], type(value).__name__
    if kind == ("numpy", "ndarray"):
        return "npy"
    if kind == ("pyarrow", "Table"):
        return "arrow"
    if type(value) is dict and value and all(type(v).__name__ == "ndarray" for v in value.values()):
        return "safetensors"
    if type(value) in (dict, list, int, float, bool):
        return "json"
    raise InvalidError(
        f"no serializer is declared for {type(value).__module__}.{type(value).__qualname__}",
        hint=_ARRAYS if _is_tensor(value) else f"give bytes, or choose one: serializer= {', '.join(CODECS)}",
    )


def named(serializer: str) -> Codec:
    """The serializer of that name."""
    codec = CODECS.get(serializer)
    if codec is None:
        raise InvalidError(f"there is no serializer {serializer!r}", hint=f"serializer= {', '.join(CODECS)}")
    return codec


def encode(value: Any, serializer: str) -> bytes:
    """The bytes of `value`; `InvalidError` if it would not come back the same."""
    codec = named(serializer)
    try:
        return codec.encode(value)
    except RhError:
        raise
    except (ValueError, TypeError, RecursionError) as error:
        raise _unencodable(serializer, error) from error
    except Exception as error:
        if not _is_of_library(error, serializer):
            raise
        raise _unencodable(serializer, error) from error


def decode(data: bytes, serializer: str, *, trust: bool, where: str) -> Any:
    """The object in `data`.

    Args:
        data: what was stored.
        serializer: the declared name.
        trust: run a pickle. Says that whoever could write there may run code here.
        where: the place, for errors.

    Raises:
        AccessError: it is a pickle, and not trusted.
        IntegrityError: the bytes are not of that serializer.
    """
    codec = named(serializer)
    if serializer == "pickle" and trust is not True:
        raise AccessError(
            "this is a pickle, and loading one runs the code of whoever wrote it",
            where=where,
            hint="fetch(trust=True) if you trust everybody who could write there; read() gives the bytes",
        )
    try:
        return codec.decode(data)
    except (ValueError, EOFError, OSError, RecursionError) as error:
        raise _undecodable(serializer, where, error) from error
    except Exception as error:
        if not _is_of_library(error, serializer):
            raise
        raise _undecodable(serializer, where, error) from error


def _is_of_library(error: Exception, serializer: str) -> bool:
    """Whether it is of the format's own library (pyarrow, safetensors, pickle), whose errors have no common base."""
    return serializer in ("arrow", "safetensors", "pickle") and not isinstance(error, (ImportError, MemoryError))


def _unencodable(serializer: str, error: Exception) -> InvalidError:
    return InvalidError(f"this cannot be {serializer}: {error}")


def _undecodable(serializer: str, where: str, error: Exception) -> IntegrityError:
    return IntegrityError(f"the bytes are not {serializer}: {error}", where=where)
