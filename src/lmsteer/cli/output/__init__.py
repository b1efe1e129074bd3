"""How the commands print results, for people; JSON comes from the results themselves."""
