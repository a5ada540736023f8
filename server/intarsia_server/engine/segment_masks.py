"""Masks of a picture's segments, made for the part of it that is asked for: all of them at once may be too many."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from intarsia_server.engine.masks import feather_reach, feathered
from intarsia_server.engine.segmentation import LabelMap
from intarsia_server.engine.window import Window


class SegmentMasks:
    """A partition of unity.

    Args:
        labels: segment index of every pixel [H, W].
        soft: masks [R, H, W]; None: the labels say all.
        styled: indices of the segments that are not kept.
        count: of segments, R.
        like: whose type and device masks have.
    """

    def __init__(
        self,
        labels: LabelMap,
        soft: NDArray[np.float32] | None,
        styled: Sequence[int],
        count: int,
        like: Tensor,
    ) -> None:
        self._labels = torch.from_numpy(np.ascontiguousarray(labels))
        self._soft = None if soft is None else torch.from_numpy(soft)
        self._styled = list(styled)
        self._count = count
        self._like = like.new_empty(0)

    def __call__(self, part: Window, indices: Sequence[int] | None = None) -> Tensor:
        """Masks [r, h, w] of these segments, or of all, in a part of the picture."""
        chosen = list(range(self._count) if indices is None else indices)
        if self._soft is not None:
            return part.view(self._soft)[chosen].to(self._like).contiguous()
        return self._hard(part, chosen)

    def free(self, part: Window) -> Tensor:
        """[h, w]: 1 where the image may change, 0 in kept segments."""
        return torch.isin(part.crop(self._labels), torch.tensor(self._styled, dtype=torch.int32)).to(self._like)

    def feathered(self, part: Window, indices: Sequence[int], feather: float) -> Tensor:
        """The same masks, feathered; kept segments lose what lies over them to the styled ones around."""
        if feather < 1:
            return self(part, indices)
        around = part.grown(feather_reach(feather), *self._labels.shape)
        present = self._present(around)
        within = part.moved(-around.top, -around.left)
        soft = self._like.new_zeros(self._count, *part.size)
        soft[present] = within.view(feathered(self(around, present), feather))
        styled = soft[self._styled].sum(dim=0)
        soft = soft * (self.free(part) / styled.clamp_min(torch.finfo(soft.dtype).tiny))
        return soft[list(indices)]

    def _hard(self, part: Window, indices: Sequence[int]) -> Tensor:
        labels = part.crop(self._labels).to(self._like.device)
        return torch.stack([labels == index for index in indices]).to(self._like.dtype)

    def _present(self, part: Window) -> list[int]:
        """Segments with any weight there."""
        if self._soft is None:
            return [int(index) for index in torch.unique(part.crop(self._labels))]
        return [index for index, mask in enumerate(self._soft) if bool(part.view(mask).any())]
