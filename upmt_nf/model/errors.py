"""The one small tree of errors: ours, theirs, the kernel's, the configuration's.

Each says which operation on which object failed and why. `exit_code` is what the command line ends with
(0 done, 1 it failed, 2 wrong usage, 3 no daemon, 4 needs root or a kernel facility).
"""


class UpmtError(Exception):
    """Something that UPMT was asked to do could not be done."""

    exit_code = 1


class ConfigError(UpmtError):
    """A configuration text is wrong. The message reads `file:line: key: reason`."""

    exit_code = 2


class UsageError(UpmtError):
    """A request names something that does not exist or makes no sense (an unknown network, a bad flow)."""

    exit_code = 2


class NoDaemonError(UpmtError):
    """No UPMT daemon answers in this network namespace."""

    exit_code = 3


class FacilityError(UpmtError):
    """Root, or a kernel facility that is not there, is needed."""

    exit_code = 4


class KernelError(UpmtError):
    """The kernel refused an operation on one of our objects."""


class PeerError(UpmtError):
    """The other end sent something wrong. Never raised past an endpoint: it becomes an event and a counter."""
