"""The Spark side of the same definitions: which rows of a table are read, and how they are spread. Nothing else imports it."""
