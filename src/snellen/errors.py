"""The two ways in which Snellen says no.

Both carry one clear line: what, where, the mend. The command line prints that line on standard error and
exits with 2; neither is ever shown as a traceback there.
"""


class InputError(ValueError):
    """The input or the settings are wrong: names the field, its value and the mend."""


class Refused(RuntimeError):
    """Snellen cannot vouch for this number, and so does not compute it.

    Raised for an unsupported architecture, a failed preflight, or too little data for an interval.
    """
