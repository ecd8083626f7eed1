"""``python -m tonno_core``."""

from tonno_core.cli import main

main()
