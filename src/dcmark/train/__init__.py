"""Generative models in plain PyTorch, their training steps, and the import of official checkpoints.

Importing this package does not import PyTorch; importing what is in it does, and needs the extra ``train``.
"""

from __future__ import annotations
