"""What is on screen as files that stand alone: tables, a report, a notebook. Numbers and figures in, bytes out."""
