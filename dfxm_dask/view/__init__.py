"""Views: figures, reports, tables, comparisons with truth, and files for other programs, all from what stores hold."""
