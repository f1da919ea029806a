"""What a running stream feels of a handover.

`streams` and `moves` in labs, `analysis` of their logs, `peers` on the same cut.
"""
