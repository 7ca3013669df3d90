"""The batches of a training, by their number: the same for the same seed, wherever one begins."""

from __future__ import annotations

from typing import TYPE_CHECKING

from squeezer.data.batches import generator, order
from squeezer.data.dataset import Split, check_batch
from squeezer.training.runner import moved

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from squeezer.data.dataset import Batch, Dataset
    from squeezer.training.settings import Settings

#: The last part of a key, so that no two uses draw the same numbers.
_MOVES, _DROPOUT = 1, 2


class Feed:
    """Every epoch takes the training rows in an order of its own, in whole batches; what is left over sits out.

    Raises:
        DataError: TOO_FEW_ROWS, where there is not even one batch.
    """

    def __init__(self, data: Dataset, settings: Settings, seed: int, batch_size: int) -> None:
        check_batch(data, batch_size)
        self._data, self._settings, self._seed = data, settings, seed
        self.size = batch_size
        self.per_epoch = data.size(Split.TRAIN) // batch_size
        self._order: tuple[int, NDArray[np.int64]] | None = None  # of the epoch that it is for

    def __call__(self, step: int) -> Batch:
        """Batch number `step`, augmented."""
        epoch, number = divmod(step, self.per_epoch)
        if self._order is None or self._order[0] != epoch:
            self._order = epoch, order(self._data.size(Split.TRAIN), self._seed, epoch)
        rows = self._order[1][number * self.size : (number + 1) * self.size]
        batch = self._data.batch(Split.TRAIN, rows)
        return moved(batch, self._settings, self._data.black, (self._seed, epoch, number, _MOVES))

    def noise(self, step: int) -> int:
        """The seed of what the network draws at that step: which activations are dropped."""
        epoch, number = divmod(step, self.per_epoch)
        return int(generator(self._seed, epoch, number, _DROPOUT).integers(2**63))
