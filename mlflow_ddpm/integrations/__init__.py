"""Two lines for loops that frameworks run; each module imports its framework, and nothing imports these modules."""
