"""Views: figures, reports, tables, comparisons with truth, and files for other programs, all drawn from stores."""
