"""How the services reach each other and live as processes: the only I/O that they share."""
