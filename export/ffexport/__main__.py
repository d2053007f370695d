"""`python -m ffexport`: the same program as `ffexport`."""

from ffexport.cli import main

main()
