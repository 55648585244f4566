"""torch.save's files without torch: the same tensors, no trust, and one sentence for a damaged file."""

import argparse
import os
import pickle
import tracemalloc
import zipfile

import numpy as np
import pytest
import torch

from roberta_jax.errors import UserError
from roberta_jax.interop import torch_files

ZIPPED = [True, False]


def tensors():
    matrix = torch.randn(3, 4)
    return {
        "matrix": matrix,
        "rows of it": matrix[1:],  # the same storage
        "transposed": torch.arange(6).view(2, 3).t(),
        "bfloat16": torch.randn(5).bfloat16(),
        "half": torch.randn(2).half(),
        "parameter": torch.nn.Parameter(torch.ones(2)),
        "scalar": torch.tensor(3.0),
        "nothing": torch.zeros(0, 3),
        "bool": torch.tensor([True, False]),
    }


def save(value, path, zipped):
    torch.save(value, path, _use_new_zipfile_serialization=zipped)
    return path


@pytest.mark.parametrize("zipped", ZIPPED)
def test_tensors_are_those_of_torch(tmp_path, zipped):
    saved = tensors()
    others = {"args": argparse.Namespace(heads=12), "numbers": (1, 2.5, None, True, "é")}
    found = torch_files.read(save({"model": saved} | others, tmp_path / "model.pt", zipped))
    assert found["args"].heads == 12 and found["numbers"] == others["numbers"]
    for name, tensor in saved.items():
        array = found["model"][name]
        assert array.shape == tuple(tensor.shape), name
        np.testing.assert_array_equal(np.asarray(array, np.float32), tensor.detach().float().numpy(), name)
        assert not array.flags.writeable or array.size == 0


class Writes:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (self.path, "w")


class Runs(Writes):
    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


class Evaluates(Writes):
    def __reduce__(self):
        return eval, (f"open({self.path!r}, 'w')",)


@pytest.mark.parametrize("zipped", ZIPPED)
@pytest.mark.parametrize("kind", [Writes, Runs, Evaluates])
def test_a_malicious_pickle_is_refused_and_writes_nothing(tmp_path, zipped, kind):
    written = str(tmp_path / "written")
    path = save({"weight": torch.ones(2), "bad": kind(written)}, tmp_path / "pytorch_model.bin", zipped)
    with pytest.raises(UserError, match=r"pytorch_model\.bin is refused: its pickle asks for \w+\.(open|system|eval)"):
        torch_files.read(path)
    assert os.listdir(tmp_path) == ["pytorch_model.bin"]


def test_the_object_itself_may_not_be_the_trap(tmp_path):
    written = tmp_path / "written"
    with zipfile.ZipFile(tmp_path / "model.pt", "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(Writes(str(written)), protocol=4))
    with pytest.raises(UserError, match="refused"):
        torch_files.read(tmp_path / "model.pt")
    assert not written.exists()


@pytest.mark.parametrize("zipped", ZIPPED)
@pytest.mark.parametrize("cut", [1, 9, 100, 0.5])
def test_a_truncated_file_is_one_sentence(tmp_path, zipped, cut):
    path = save({"model": tensors()}, tmp_path / "model.pt", zipped)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * cut) if cut == 0.5 else len(whole) - cut])
    with pytest.raises(UserError, match=r"model\.pt is not a (whole )?file of torch\.save"):
        torch_files.read(path)


def test_a_file_of_another_kind_is_one_sentence(tmp_path):
    (tmp_path / "model.pt").write_bytes(b"no pickle at all")
    with pytest.raises(UserError, match="not a file of torch.save"):
        torch_files.read(tmp_path / "model.pt")


@pytest.mark.parametrize(
    ("shape", "stride", "offset"), [((4,), (1,), 1), ((2, 2), (3, 1), 0), ((4,), (-1,), 3), ((5,), (1,), 0)]
)
def test_a_tensor_cannot_reach_out_of_its_storage(shape, stride, offset):
    with pytest.raises(pickle.UnpicklingError):
        torch_files._tensor(np.zeros(4, np.float32), offset, shape, stride)


@pytest.mark.parametrize("size", [2**50, -1])
def test_a_storage_larger_than_the_file_is_not_made(tmp_path, size):
    path = save({"weight": torch.ones(1000)}, tmp_path / "model.pt", zipped=False)
    old, new = pickle.dumps(1000, 2)[2:-1], pickle.dumps(size, 2)[2:-1]
    path.write_bytes(path.read_bytes().replace(old, new))
    with pytest.raises(UserError, match="not a whole file"):
        torch_files.read(path)


def test_an_archive_that_unpacks_to_more_is_refused_before_memory_is_taken(tmp_path):
    """Less than 1 MB that would be 256 MB; torch.save stores, it never compresses."""
    path = tmp_path / "pytorch_model.bin"
    save({"a": torch.zeros(4)}, path, True)
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, bytes(1 << 28) if name.endswith("data/0") else content)
    assert path.stat().st_size < 1 << 20
    tracemalloc.start()
    try:
        with pytest.raises(UserError, match="compressed archive"):
            torch_files.read(path)
        assert tracemalloc.get_traced_memory()[1] < 100 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("zipped", [True, False])
def test_a_stride_of_0_makes_no_giant_of_a_number(tmp_path, zipped):
    path = tmp_path / "pytorch_model.bin"
    save({"a": torch.zeros(1).expand(1 << 20, 1 << 20)}, path, zipped)
    with pytest.raises(UserError, match="a tensor of 1,099,511,627,776 values from a storage of 1"):
        torch_files.read(path)
    save({"a": torch.arange(7).expand(3, 7)}, path, zipped)  # a constant, as position_ids
    assert torch_files.read(path)["a"].shape == (3, 7)


def test_a_memo_of_billions_is_refused_before_memory_is_taken(tmp_path):
    path = tmp_path / "pytorch_model.bin"
    save({"a": torch.zeros(4)}, path, True)
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, b"\x80\x02}r\xff\xff\xff\x3f." if name.endswith("data.pkl") else content)
    with pytest.raises(UserError, match="a memo of 1,073,741,823 entries"):
        torch_files.read(path)
