"""PyTorch data sets over archives and caches; see ``dcmark.view.torch``. Needs the extra ``train``."""

from __future__ import annotations

from dcmark.view.torch import Cached, Frames, Volumes, as_tensor
from dcmark.view.view import Splits, View

__all__ = ["Cached", "Frames", "Splits", "View", "Volumes", "as_tensor"]
