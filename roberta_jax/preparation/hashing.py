"""Hashes of texts, and how many different ones there are."""

import hashlib

import numpy as np


def hash64(item: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(item, digest_size=8).digest(), "big")


class DistinctCounter:
    """How many different 64-bit hashes were seen: exact up to 65,536, then from the smallest ones within about 0.4%."""

    SKETCH_SIZE = 1 << 16

    def __init__(self):
        self.smallest, self._new, self.seen = np.empty(0, np.uint64), [], 0

    def add(self, item: bytes) -> int:
        value = hash64(item)
        self._new.append(value)
        self.seen += 1
        if len(self._new) > self.SKETCH_SIZE:
            self.fold()
        return value

    def merge(self, smallest: np.ndarray, seen: int) -> None:
        self._new.extend(smallest.tolist())
        self.seen += seen
        self.fold()

    def fold(self) -> None:
        self.smallest = np.unique(np.concatenate([self.smallest, np.array(self._new, np.uint64)]))[: self.SKETCH_SIZE]
        self._new = []

    def repeated(self) -> int:
        """How many of those seen had been seen before."""
        self.fold()
        if len(self.smallest) < self.SKETCH_SIZE:
            return self.seen - len(self.smallest)
        return max(0, self.seen - int((self.SKETCH_SIZE - 1) / (float(self.smallest[-1]) / 2**64)))
