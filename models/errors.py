"""What can go wrong on the training side, for a reason that the user can mend.

FFStudyError            exit code 1
├── SettingError        exit code 2: a setting has a value that is not legal (also a ValueError)
├── DataError           a data set is missing, damaged, or of another shape than asked for
├── RunError            a run folder is missing, used already, damaged, or does not fit
│   └── WriteError      a file cannot be written: what is there is as it was
├── TrainingError       the loss is not finite, or the processes do not fit together
└── ExportError         an exported file would not compute what was trained

Every message is one line: what is wrong, with which value, and what mends it. The attribute
`exit_code` marks an error as expected (as in Click): commands print its message alone.
"""

from __future__ import annotations


class FFStudyError(Exception):
    """Base of every error that a user can mend."""

    exit_code = 1


class SettingError(FFStudyError, ValueError):
    """A setting has a value that is not legal."""

    exit_code = 2


class DataError(FFStudyError):
    """A data set is missing, damaged, or of another shape than asked for."""


class RunError(FFStudyError):
    """A run folder is missing, used already, damaged, or does not fit."""


class WriteError(RunError):
    """A file cannot be written: what is there is as it was."""


class TrainingError(FFStudyError):
    """The loss is not finite, or the processes do not fit together."""


class ExportError(FFStudyError):
    """An exported file would not compute what was trained."""
