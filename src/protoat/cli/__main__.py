"""``python -m protoat.cli``, for launchers that start modules: ``accelerate launch -m protoat.cli train ...``."""

from __future__ import annotations

import sys

from protoat.cli import main

sys.exit(main())
