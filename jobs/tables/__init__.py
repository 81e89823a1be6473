"""Tables: reading, writing and committing them, and where the worked example's rows come from."""
