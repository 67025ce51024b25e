"""Several runs beside each other: where they come from, the same eleven pictures, tables, and a page."""
