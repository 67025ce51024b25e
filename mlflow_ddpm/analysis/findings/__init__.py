"""Rules that look for problems in a history."""
