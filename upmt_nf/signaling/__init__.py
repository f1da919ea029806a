"""Signalling on the wire, sans-IO: bytes and a clock in, bytes and events out.

sip/             SIP (RFC 3261): messages, parser, transactions, an endpoint
messages         the JSON bodies: tunnel setup, handover, notices (paper section VII)
flow_room        how many flows a request has room for, in words or packed
authors_json     the dialect of the authors' later implementation <-> our messages
iptables_match   the paper's match syntax, parsed strictly
schema/          JSON Schemas of the bodies, for other implementations (`upmt schema`)
stamp            measurement and keepalive packets (RFC 8762)
"""
