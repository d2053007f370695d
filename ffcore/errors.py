"""What can go wrong for a reason that the user can mend.

FFStudyError            exit code 1
├── UsageError          exit code 2: an argument has a value that is not legal (also a ValueError)
│   └── SettingError    a setting has one
├── DataError           a data set or an image folder is missing, damaged, or of another shape than asked for
│   └── ImageError      a file is no image that can be read
│       └── ImageTooLarge   it has more pixels than are read
├── RunError            a run folder is missing, in use, damaged, or does not fit
│   └── InUse           another process works in a folder
├── WriteError          a file cannot be written: what is there is as it was
├── TrainingError       the loss is not finite, or the processes do not fit together
├── ExportError         an exported file would not compute what was trained
├── ModelError          a model file is damaged, foreign, or does not compute what it says
│   └── ModelNotFound   there is no model where it was looked for
├── HubError            the Hugging Face Hub refuses, or lacks what was asked for
│   └── HubUnreachable  it does not answer, or is out of order
└── DeviceError         a device that was asked for does not work here

Every message is one line: what is wrong, with which value, and what mends it. The attribute
`exit_code` marks an error as expected (as in Click): commands print its message alone.
"""

from __future__ import annotations


class FFStudyError(Exception):
    """Base of every error that a user can mend."""

    exit_code = 1


class UsageError(FFStudyError, ValueError):
    """An argument has a value that is not legal."""

    exit_code = 2


class SettingError(UsageError):
    """A setting has a value that is not legal."""


class DataError(FFStudyError):
    """A data set or an image folder is missing, damaged, or of another shape than asked for."""


class ImageError(DataError):
    """A file is no image that can be read."""


class ImageTooLarge(ImageError):
    """An image has more pixels than are read."""


class RunError(FFStudyError):
    """A run folder is missing, in use, damaged, or does not fit."""


class InUse(RunError):
    """Another process works in a folder."""


class WriteError(FFStudyError):
    """A file cannot be written: what is there is as it was."""


class TrainingError(FFStudyError):
    """The loss is not finite, or the processes do not fit together."""


class ExportError(FFStudyError):
    """An exported file would not compute what was trained."""


class ModelError(FFStudyError):
    """A model file is damaged, foreign, or does not compute what it says."""


class ModelNotFound(ModelError):
    """There is no model where it was looked for."""


class HubError(FFStudyError):
    """The Hugging Face Hub refuses, or lacks what was asked for."""


class HubUnreachable(HubError):
    """The Hugging Face Hub does not answer, is out of order, or may not be asked."""


class DeviceError(FFStudyError):
    """A device that was asked for does not work here."""


# What libraries say in errors of their own where the system has no more memory.
NO_MEMORY = ("allocate memory", "out of memory", "bad_alloc", "failed to map segment", "can't start new thread")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory is missing: Python's and NumPy's by its kind, torch's and others' in words."""
    if isinstance(error, FFStudyError):
        return False
    return isinstance(error, MemoryError) or any(words in str(error).lower() for words in NO_MEMORY)
