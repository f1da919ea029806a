"""The heartbeat: event loop, sockets, clock, control socket. Owns no decisions: it performs commands.

lifetime         a daemon process from root check to orderly end
control_server   the control socket, which is also the lock of a network namespace
control_client   how the command line asks
wake_up          one timer for a sans-IO machine
applications     which rule and cgroup makes which application; flow -> application
adoption         running flows that become another application's
host_daemon      the mobile host: machine, agent plane and kernel state put together
host_plane       its packets: queues, tunnel sockets, forwarder
host_kernel      its kernel state: interface, rules, routes, sysctls, all journalled
host_control     its commands on the control socket
asked_handovers  who waits for which handover
fast_following   what the fast plane is told after each event
explain          why a flow goes where it goes, from the process to the wire
diagnosis        `upmt doctor`: facts -> findings
doctor           has facts found and judged, and puts right what is safe
anchor_daemon, anchor_plane, anchor_kernel: the same for the anchor
anchor_forwards  what the anchor lets in from outside
reports          state -> the JSON of the reading commands; schema/ describes it (`upmt schema`)
"""
