"""Methods: a file each, loss and head. `base.py` says what one has."""
