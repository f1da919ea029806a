"""Names and numbers that must not be mixed up, each with a type of its own."""

from typing import NewType

NetworkName = NewType("NetworkName", str)
"""An access network as the administrator calls it: `net0`, `wifi`, `lte`."""

ApplicationName = NewType("ApplicationName", str)
"""A named class of flows with a policy."""

ApplicationId = NewType("ApplicationId", int)
"""The application's number in our fwmark field, 1 to 4095; 0 is none."""

TunnelId = NewType("TunnelId", int)
"""The anchor's number for one tunnel, 32 bits, never 0."""

TerminalId = NewType("TerminalId", str)
"""The mobile host's identity towards the anchor: the address-of-record without `sip:`, such as `mh@upmt`."""

DEFAULT_APPLICATION = ApplicationName("default")
"""Everything that no rule names."""
DEFAULT_APPLICATION_ID = ApplicationId(1)
