"""Who holds the sockets: clients connect here, sign in, join rooms and get what is pushed."""
