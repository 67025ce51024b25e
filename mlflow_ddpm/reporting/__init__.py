"""Words and tables of the report; no drawing."""
