"""Sources of candidates, the indexes behind them, and their merge."""
