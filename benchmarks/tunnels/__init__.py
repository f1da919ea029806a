"""The two datapaths beside other tunnels.

`contenders` are set up in labs, `measures` taken in interleaved `rounds`; `report` and `plot` say what came of it.
"""
