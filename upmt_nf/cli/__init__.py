"""The voice: what an administrator types. One file a noun, no logic of its own.

main       the `upmt` command: composition, errors -> one line and an exit code
daemons    `anchor run`, `mobile-host run`
enrolment  `anchor user add|list|remove|rotate`, `mobile-host enroll`
forwards   `anchor forward add|list|remove`
leases     `anchor lease list|release`
reading    `status`, `networks`, `tunnels`, `apps`, `flows`
why        `why`: from process to wire
steering   `run`, `assign`, `handover`
rules      `rules show|install|remove|verify`, `cleanup`
doctor     `doctor`
schema     `schema`: what the messages and the answers look like
lab        `lab up|down|exec|link|shape|status|demo`
reading_config  configuration files from disk
tables     values -> tables for people
"""
