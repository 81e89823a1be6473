"""Processes that one can start, and the tables, runs and reports behind them."""
