"""A report as people see it: tables, sentences, figures."""
