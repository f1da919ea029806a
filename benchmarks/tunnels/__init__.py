"""The two datapaths beside other tunnels: `contenders` set up in labs, `measures` taken in interleaved `rounds`, and a `report`."""
