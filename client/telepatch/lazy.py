"""What may be looked at: all that helpers need to know of a value."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import numpy as np


class Lazy(ABC):
    """Something whose numbers come when they are asked for."""

    @abstractmethod
    def numpy(self) -> np.ndarray[Any, Any]:
        """The numbers."""
