"""A world to try it in: the paper's fig. 6 in network namespaces, with both daemons running. Needs root.

topology       hosts, cables, routes: the lab as data
namespaces     names, entering one, making and removing them
build          topology -> namespaces, with pyroute2
links          carrier, black holes, NAT of the gateways
shape          delay, loss and rate: netem, or what the kernel has instead
delay_line     holds packets back in user space where there is no netem
daemons        configuration, start and end of the two daemons
lab            up, down, status: all of it in the right order
demo           `make demo`: the main job, checked by what programs saw
voice_stream   a voice-like program with numbered packets
stream_report  what became of them
"""
