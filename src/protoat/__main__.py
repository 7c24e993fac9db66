"""``python -m protoat``, as in ``accelerate launch -m protoat train ...``."""

from __future__ import annotations

import sys

from protoat.cli import main

sys.exit(main())
