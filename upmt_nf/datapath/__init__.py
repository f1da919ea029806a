"""What happens to the bytes: pure functions and tables, no I/O and no clock.

packet            IPv4 and IPv6 headers: flow keys, UDP, fields
checksum          the Internet checksum (RFC 1071)
fragment          splitting by MTU and putting together again (RFC 791, 8200)
icmp              errors that a router sends (RFC 792, 1812, 4443)
ecn               DSCP and ECN across a tunnel (RFC 6040)
outer             the outer IP and UDP headers of a tunnel packet
formats           tunnel formats: `plain`, and the door for others
offload           what the kernel left undone on a packet
segmentation      a large packet -> the packets that it stands for
coalescing        packets -> a large one, the other way round
gathering         payloads that one call sends
bursts            what came together, taken apart again
fast_layout       what the maps of the fast plane hold: twins of bpf/layout.h
paft              flow -> application -> tunnel
owned_flows       flows by virtual address; which one makes room
sending           the last step out: into a tunnel that may be too narrow
host_forwarder    the mobile host's decision on each packet
anchor_forwarder  the anchor's
verdict           what is to be done with a packet: Outbound, Inbound, TunnelSignal
counters          one named integer a reason
"""
