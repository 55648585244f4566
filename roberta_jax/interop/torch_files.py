"""Tensors out of files that torch.save wrote (`pytorch_model.bin`, `model.pt`), without torch and without trust.

A pickle can name any function and have it called. The reader here looks names up in one short table; a file that names
anything else is refused before anything is called. Formats: torch/serialization.py, the zip archive (1.6 and later) and
the stream of pickles before it.
"""

import collections
import io
import math
import pickle
import pickletools
import sys
import zipfile
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from roberta_jax.errors import UserError

_DTYPES = {
    "DoubleStorage": np.float64,
    "FloatStorage": np.float32,
    "HalfStorage": np.float16,
    "BFloat16Storage": ml_dtypes.bfloat16,
    "LongStorage": np.int64,
    "IntStorage": np.int32,
    "ShortStorage": np.int16,
    "CharStorage": np.int8,
    "ByteStorage": np.uint8,
    "BoolStorage": np.bool_,
}
_MAGIC = 0x1950A86A20F9469CFC6C  # the first pickle of the old format
_HEAD = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # the same, pickled


class Record:
    """Stands for an object of fairseq's or of argparse: its attributes, and none of its code."""

    def __init__(self, *args, **kwargs):
        pass

    def __setstate__(self, state: Any) -> None:
        if isinstance(state, dict):
            self.__dict__.update(state)


def _tensor(storage: np.ndarray, offset: int, shape: tuple, stride: tuple, *_) -> np.ndarray:
    """A view of a storage, after a look at where it ends."""
    last = offset + sum((size - 1) * step for size, step in zip(shape, stride))
    numbers, count = (offset, *shape, *stride), math.prod(shape)
    if len(shape) != len(stride) or not all(isinstance(n, int) and n >= 0 for n in numbers):
        raise pickle.UnpicklingError("a tensor with an impossible shape")
    if 0 in shape:
        return np.zeros(shape, storage.dtype)
    if last >= storage.size:
        raise pickle.UnpicklingError("a tensor that ends behind its storage")
    if count > max(storage.size, 1 << 20):  # a stride of 0 makes much of little; a constant may be stored so
        raise pickle.UnpicklingError(f"a tensor of {count:,} values from a storage of {storage.size:,}")
    strides = [step * storage.itemsize for step in stride]
    return np.lib.stride_tricks.as_strided(storage[offset:], shape, strides, writeable=False)


def _parameter(tensor: np.ndarray, *_) -> np.ndarray:
    return tensor


_ALLOWED = {
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("torch._utils", "_rebuild_tensor"): _tensor,
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch._utils", "_rebuild_parameter"): _parameter,
    ("argparse", "Namespace"): Record,
} | {("torch", name): dtype for name, dtype in _DTYPES.items()}


class _Unpickler(pickle.Unpickler):
    def __init__(self, file, path: Path, storage):
        super().__init__(file, encoding="utf-8")
        self._path, self._storage = path, storage

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _ALLOWED:
            return _ALLOWED[module, name]
        if module.split(".")[0] == "fairseq":  # meters and enums beside the weights; fairseq is not imported
            return Record
        raise UserError(
            f"{self._path} is refused: its pickle asks for {module}.{name}, which no checkpoint needs and which could "
            "run code. If you trust the file, load it in PyTorch and save its tensors with safetensors."
        )

    def persistent_load(self, identity: Any) -> np.ndarray:
        kind, dtype, key, _, size, *view = identity
        if kind != "storage" or dtype not in _DTYPES.values() or any(part is not None for part in view):
            raise pickle.UnpicklingError("a reference that is no whole storage")
        return self._storage(str(key), np.dtype(dtype), size)


