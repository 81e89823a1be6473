"""The web page of asynchronous inference: drop files, get a ticket, watch it, see and download the answers."""
