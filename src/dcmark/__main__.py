"""``python -m dcmark``."""

from dcmark.cli import main

main()
