"""Where does it go: wanted routes and rules as values, rendered in the words of `ip` and `iptables-save`.

plan        what a mobile host or an anchor wants of policy routing
difference  wanted against present: additions before deletions
rule_text   rule files -> netfilter rules, placeholders filled in
"""
