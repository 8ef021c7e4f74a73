"""The daemon: rooms around one keeper; trio, sockets, threads and signals live here."""
