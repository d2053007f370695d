"""Networks: a file each. `base.py` says what one has."""
