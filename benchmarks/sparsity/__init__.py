"""Does a SoRA keep its accuracy with fewer parameters? `run` measures, `table` and `picture` show."""
