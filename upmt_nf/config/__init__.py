"""Text -> checked values. Never opens a file: the caller gives the text and the name to put into errors.

toml_lines     which line of the text a key stands on
checked        text -> pydantic model, every error as `file:line: key: reason`
mobile_host    what `upmt mobile-host run --config` reads
policies       what applications ask of networks: `policy_sections` reads, `policy_objections` says what makes no sense
anchor         what `upmt anchor run --config` reads
values         the types that both share: pools, port ranges, durations
"""
