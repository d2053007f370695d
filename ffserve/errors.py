"""What can go wrong when serving, for a reason that the user can mend.

FFServeError            exit code 1
├── ImageError          a file is no image that can be read
│   └── ImageTooLarge   it has more pixels than are read
├── ModelError          a model file is damaged, foreign, or does not compute what it says
│   └── ModelNotFound   there is no model where it was looked for
├── DeviceError         a device that was asked for does not work here
└── UsageError          exit code 2: an argument has a value that is not legal (also a ValueError)

Every message is one line: what is wrong, with which value, and what mends it. The attribute
`exit_code` marks an error as expected (as in Click): commands print its message alone.
"""

from __future__ import annotations


class FFServeError(Exception):
    """Base of every error that a user can mend."""

    exit_code = 1


class ImageError(FFServeError):
    """A file is no image that can be read."""


class ImageTooLarge(ImageError):
    """An image has more pixels than are read."""


class ModelError(FFServeError):
    """A model file is damaged, foreign, or does not compute what it says."""


class ModelNotFound(ModelError):
    """There is no model where it was looked for."""


class DeviceError(FFServeError):
    """A device that was asked for does not work here."""


class UsageError(FFServeError, ValueError):
    """An argument has a value that is not legal."""

    exit_code = 2
