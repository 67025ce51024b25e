"""What an experienced eye would notice in a run: one table of rules, and the rules by what they look at."""
