"""The nouns of UPMT: values without behaviour over time. Imports nothing of the other rooms."""
