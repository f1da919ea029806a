"""Whose packet is it: rules that name applications, facts about processes and flows, the first match.

facts    what can be known of a process
rules    application rules: conditions, first match, which ones netfilter can decide alone
"""
