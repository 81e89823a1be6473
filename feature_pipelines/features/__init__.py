"""One module per feature set: the only files a data scientist edits."""
