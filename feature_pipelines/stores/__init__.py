"""Online stores: the newest row of each entity of each view, for answers within milliseconds."""
