"""The rows of the table, one module for each heading or two of the reference."""
