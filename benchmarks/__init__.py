"""Programs that measure this library beside another one in the same run, and print a table."""
