"""The hands: one kernel facility a file. What is changed is written to the journal first.

netlink             messages and attributes in what the kernel says
netns               which network namespace this is, and where its state lives
journal             what was changed and how it was before
cleanup             puts everything back
netfilter           rule sets in and out of iptables (python-iptables)
rule_files          finds the rule files
routes              policy routing (pyroute2)
virtual_interface   `upmt0`: tun, or the nearest thing that the kernel has (pyroute2 NDB)
tun_device          the agent's side of a tun: packets of up to 64 kB with their offload headers
sysctl              kernel parameters
cgroups             one cgroup an application
processes           socket -> process
sock_diag           flow -> socket
libbpf              eBPF objects, maps and tc programs (libbpf)
packet_queue        NFQUEUE (NetfilterQueue)
tunnel_socket       UDP sockets bound to one access network
link_monitor        carrier, addresses and gateways of the access interfaces
users               secrets in files: the users of an anchor, the secret of a host
lease_store         who had which virtual address (SQLite)
forward_store       the forwards that commands made (SQLite)
listeners           which ports programs of this host listen on
facilities          which kernel facilities there are, tried in a namespace of their own
host_facts          what `upmt doctor` must know
off_loop            netlink calls from inside an event loop
inject              ready-made packets to a sender
"""
