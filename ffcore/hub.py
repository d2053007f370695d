"""The Hugging Face Hub: what its errors mean. `huggingface_hub` is imported where the Hub is asked, nowhere else."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from json import JSONDecodeError
from pathlib import Path
from typing import Any

from ffcore.errors import FFStudyError, HubError, HubUnreachable, UsageError
from ffcore.files import says_full, unwritten

# How a model on the Hub is named: hf://OWNER/NAME[@REVISION][/FILE].
HUB = "hf://"
LOG_IN = "log in with `hf auth login`, or set HF_TOKEN"
# What the Hub's refusals mean; others are told as it says them.
_REFUSED = {
    401: f"there is no such repository, it is private, or the token is not valid: look at the name, or {LOG_IN}",
    403: "the token may not do this: make one that may, at https://huggingface.co/settings/tokens",
    404: "there is no such repository, or it is private: look at the name, or ask its owner",
    409: "it was changed by somebody else at the same time: try again",
}
# What the library trips over where an answer is not as the Hub's are.
_ODD = (LookupError, TypeError, AttributeError, AssertionError, JSONDecodeError)


@contextmanager
def asking(what: str) -> Iterator[None]:
    """Turns what `huggingface_hub` raises in the block into an error of one line; what it warns of is not said.

    The block holds calls of the library alone: what else goes wrong there would be taken for the Hub's doing.

    Args:
        what: is asked for, as a person named it: messages begin with it.

    Raises:
        HubError: where the Hub refuses, or lacks what is asked for; HubUnreachable where it does not answer.
        UsageError: where a name is not legal.
        ModuleNotFoundError: where `huggingface_hub` is not installed.
    """
    # Before it is imported, where a person has not chosen: what goes wrong is said in one line, progress in terminals.
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")
    if not sys.stderr.isatty():
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    from huggingface_hub import constants
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
        RevisionNotFoundError,
    )

    sending: Any = HfHubHTTPError.__bases__  # OSError, and what the library raises that this release sends requests by
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except FFStudyError:
        raise
    except HFValidationError as error:
        raise UsageError(f"{what} is no name on the Hub: {error}") from error
    except (ValueError, RuntimeError, *_ODD, *sending) as error:
        wraps = isinstance(error, LocalEntryNotFoundError | RuntimeError)  # of a download, and of an upload
        cause = error.__cause__ if wraps and error.__cause__ else error
        response = getattr(cause, "response", None)
        kind = HubError
        if isinstance(cause, OfflineModeIsEnabled):
            kind, why = HubUnreachable, "HF_HUB_OFFLINE keeps the Hub from being asked (unset it)"
        elif isinstance(cause, LocalEntryNotFoundError):
            why = "it is not in the cache"
        elif isinstance(cause, GatedRepoError):
            why = "its owner gives access to those who ask: ask on its page, then " + LOG_IN
        elif isinstance(cause, RevisionNotFoundError):
            why = "the repository has no such revision: name a branch, a tag or a commit that it has"
        elif response is not None and response.status_code in _REFUSED:
            why = _REFUSED[response.status_code]
        elif response is not None:
            said = getattr(cause, "server_message", None) or str(cause).partition("\n")[0]
            why = f"the Hub answers {response.status_code} ({said})"
            if response.status_code == 429 or response.status_code >= 500:
                kind, why = HubUnreachable, f"{why}: try again later"
        elif says_full(cause):
            why = f"{unwritten(Path(constants.HF_HUB_CACHE), cause)} with HF_HOME"
        elif isinstance(cause, _ODD):
            said = f"{type(cause).__name__}: {cause}"
            why = f"the Hub's answer cannot be read ({said}): look at HF_ENDPOINT, or update huggingface_hub"
        elif isinstance(cause, ValueError) or getattr(cause, "filename", None):  # of a file on this machine
            why = str(cause)
        else:
            said = str(cause) or type(cause).__name__
            kind, why = HubUnreachable, f"the Hub cannot be reached ({said}): look at the network, and HF_ENDPOINT"
        raise kind(f"{what}: {' '.join(why.split())}") from error
