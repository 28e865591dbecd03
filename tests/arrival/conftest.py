from __future__ import annotations

import pytest

pytest.importorskip("pynetdicom", reason="the extra 'network' is not installed")
