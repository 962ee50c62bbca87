"""Studies: what is extracted, trained and evaluated for a table, and the table."""
