"""Whose packet is it: rules that name applications, facts about processes and flows, the first match.

containers  which container a control group is of
facts       what can be known of a process
reasons     how an answer was found: by which mechanism, by which rule
rules       application rules: conditions, first match, which ones netfilter can decide alone
"""
