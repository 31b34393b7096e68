"""The formats of results besides JSON, tables and the report: a module each."""
