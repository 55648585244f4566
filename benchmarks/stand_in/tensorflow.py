"""The few calls of TensorFlow that make batches, in NumPy, for a machine that has no TensorFlow: the same bits, more slowly.

`benchmarks.on_gpu` puts this folder on the path of its processes where TensorFlow is not installed; nothing else does. What
`roberta_jax.data.masking` and `roberta_jax.data.pipeline` call is here and no more: another call is an AttributeError.
"""

import builtins
import itertools
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np

__version__ = "none, NumPy in its place"
int32, int64, uint32, uint64, float32, float64 = np.int32, np.int64, np.uint32, np.uint64, np.float32, np.float64
AT_ONCE = 4  # elements of a dataset that are made ahead, each on a thread


class Tensor(np.ndarray):
    def numpy(self) -> np.ndarray:
        return np.asarray(self)


def _tensor(x) -> Tensor:
    return np.asarray(x).view(Tensor)


def _number(x, dtype=None) -> np.ndarray:
    """As TensorFlow reads Python's numbers: int32 and float32."""
    if dtype is None and type(x) in (int, float):
        dtype = int32 if type(x) is int else float32
    return np.asarray(x, dtype)


constant = _number
floor, minimum, zeros_like, ones_like = np.floor, np.minimum, np.zeros_like, np.ones_like
broadcast_to, reshape = np.broadcast_to, np.reshape


def cast(x, dtype):
    return np.asarray(x).astype(dtype)


def shape(x):
    return np.shape(x)


def range(*limits):
    return np.arange(*limits, dtype=int32)


def fill(dims, value):
    return np.full(dims, _number(value))


def stack(values, axis=0):
    return np.stack(values, axis)


def concat(values, axis):
    first = next(value for value in values if np.ndim(value))
    return np.concatenate([np.asarray(value, first.dtype) for value in values], axis)


def pad(x, paddings, constant_values=0):
    return np.pad(x, paddings, constant_values=constant_values)


def where(condition, yes, no):
    """A Python number takes the other one's type."""
    of = next((value.dtype for value in (yes, no) if isinstance(value, np.ndarray | np.generic)), None)
    return _tensor(np.where(condition, _number(yes, of), _number(no, of)))


def cumsum(x, axis=0, exclusive=False):
    sums = np.cumsum(x, axis, dtype=x.dtype)
    return sums - x if exclusive else sums


def reduce_sum(x, axis=None):
    return np.sum(x, axis, dtype=x.dtype)


def gather(params, indices, batch_dims=0):
    return np.take_along_axis(params, indices, 1) if batch_dims else np.asarray(params)[indices]


def tensor_scatter_nd_update(x, indices, updates):
    found = x.copy()
    found[tuple(np.moveaxis(indices, -1, 0))] = updates
    return found


def ensure_shape(x, shape):
    return x


def numpy_function(func, inp, Tout, stateful=True):
    return func(*inp)


def _top_k(x, k, index_type=int32):
    """Of equal ones the first comes first."""
    order = np.argsort(-x, axis=-1, kind="stable")[..., :k]
    return np.take_along_axis(x, order, -1), order.astype(index_type)


def _shuffled(index, seed, max_index, rounds=4):
    """TensorFlow's permutation of 0 … max_index: the block cipher Simon, walked on until it stays within.

    Follows tensorflow/core/kernels/random_index_shuffle.cc. A word has half as many bits as max_index needs, and 8 at least;
    where max_index is a power of two it is as narrow as there, and repeats what it repeats.
    """
    index, last = np.asarray(index), int(max_index)
    if last == 0:
        return _tensor(np.zeros_like(index))
    bits = int(np.ceil(np.log2(last)))
    width = max(bits + bits % 2, 16) // 2
    mask = np.uint64(2**width - 1)

    def left(x, by):
        return (x << np.uint64(by) | x >> np.uint64(width - by)) & mask

    def right(x, by):
        return (x >> np.uint64(by) | x << np.uint64(width - by)) & mask

    keys = [word & mask & np.uint64(2**32 - 1) for word in np.atleast_2d(seed).astype(uint64).T]  # each [1] or [B]
    for number, bit in zip(np.arange(3, rounds), f"{0x7369F885192C0EF5 & int(mask):064b}"[::-1]):
        constant = np.uint64(0xFFFFFFFC & int(mask)) ^ np.uint64(int(bit))
        keys.append(constant ^ keys[number - 3] ^ right(keys[-1], 3) ^ right(keys[-1], 4))
    found = np.broadcast_to(np.atleast_1d(index).astype(uint64), np.broadcast_shapes(np.shape(index) or (1,), keys[0].shape))
    found, walking = found.copy(), np.ones(found.shape, np.bool_)
    while walking.any():
        high, low = found[walking] >> np.uint64(width) & mask, found[walking] & mask
        for number in np.arange(0, rounds, 2):
            one, two = (np.broadcast_to(key, found.shape)[walking] for key in keys[number : number + 2])
            high = high ^ (left(low, 1) & left(low, 8) ^ left(low, 2)) ^ one
            low = low ^ (left(high, 1) & left(high, 8) ^ left(high, 2)) ^ two
        found[walking] = high << np.uint64(width) | low
        walking = found > last
    return _tensor(found.astype(index.dtype).reshape(found.shape if np.ndim(index) or np.ndim(seed) > 1 else ()))


class _Dataset:
    """An order of elements that are made when they are asked for, or by `map` on threads, a few ahead."""

    def __init__(self, elements: Callable[[], Iterator]):
        self._elements = elements

    @staticmethod
    def range(start: int, stop: int | None = None) -> "_Dataset":
        numbers = (0, start) if stop is None else (start, stop)
        return _Dataset(lambda: map(int64, builtins.range(*numbers)))

    def batch(self, size: int) -> "_Dataset":
        def batches():
            elements = self._elements()
            while batch := list(itertools.islice(elements, size)):
                yield np.array(batch)

        return _Dataset(batches)

    def map(self, function: Callable, num_parallel_calls: int | None = None) -> "_Dataset":
        def made():
            with ThreadPoolExecutor(AT_ONCE) as threads:
                pending = deque()
                for element in self._elements():
                    pending.append(threads.submit(function, element))
                    if len(pending) == AT_ONCE:
                        yield pending.popleft().result()
                yield from (each.result() for each in pending)

        return _Dataset(made)

    def prefetch(self, number: int) -> "_Dataset":
        return self

    def with_options(self, options) -> "_Dataset":
        return self

    def as_numpy_iterator(self) -> Iterator:
        return self._elements()


bitwise = SimpleNamespace(
    bitwise_xor=lambda x, y: np.atleast_1d(x) ^ y,  # NumPy warns where a number alone overflows, as hashes do
    right_shift=lambda x, y: np.atleast_1d(x) >> y,
)
math = SimpleNamespace(top_k=_top_k)
raw_ops = SimpleNamespace(RandomIndexShuffle=_shuffled)
data = SimpleNamespace(Dataset=_Dataset, Options=SimpleNamespace, AUTOTUNE=-1)
autograph = SimpleNamespace(experimental=SimpleNamespace(do_not_convert=lambda function: function))
config = SimpleNamespace(set_visible_devices=lambda devices, kind: None)
