"""UPMT-NF: per-application mobility for Linux hosts with several access networks.

Rooms, from the ground up (imports point down only):

    model      the nouns: flows, endpoints, applications, owned names, errors
    config     text -> checked values; never opens a file
    datapath   what happens to the bytes: packets, formats, PAFT, verdicts
    routing    where does it go: wanted routes and rules, and their difference to what is there
    classify   whose packet is it: application rules and process facts
    signaling  SIP and JSON on the wire, sans-IO
    mobility   decisions over time: association, tunnels, selection, handover
    linux      the hands: one kernel facility a file
    daemon     the heartbeat: event loop, sockets, clock, control socket
    lab        a world to try it in: network namespaces
    cli        the voice: typer, one file a noun
"""

__version__ = "0.1.0"
