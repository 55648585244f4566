"""Which source each row of a mixture is from: the sources' rows evenly spread, each position's by itself."""

from collections.abc import Sequence

import numpy as np

BLOCK = 1 << 16  # rows after which the pattern comes again; a share is right to half a row in so many


class Mixture:
    """The rows of several sources as one endless stream.

    From its beginning to any position, and so in any stretch of it, each source has its share of the rows but for one or two.

    Args:
      shares: of the rows, of each source; above 0, of any sum.
    """

    def __init__(self, shares: Sequence[float]):
        exact = np.maximum(np.array(shares, np.float64) / np.sum(shares) * (BLOCK - len(shares)), 0)
        self.quotas = 1 + np.floor(exact).astype(np.int64)  # of a block, one at least
        largest = np.argsort(np.floor(exact) - exact, kind="stable")
        self.quotas[largest[: BLOCK - self.quotas.sum()]] += 1
        numbers = np.repeat(np.arange(len(shares)), self.quotas)
        places = np.concatenate([(np.arange(quota) + 0.5) / quota for quota in self.quotas])
        self.source = numbers[np.lexsort((numbers, places))]  # of each row of a block. int64 [BLOCK]
        of_source = self.source == np.arange(len(shares))[:, None]
        self.rank = np.cumsum(of_source, 1)[self.source, np.arange(BLOCK)] - 1  # among the block's of its source. int64 [BLOCK]
        self._before = np.pad(np.cumsum(of_source, 1), [(0, 0), (1, 0)])  # [sources, BLOCK + 1]

    def before(self, position: int) -> np.ndarray:
        """How many rows of each source stand before a position. int64 [sources]"""
        block, slot = divmod(position, BLOCK)
        return block * self.quotas + self._before[:, slot]

    def source_of(self, positions: np.ndarray) -> np.ndarray:
        """Which source's row stands at each position. int64 [n]"""
        return self.source[positions % BLOCK]
