"""What must agree, recomputed and mended: the numbers about executions, the configurations."""
