"""How good is each ranking of source modules? `matrix` measures what transfers, `run` ranks, `report` compares."""
