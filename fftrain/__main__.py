"""`python -m fftrain`, and `accelerate launch -m fftrain`: the same program as `fftrain`."""

from fftrain.cli import main

main()
