"""A small regression model of its own, with a stored view: what tests train, serve, tamper with and kill."""
