"""One object for a folder, a table or a blob, wherever the data lives."""
