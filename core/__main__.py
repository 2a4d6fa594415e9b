"""`python -m rehead`, for launchers such as torchrun."""

from rehead.cli import main

main()
