"""Decisions over time, sans-IO: an event and `now` in, commands out. Knows no socket and no clock.

settings         what both ends are told at their start
mobile_host      the mobile host: composes all below; host_events in, host_commands out
association      the lease of the virtual address, as the host sees it
virtual_address  the one that is configured, and what another in its place means
host_tunnel      one access network's tunnel: set up, probed, suspected, given up
tunnel_states    what a tunnel can be, as a table
silence, glances  tunnels in use that go quiet
tunnel_setups    setup requests, their answers, open tunnels
placement        which application is on which network, and what moves it
running_handovers  what the placement has begun: asks the anchor, writes PAFT
tallies          what a handover cost its flows, as both ends count it; flow_counts: the anchor's half
selection        policy and candidates -> network
handover         one handover from decision to receipt
handover_steps   when each step of it came
joint_requests   what several handovers tell the anchor at one moment, in as few requests as there is room for
applications     a named class of flows with a policy
host_signalling  the host's SIP requests and what they were for
host_answers     the anchor's answers, read
flow_requests    what the anchor is told and asked about flows, and what its answers do
host_status      the host's state as values to show
anchor           the anchor: anchor_events in, anchor_commands out
anchor_authors   hosts that speak the authors' later JSON
answer_size      how much an answer of the anchor may say
leases           who has which virtual address
forwards         wanted forwards and leases -> what is open to the world
anchor_tunnels   which association has which tunnels
anchor_notices   what hosts are told unasked
flow_moves       handover requests, obeyed
events, commands what both ends share
"""