def read(path: str | Path) -> Any:
    """What torch.save saved, its tensors as read-only arrays of NumPy.

    Raises:
      UserError: not such a file, damaged, or a pickle that asks for more than tensors.
    """
    path = Path(path)
    try:
        if zipfile.is_zipfile(path):
            return _read_zip(path)
        with open(path, "rb") as file:
            if file.read(len(_HEAD)) == _HEAD:
                file.seek(0)
                return _read_stream(file, path)
    except (pickle.UnpicklingError, zipfile.BadZipFile, EOFError, KeyError, ValueError, TypeError, IndexError) as error:
        raise UserError(f"{path} is not a whole file of torch.save ({error}); copy or download it again.") from None
    except (AttributeError, MemoryError, OverflowError, ImportError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not a file of torch.save that can be read ({error!r}).") from None
    raise UserError(f"{path} is not a file of torch.save, or its end is missing; expected a zip archive or a pickle.")


def _read_zip(path: Path) -> Any:
    with zipfile.ZipFile(path) as archive:
        members, size = archive.infolist(), path.stat().st_size
        if any(member.compress_type != zipfile.ZIP_STORED for member in members):
            raise UserError(f"{path} is a compressed archive, which torch.save never writes; it is not to be trusted.")
        if sum(member.file_size for member in members) > size:
            raise zipfile.BadZipFile("its members are larger than itself")
        names = {name.split("/", 1)[-1]: name for name in archive.namelist()}
        if "byteorder" in names and archive.read(names["byteorder"]) != b"little":
            raise UserError(f"{path} was written by a big-endian machine; expected a little-endian file.")
        storages: dict[str, np.ndarray] = {}

        def storage(key: str, dtype: np.dtype, size: int) -> np.ndarray:
            if key not in storages:
                if archive.getinfo(names[f"data/{key}"]).file_size != size * dtype.itemsize:
                    raise pickle.UnpicklingError(f"storage {key} has another size than the pickle says")
                storages[key] = np.frombuffer(archive.read(names[f"data/{key}"]), dtype)
            if storages[key].size != size or storages[key].dtype != dtype:
                raise pickle.UnpicklingError(f"storage {key} has another size than the pickle says")
            return storages[key]

        file = io.BytesIO(archive.read(names["data.pkl"]))
        _check_memo(file, size)
        return _Unpickler(file, path, storage).load()


def _check_memo(file, size: int) -> None:
    """Looks at a pickle without running it: a number of its memo takes memory, and none need be larger than the file."""
    start = file.tell()
    for operation, argument, _ in pickletools.genops(file):
        if operation.name in ("PUT", "BINPUT", "LONG_BINPUT") and int(argument) > size:
            raise pickle.UnpicklingError(f"a memo of {argument:,} entries")
    file.seek(start)


def _read_stream(file, path: Path) -> Any:
    """Pickles one behind the other: magic number, version, byte order, the object, the keys; then each storage."""
    left, storages = path.stat().st_size, {}

    def storage(key: str, dtype: np.dtype, size: int) -> np.ndarray:
        if key not in storages:
            taken = sum(array.nbytes for array in storages.values())
            if not 0 <= size * dtype.itemsize <= left - taken:
                raise pickle.UnpicklingError(f"storage {key} is larger than the file")
            storages[key] = np.empty(size, dtype)  # filled below: its bytes follow the pickles
        if storages[key].size < size or storages[key].dtype != dtype:
            raise pickle.UnpicklingError(f"storage {key} has two sizes")
        return storages[key]

    def load() -> Any:
        _check_memo(file, left)
        return _Unpickler(file, path, storage).load()

    magic, _, system, result, keys = load(), load(), load(), load(), load()
    if magic != _MAGIC or not system.get("little_endian", sys.byteorder == "little"):
        raise UserError(f"{path} was written by a big-endian machine; expected a little-endian file.")
    for key in keys:
        count, target = file.read(8), storages[str(key)]
        if count != target.size.to_bytes(8, "little") or file.readinto(target.view(np.uint8)) != target.nbytes:
            raise EOFError("its last tensors are missing")
    return result
