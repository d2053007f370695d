"""`python -m ffserve`: the same program as `ffserve`."""

from ffserve.cli import main

main()
