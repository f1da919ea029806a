"""SIP without INVITE (RFC 3261), as registration and MESSAGE need it. No sockets, no clock, no randomness.

message     requests and responses as values; raw header lines are kept and echoed
fields      Via, CSeq, From/To: the fields that the protocol itself reads
parser      bytes -> message, strict and linear in time
inspection  what a server checks before it does what is asked
contacts    the Contact header of REGISTER
endpoint    client and server transactions; the five verbs that drive them
build       the messages of the paper's figure 9
"""
