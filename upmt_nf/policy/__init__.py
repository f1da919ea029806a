"""Which network suits which application (MMOCE of the paper, section III): pure, and the same again when replayed.

quality       what is measured of a network, thresholds on it, the voice score, the weighted score
network       what is known of a network without measuring: kind, cost, protection, what it offers
civil_time    days, months and hours of the clock on the wall
budget        "200 MB/day on lte", and the ledger that counts against it; `spending`: who may go where by them
policy        one application's policy as a value: the kinds of the authors, thresholds, holds, hours
profiles      ready-made policies: voice, video-call, interactive, bulk, backup, streaming, gaming
standing      an application's memory of one network: good or bad since when, how often left
engine        events in, at most one decision per application out
verdicts      why an application is on a network or not, in words, for `upmt why`
trace         a recorded or written course of events, as JSON lines
replay        a trace against policies with a pretend clock: handovers, flaps, bytes, cost, time out of profile
drawing       a replay as SVG, on a `canvas` that the history of a network is drawn on as well

Knows neither files nor TOML (`config/policies.py` reads that), nor tunnels, nor sockets.
"""
