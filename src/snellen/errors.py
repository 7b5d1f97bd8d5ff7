"""The two ways in which Snellen says no, and how to tell that a machine has.

Both carry one clear line: what, where, the mend. The command line prints that line on standard error and
exits with 2; neither is ever shown as a traceback there.
"""


class InputError(ValueError):
    """The input or the settings are wrong: names the field, its value and the mend."""


class Refused(RuntimeError):
    """Snellen cannot vouch for this number, and so does not compute it.

    Raised for an unsupported architecture, a failed preflight, or too little data for an interval.
    """


def out_of_memory(error: BaseException) -> bool:
    """Whether there was no memory for what was asked: torch says so in words alone, where it is not the GPU's."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    said = str(error).lower() if isinstance(error, RuntimeError) and not isinstance(error, Refused) else ""
    return any(sign in said for sign in ("can't allocate memory", "not enough memory", "out of memory"))
