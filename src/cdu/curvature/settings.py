"""Settings of LiSSA."""

from typing import Literal

from cdu.settings import Count, Positive, Settings


class LissaSettings(Settings):
    """LiSSA: the paper's H is ``scale`` (``auto``: estimated), s₂ is ``depth``, s₁ is ``repeats``."""

    scale: Positive | Literal["auto"]
    depth: Count
    repeats: Count = 10
    batch_size: Count = 128
